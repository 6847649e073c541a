"""(a) The service end to end against the faster-whisper library, and (d) sixteen clients at once against one."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import jiwer

from tests.bench.memory import own_peak_mb
from tests.bench.report import Section
from tests.bench.speech import RATE, speech, wav
from tests.services import Service

THREADS = 2
ROUNDS = 3
CLIENTS = 16
CLIENT_SECONDS = 45.0
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PLAIN = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.SubstituteWords({word: str(number) for number, word in enumerate(_NUMBERS, start=1)}),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
    ]
)


def plain_words(text: str) -> str:
    """The words without case and punctuation, the recordings' numbers as digits: decoders write them either way."""
    return str(_PLAIN(text))


def against_the_library(running: Service) -> Section:
    """(a) One ten-minute file, three ways, interleaved."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from predictors.whisper import weights

    samples, clips = speech(600.0)
    said = plain_words(" ".join(clip.text for clip in clips))
    audio = wav(samples)
    model = WhisperModel(
        str(weights.for_ctranslate2("demo:whisper-base")), device="cpu", compute_type="int8", cpu_threads=THREADS
    )
    batched = BatchedInferencePipeline(model)

    def library() -> str:
        return "".join(segment.text for segment in model.transcribe(samples, beam_size=5)[0])

    def pipeline() -> str:
        return "".join(segment.text for segment in batched.transcribe(samples, beam_size=5, batch_size=8)[0])

    ways = {"service": lambda: running.transcribe(audio).json()["text"], "library": library, "pipeline": pipeline}
    times: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, str] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.perf_counter()
            texts[name] = plain_words(way())
            times[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(values) for name, values in times.items()}
    section = Section(
        "The service against the library",
        "Ten minutes of speech, Whisper-base int8, 2 threads, beam 5: both pods over HTTP against faster-whisper in one process.",
    )
    for name, label in (
        ("service", "service"),
        ("library", "faster-whisper, transcribe"),
        ("pipeline", "BatchedInferencePipeline, batch 8"),
    ):
        section.row(f"{label}, median of {ROUNDS}", f"{median[name]:.1f} s, {600 / median[name]:.1f}x real time")
    section.row("service / transcribe (goal ≤ 1.15)", f"{median['service'] / median['library']:.2f}")
    section.row("service / BatchedInferencePipeline", f"{median['service'] / median['pipeline']:.2f}")
    section.row(
        f"word error rate, {len(said.split())} words: service / transcribe / pipeline",
        " / ".join(f"{jiwer.wer(said, texts[name]):.1%}" for name in ways),
    )
    pods = f"{running.predictor.peak_rss_mb():.0f} + {running.transformer.peak_rss_mb():.0f}"
    section.row("peak RSS: predictor + transformer / library process", f"{pods} / {own_peak_mb():.0f} MB")
    return section


def many_clients(running: Service) -> Section:
    """(d) Sixteen clients at once, each with its own file, against the same files one after the other."""
    files = [wav(speech(CLIENT_SECONDS, seed)[0]) for seed in range(CLIENTS)]
    begun = time.perf_counter()
    alone = [plain_words(running.transcribe(file).json()["text"]) for file in files]
    one = time.perf_counter() - begun
    latencies: list[float] = []

    def client(file: bytes) -> str:
        started = time.perf_counter()
        text = running.transcribe(file).json()["text"]
        latencies.append(time.perf_counter() - started)
        return plain_words(text)

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(client, files))
    many = time.perf_counter() - begun
    audio = CLIENTS * len(files[0]) / 2 / RATE
    errors = jiwer.process_words(alone, together)
    latencies.sort()
    section = Section(
        "Sixteen clients at once", f"{CLIENTS} files of {CLIENT_SECONDS:g} s each, at once against one by one."
    )
    section.row(
        "p50 / p95 of a request", f"{statistics.median(latencies):.1f} / {latencies[int(0.95 * CLIENTS)]:.1f} s"
    )
    section.row("answers", f"{len(together)} of {CLIENTS}")
    section.row("audio seconds a second, one client / sixteen", f"{audio / one:.1f} / {audio / many:.1f}")
    section.row("throughput, sixteen / one", f"{one / many:.2f}")
    section.row(
        "words that differ from the answers one by one",
        f"{errors.substitutions + errors.deletions + errors.insertions} of {sum(len(text.split()) for text in alone)}",
    )
    return section
