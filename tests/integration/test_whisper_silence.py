"""What holds no words: silence, noise, hum. No words come out, digital silence reaches no predictor, memory stays flat."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from tests.bench.speech import RATE, Samples, wav
from tests.integration.clips import HELLO, encoded, joined, samples, silence
from tests.pods import Pod, free_port
from tests.services import Service

NOISE_SECONDS = 31.0  # more than a window
GROWTH_MB = 40.0  # of the transformer's peak for an hour over that for a minute; an hour of samples takes 230 MB


@dataclass(frozen=True)
class Hour:
    """What came of an hour of silence."""

    answer: httpx.Response
    growth_mb: float


@pytest.fixture(scope="module")
def alone() -> Iterator[Pod]:
    """A transformer whose predictor does not exist: whatever it answers with 200 it found out by itself."""
    with Pod("transformers_pre.audio", "whisper", predictor_host=f"127.0.0.1:{free_port()}") as pod:
        yield pod.until_ready()


@pytest.fixture(scope="module", autouse=True)
def hour(alone: Pod) -> Iterator[Future[Hour]]:
    """An hour of zeros in a small FLAC file, begun with the first test of the module: it takes a core for a while."""

    def send() -> Hour:
        assert transcribe(alone, joined(silence(60))).status_code == 200
        before = alone.peak_rss_mb()
        file = encoded(silence(3600), "FLAC")
        assert len(file) < 1 << 20
        return Hour(transcribe(alone, file), alone.peak_rss_mb() - before)

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(send)


def transcribe(pod: Pod, audio: bytes) -> httpx.Response:
    fields = {"response_format": "verbose_json"}
    url = f"{pod.url}/v1/audio/transcriptions"
    return httpx.post(url, files={"file": audio}, data=fields, timeout=240, trust_env=False)


def time(seconds: float = NOISE_SECONDS) -> Any:
    return np.arange(round(seconds * RATE)) / RATE


def white(level: float) -> Samples:
    return (level * np.random.default_rng(1).standard_normal(len(time()))).astype(np.float32)


def pink() -> Samples:
    spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(len(time())))
    found = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), len(time()))
    return (0.3 * found / np.abs(found).max()).astype(np.float32)


def tone(level: float, *frequencies: float) -> Samples:
    return (level * sum(np.sin(2 * np.pi * each * time()) for each in frequencies)).astype(np.float32)


@pytest.mark.parametrize("seconds", [0, 1 / RATE, 5, 30, 60])
def test_zeros_have_no_words_and_reach_no_predictor(alone: Pod, seconds: float) -> None:
    decoded = alone.metric("sonotome_windows_total", outcome="decoded")
    answer = transcribe(alone, joined(silence(seconds)))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["text"], found["segments"], found["language"]) == ("", [], "unknown")
    assert found["duration"] == pytest.approx(seconds, abs=1e-9)
    assert alone.metric("sonotome_windows_total", outcome="decoded") == decoded == 0


@pytest.mark.parametrize(
    "noise",
    [
        white(0.001),
        white(0.1),
        white(0.3),
        pink(),
        tone(0.2, 50, 150),
        tone(0.003, 50),
        tone(0.5, 440),
        tone(0.05, 1000),
    ],
    ids=["faint white", "white", "loud white", "pink", "hum", "faint hum", "tone", "high tone"],
)
def test_noise_has_no_words(service: Service, noise: Samples) -> None:
    answer = transcribe(service.transformer, wav(noise))
    assert answer.status_code == 200
    assert (answer.json()["text"], answer.json()["segments"]) == ("", [])


def test_words_in_noise_are_still_found(service: Service) -> None:
    noisy = 0.2 * pink()
    spoken = samples(HELLO)
    noisy[RATE * 10 : RATE * 10 + len(spoken)] += spoken
    answer = transcribe(service.transformer, wav(noisy)).json()
    assert "hello" in answer["text"].lower()
    assert all(9 < segment["start"] < 12 for segment in answer["segments"])


def test_silence_in_every_protocol(alone: Pod) -> None:
    zeros = joined(silence(2))
    post = f"{alone.url}/v1/audio/transcriptions"
    for fields, body in (({"response_format": "srt"}, ""), ({"response_format": "vtt"}, "WEBVTT\n")):
        answer = httpx.post(post, files={"file": zeros}, data=fields, trust_env=False)
        assert (answer.status_code, answer.text) == (200, body)
    events = httpx.post(post, files={"file": zeros}, data={"stream": "true"}, trust_env=False)
    assert events.text.startswith('data: {"type":"transcript.text.done","text":"",')
    assert events.text.endswith("data: [DONE]\n\n")
    medium = httpx.post(f"{alone.url}/transcribe", files={"file": zeros}, trust_env=False)
    assert medium.json() == {"success": True, "text": "", "language": None, "segments_count": 0}


def test_what_is_no_language_is_refused_without_speech_too(alone: Pod) -> None:
    for language, status in (("xx", 400), ("xh", 200)):
        data = {"language": language}
        answer = httpx.post(f"{alone.url}/transcribe", files={"file": joined(silence(1))}, data=data, trust_env=False)
        assert answer.status_code == status


def test_an_hour_of_silence_in_flat_memory(alone: Pod, hour: Future[Hour]) -> None:
    found = hour.result(timeout=240)
    assert found.answer.status_code == 200
    assert (found.answer.json()["text"], found.answer.json()["duration"]) == ("", 3600.0)
    assert alone.metric("sonotome_windows_total", outcome="decoded") == 0
    assert found.growth_mb < GROWTH_MB
