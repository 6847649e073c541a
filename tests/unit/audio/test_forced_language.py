"""LANGUAGE_FORCE of the transformer: it wins over every request, and answers tell it, whether or not anybody speaks."""

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.streams import RATE, connected, pcm16
from tests.unit.audio.live import SPEECH, LivePod, heard, live_pod
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.source import Waveform
from transformers_pre.audio.transcribe import TranscriptionRequest

SILENCE = np.zeros(2 * RATE, np.float32)


@pytest.fixture
async def forced() -> AsyncIterator[LivePod]:
    """Both pods; only the transformer's setting is there."""
    async with live_pod(language_force="Persian", stream_partial_seconds=0.5) as found:
        yield found


def asked_for(pod: LivePod) -> set[str | None]:
    """The languages that the predictor is asked for from now on."""
    found: set[str | None] = set()
    pod.engine.before = lambda items: found.update(item.options.language for item in items)
    return found


@pytest.mark.parametrize("samples", [SPEECH, SILENCE], ids=["speech", "silence"])
@pytest.mark.parametrize("asked", ["en", None])
async def test_recordings(forced: LivePod, samples: np.ndarray, asked: str | None) -> None:
    languages = asked_for(forced)
    request = TranscriptionRequest(Waveform(samples), language=asked, per_window_language=asked is None)
    transcript = await forced.transcriber.transcribe(request, {})
    assert transcript.language == "fa"
    assert languages == ({"fa"} if samples is SPEECH else set())


async def test_live_audio(forced: LivePod) -> None:
    languages = asked_for(forced)
    await heard(forced, SPEECH, language="en")
    assert languages == {"fa"}


async def test_partial_texts_of_live_audio(forced: LivePod) -> None:
    languages = asked_for(forced)
    partial = False
    async with connected(forced.url("/vosk"), {"sample_rate": RATE}) as socket:
        for block in np.split(SPEECH[: len(SPEECH) // 3200 * 3200], len(SPEECH) // 3200):
            await socket.send(pcm16(block))
            partial = partial or bool(json.loads(await socket.recv()).get("partial"))
            await asyncio.sleep(0.01)  # while the predictor answers
    assert partial
    assert languages == {"fa"}


async def test_silence_without_the_setting_has_the_language_of_the_request(pod: LivePod) -> None:
    request = TranscriptionRequest(Waveform(SILENCE), language="en")
    assert (await pod.transcriber.transcribe(request, {})).language == "en"


def test_what_is_no_language_is_refused() -> None:
    with pytest.raises(ValueError, match="ISO-639-1"):
        AudioSettings(model_name="m", language_force="klingon")
