"""Live speech: how long after its end the final text comes, and what a stream costs."""

import asyncio
import itertools
import json
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import psutil

from tests.bench.report import Section
from tests.russian import joined, sentences
from tests.services import Service, kaldi
from tests.streams import EOF, RATE, connected, pcm16

STREAMS = (1, 16, 64)
SENTENCES = 8  # a stream: half a minute
PAUSE_SECONDS = 0.8
PACKET = RATE // 10  # samples
THREADS = 1


@dataclass
class _Stream:
    """One client's speech, and when the final text of each sentence came after its end."""

    samples: np.ndarray
    ends: list[float]
    """Where each sentence ends, in seconds."""
    latencies: list[float] = field(default_factory=list)

    @classmethod
    def made(cls, seed: int) -> "_Stream":
        _, sounds = sentences(SENTENCES, seed=seed)
        lengths = [len(sound) / RATE for sound in sounds]
        starts = itertools.accumulate((length + PAUSE_SECONDS for length in lengths), initial=0.0)
        return cls(joined(sounds, PAUSE_SECONDS), [a + b for a, b in zip(starts, lengths, strict=False)])

    async def speak(self, url: str, delay: float) -> None:
        """Sends the speech as slowly as it was spoken."""
        data = pcm16(self.samples)
        sent: list[float] = []  # when each packet was
        async with connected(url, {"sample_rate": RATE, "wait_null_answers": False}) as socket:
            reading = asyncio.create_task(self._read(socket, sent))
            begun = time.monotonic() + delay
            for number in range(-(-len(data) // (2 * PACKET))):
                due = begun + (number + 1) * PACKET / RATE  # when its last sample was spoken
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await socket.send(data[2 * PACKET * number : 2 * PACKET * (number + 1)])
                sent.append(time.monotonic())
            await socket.send(EOF)
            await reading

    async def _read(self, socket: object, sent: list[float]) -> None:
        async for message in socket:  # type: ignore[attr-defined]
            now, answer = time.monotonic(), json.loads(message)
            if words := answer["data"]["result"]:
                end = min(self.ends, key=lambda each: abs(each - words[-1]["end"]))
                self.latencies.append(now - sent[min(len(sent) - 1, int(end * RATE) // PACKET)])


def _cpu_seconds(service: Service) -> float:
    processes = [psutil.Process(pod.process.pid) for pod in (service.predictor, service.transformer)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _latency(section: Section) -> None:
    for count in STREAMS:
        with kaldi("gigaam", THREADS) as service:
            streams = [_Stream.made(seed) for seed in range(min(count, 16))]
            streams = [_Stream(each.samples, each.ends) for each in itertools.islice(itertools.cycle(streams), count)]

            async def all_at_once(service: Service = service, streams: list[_Stream] = streams) -> None:
                url = f"{service.live_url}/ws"
                delays = np.random.default_rng(0).uniform(0, 3, len(streams))
                await asyncio.gather(
                    *(each.speak(url, float(delay)) for each, delay in zip(streams, delays, strict=True))
                )

            asyncio.run(_Stream.made(99).speak(f"{service.live_url}/ws", 0.0))  # what is loaded with the first
            before = _cpu_seconds(service)
            asyncio.run(all_at_once())
            spent = _cpu_seconds(service) - before
            seconds = sum(len(each.samples) for each in streams) / RATE
            latencies = sorted(latency for each in streams for latency in each.latencies)
            what = f"{count} stream{'s' * (count > 1)}"
            p50, p95 = statistics.median(latencies), latencies[int(0.95 * (len(latencies) - 1))]
            section.row(f"{what}: end of speech → final text, p50 / p95", f"{p50:.2f} / {p95:.2f} s")
            section.row(f"{what}: finals of {count * SENTENCES}", str(len(latencies)))
            section.row(f"{what}: CPU a stream, both pods", f"{spent / seconds:.1%} of a core")
            peaks = f"{service.predictor.peak_rss_mb():.0f} + {service.transformer.peak_rss_mb():.0f} MB"
            section.row(f"{what}: peak RSS, predictor + transformer", peaks)


def run() -> Section:
    """The section for the report."""
    section = Section(
        "Live speech",
        f"Both pods, the small GigaAM model, {THREADS} thread; {SENTENCES} sentences a stream, {PAUSE_SECONDS:g} s apart, sent "
        f"as they are spoken in packets of {1000 * PACKET // RATE} ms. A sentence ends by a pause of 0.5 s, in the times too.",
    )
    _latency(section)
    return section
