"""A decoder that stops in the middle of speech loses nothing, whatever TIMESTAMPS says: real weights, a decoding cut short."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jiwer
import numpy as np
import pytest
from kserve import InferRequest, InferResponse

from predictors.whisper.backends.ctranslate2 import CTranslate2Backend
from predictors.whisper.fallback import Decoding
from predictors.whisper.recognizer import WhisperRecognizer
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import Window
from serving.contracts import asr
from serving.contracts.asr import AsrResult
from serving.deadline import Deadline
from serving.hop import PredictorClient
from tests.bench.service import plain_words
from tests.bench.speech import speech
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.source import Waveform
from transformers_pre.audio.transcribe import Transcriber, TranscriptionRequest

LONG_SECONDS = 15.0


class Stopping(CTranslate2Backend):
    """Of a long window it tells the sentences of its first half, as decoders do that stop early."""

    stopped = 0

    def decode(self, encoded: Any, rows: Sequence[int], parts: Sequence[Window], temperature: float) -> list[Decoding]:
        found = super().decode(encoded, rows, parts, temperature)
        return [self._cut(each, window) for each, window in zip(found, parts, strict=True)]

    def _cut(self, decoding: Decoding, window: Window) -> Decoding:
        if window.duration < LONG_SECONDS:
            return decoding
        beginnings = [decoding.tokens[:count] for count in range(len(decoding.tokens) // 2, 0, -1)]
        told = next((each for each in beginnings if self.vocabulary.text(each).endswith(".")), decoding.tokens)
        self.stopped += told != decoding.tokens
        return replace(decoding, tokens=told, text=self.vocabulary.text(told))


class InProcess(PredictorClient):
    """The predictor without a socket."""

    def __init__(self, engine: WhisperRecognizer[Any]):
        super().__init__("nowhere", "whisper")
        self._engine = engine

    async def infer(self, request: InferRequest, headers: Mapping[str, str], deadline: Deadline) -> InferResponse:
        results = self._engine.run(asr.read_request(request))
        return asr.write_response([each for each in results if isinstance(each, AsrResult)], request, "whisper")


@pytest.fixture(params=["auto", "none", "segments"])
def backend_and_client(request: pytest.FixtureRequest) -> Iterator[tuple[Stopping, PredictorClient]]:
    settings = WhisperSettings(model_id="demo:whisper-base", device="cpu", beam_size=1, timestamps=request.param)
    backend = Stopping(settings)
    engine = WhisperRecognizer(backend, settings)
    engine.load()
    yield backend, InProcess(engine)
    engine.close()


async def test_nothing_is_lost(backend_and_client: tuple[Stopping, PredictorClient]) -> None:
    backend, client = backend_and_client
    samples, clips = speech(28.0)
    settings = AudioSettings()
    transcriber = Transcriber(client, DecoderPool(settings.media_limits()), settings)
    request = TranscriptionRequest(Waveform(np.ascontiguousarray(samples)), language="en")
    transcript = await transcriber.transcribe(request, {})
    assert backend.stopped
    said = plain_words(" ".join(clip.text for clip in clips))
    heard = plain_words(transcript.text.replace("-", " "))  # "1-2-3"
    assert jiwer.wer(said, heard) < 0.1
    assert transcript.segments[-1].end == pytest.approx(27, abs=1)
