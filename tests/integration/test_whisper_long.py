"""Recordings longer than a window: one text in every format, no phrase lost or doubled at a cut, nothing mixed up under load.

The predictor decodes greedily and without its ladder, which draws at random: the same window gives the same words.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import openai
import openai.types.audio as openai_types
import pytest
from pydantic import TypeAdapter

from tests.bench.speech import RATE, Clip, Samples, speech, wav
from tests.integration.clips import COUNTING, FOX, FRENCH, HELLO, SPANISH, call_samples, clip, joined, silence, words
from tests.services import Service, whisper

LONG_SECONDS = 244
CLIENTS = [HELLO, FOX, COUNTING, FRENCH, SPANISH, "fr/comptage", "es/conteo", "pt/contagem"]
SENTENCES = {HELLO: "hello", FOX: "fox", FRENCH: "whisky", SPANISH: "kiwi"}
"""A word that only this one of the clients says."""


@pytest.fixture(scope="module")
def steady() -> Iterator[Service]:
    with whisper(env={"TEMPERATURES": "0", "BEAM_SIZE": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(steady: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{steady.url}/v1", api_key="none", max_retries=0, timeout=240) as made:
        yield made


def verbose(client: openai.OpenAI, audio: bytes) -> openai_types.TranscriptionVerbose:
    granularities: list[Any] = ["segment", "word"]
    create = client.audio.transcriptions.with_raw_response.create
    raw = create(file=audio, model="w", response_format="verbose_json", timestamp_granularities=granularities)
    return TypeAdapter(openai_types.TranscriptionVerbose).validate_json(raw.http_response.content, strict=True)


def check(read: openai_types.TranscriptionVerbose, recording: Samples, placed: list[Clip]) -> None:
    """One text, times in order inside the recording, and what was said where it was said."""
    segments, listed, seconds = read.segments or [], read.words or [], len(recording) / RATE
    assert "".join(segment.text for segment in segments) == read.text
    assert "".join(word.word for word in listed) == read.text.replace(" ", "")
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert (read.duration, read.language) == (seconds, "english")
    assert all(a.end <= b.start + 0.001 for a, b in pairwise(segments))
    assert all(0 <= part.start <= part.end <= seconds for part in (*segments, *listed))
    put = [place.start / RATE for place in placed if place.name == "quick_brown_fox"]
    found = [word.start for word in listed if word.word.lower().startswith("fox")]
    assert all(any(0 < time - start < 2 for time in found) for start in put)
    assert len(found) - len(put) in (0, 1)  # the last one may be cut off by the end


def test_a_recording_of_two_windows_has_one_text(client: openai.OpenAI) -> None:
    recording, placed = speech(39)
    audio = wav(recording)
    read = verbose(client, audio)
    check(read, recording, placed)
    assert len(words(read.text)) > 80
    create = client.audio.transcriptions.create
    assert create(file=audio, model="w").text == read.text
    *deltas, done = create(file=audio, model="w", stream=True)
    assert "".join(event.delta for event in deltas) == done.text == read.text


def test_a_long_recording_has_one_text_and_comes_as_it_is_decoded(client: openai.OpenAI, steady: Service) -> None:
    recording, placed = speech(LONG_SECONDS)
    audio = wav(recording)
    read = verbose(client, audio)
    check(read, recording, placed)

    def begun() -> float:
        return steady.predictor.metric("sonotome_batch_size_sum", model_name="whisper")

    before, taken, text = begun(), [], ""
    for event in client.audio.transcriptions.create(file=audio, model="w", stream=True):
        if event.type == "transcript.text.delta":
            text += event.delta
            taken.append(begun() - before)
        else:
            assert event.text == text == read.text
    assert taken[0] < taken[-1] / 2  # windows that the predictor had begun by then


@pytest.mark.parametrize("offset", [0.0, 7.0])
def test_no_phrase_is_lost_or_doubled_at_a_cut(client: openai.OpenAI, offset: float) -> None:
    # Ten times the same 16 s, so that cuts fall at other words each time (vLLM's test_long_audio_request, made harder).
    phrase = np.concatenate([call_samples()[int(12.5 * RATE) : int(28.43 * RATE)], silence(0.1)])
    found = words(client.audio.transcriptions.create(file=joined(silence(offset), *[phrase] * 10), model="w").text)
    counts = {word: found.count(word) for word in ("texas", "yankee", "difference", "chicago", "originally")}
    assert counts == {"texas": 10, "yankee": 10, "difference": 10, "chicago": 20, "originally": 20}


def test_eight_clients_at_once_get_what_each_gets_alone(steady: Service) -> None:
    def ask(name: str) -> tuple[int, str]:
        url = f"{steady.url}/v1/audio/transcriptions"
        answer = httpx.post(url, files={"file": clip(name)}, timeout=240, trust_env=False)
        return answer.status_code, answer.json()["text"]

    alone = [ask(name) for name in CLIENTS]
    batches = steady.predictor.metric("sonotome_batch_size_count", model_name="whisper")
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        together = list(threads.map(ask, CLIENTS))
    assert together == alone
    assert [status for status, _ in alone] == [200] * len(CLIENTS)
    texts = {name: text.lower() for name, (_, text) in zip(CLIENTS, alone, strict=True)}
    for own, word in SENTENCES.items():  # and the others count, which may be written alike in four languages
        assert [name for name, text in texts.items() if word in text] == [own]
    batches = steady.predictor.metric("sonotome_batch_size_count", model_name="whisper") - batches
    assert batches < len(CLIENTS)  # some of them shared a batch
