"""TIMESTAMPS=none of the predictor, through the transformer: texts as ever, times of the windows, words by no invention."""

import base64
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.clips import HELLO, clip, words
from tests.services import Service, whisper


@pytest.fixture(scope="module")
def without() -> Iterator[Service]:
    with whisper(env={"TIMESTAMPS": "none", "BEAM_SIZE": "1"}) as running:
        yield running


def test_text_and_segments_are_answered(without: Service) -> None:
    answer = without.transcribe(clip(HELLO), language="en", response_format="verbose_json").json()
    (segment,) = answer["segments"]
    assert words(answer["text"]) == words(segment["text"]) == ["hello", "world"]
    assert 0 <= segment["start"] < segment["end"] <= answer["duration"]


def test_times_of_words_are_refused(without: Service) -> None:
    wanted = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = without.transcribe(clip(HELLO), language="en", **wanted)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_word_times"
    audio = {"b64": base64.b64encode(clip(HELLO)).decode()}
    body = {"instances": [{"audio": audio}], "parameters": {"timestamps": "word"}}
    v1 = httpx.post(f"{without.url}/v1/models/whisper:predict", json=body, timeout=120)
    assert v1.status_code == 400
    assert "gives none" in v1.json()["error"]
