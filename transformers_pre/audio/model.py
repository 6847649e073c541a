"""The audio transformer as a KServe model: V1 and V2 in, the pipeline of `transcribe`, V1 and V2 out.

The public routes (OpenAI's, the original services') call the same `Transcriber` themselves.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from kserve import InferRequest, InferResponse, Model

from serving import v2
from serving.errors import InvalidInput, PredictorUnavailable, TooLarge
from serving.hop import PredictorClient
from transformers_pre.audio import fetch, upload
from transformers_pre.audio.forms import ProtocolForm
from transformers_pre.audio.media import SAMPLE_RATE, DecoderPool
from transformers_pre.audio.merge import Transcript
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber, TranscriptionRequest, Waveform
from transformers_pre.audio.upload import Upload

logger = logging.getLogger(__name__)

MAX_INSTANCES = 64
"""Recordings of one V1 or V2 request; each costs a decode and a queue place at the predictor."""
_WAKE_SECONDS = 5.0  # one try of the predictor's health; it may be starting from zero
_RATES = (4_000, 192_000)

Job = tuple[Any, list[TranscriptionRequest], contextlib.ExitStack, Mapping[str, str]]


class SpeechTransformer(Model):  # type: ignore[misc]  # kserve ships no types
    """Transcribes recordings: V1 `instances` and V2 `AUDIO_FILE` or `AUDIO`.

    It is ready once its decoders run. The predictor is woken as this pod starts, so that both come up from zero
    together, but it is not waited for: KServe scales the two apart.
    """

    def __init__(self, transcriber: Transcriber, client: PredictorClient, media: DecoderPool, settings: AudioSettings):
        super().__init__(settings.model_name)
        self._transcriber = transcriber
        self._client = client
        self._media = media
        self._settings = settings
        self._predictor: dict[str, Any] = {"device": None, "model_loaded": False}
        self._waking: asyncio.Task[None] | None = None

    async def start_up(self) -> None:
        """Starts the decoders and wakes the predictor."""
        await self._media.start()
        self._waking = asyncio.create_task(self._wake())
        self.ready = True

    async def shut_down(self) -> None:
        """Stops the decoders and closes the connections to the predictor."""
        self.ready = False
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        await self._media.close()
        await self._client.close()

    def health(self) -> dict[str, Any]:
        """The predictor's device and whether its model was loaded, as it said when this pod started."""
        return dict(self._predictor)

    async def _wake(self) -> None:
        pause = 0.1
        while True:
            try:
                state = await self._client.health(_WAKE_SECONDS)
            except PredictorUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            else:
                self._predictor = {"device": state.get("device"), "model_loaded": bool(state.get("model_loaded"))}
                return

    def load(self) -> bool:
        """KServe calls this for a request to a model that is not ready; `start_up` does the starting."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: encoded files, or samples."""
        return [
            {"name": "AUDIO_FILE", "datatype": "BYTES", "shape": [-1]},
            {"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "LENGTHS", "datatype": "INT32", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata; `SEGMENTS` is JSON."""
        return [
            {"name": "TEXT", "datatype": "BYTES", "shape": [-1]},
            {"name": "LANGUAGE", "datatype": "BYTES", "shape": [-1]},
            {"name": "DURATION", "datatype": "FP32", "shape": [-1]},
            {"name": "SEGMENTS", "datatype": "BYTES", "shape": [-1]},
        ]

    def validate(self, payload: Any) -> Any:
        """KServe checks the shape of V1 and V2 bodies here; `preprocess` has done so."""
        return payload

    async def preprocess(self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None) -> Job:
        """The recordings of a request and what is asked of them. Raises InvalidInput, TooLarge and what a link gives."""
        with contextlib.ExitStack() as uploads:
            if isinstance(payload, InferRequest):
                requests = await self._read_v2(payload, uploads)
            else:
                requests = await self._read_v1(payload, uploads)
            return payload, requests, uploads.pop_all(), headers or {}

    async def predict(self, payload: Job, headers: dict[str, str] | None = None) -> tuple[Any, list[Transcript]]:
        """The transcripts, in the order of the recordings; one that fails fails the request."""
        request, wanted, uploads, sent = payload
        tasks = [asyncio.create_task(self._transcriber.transcribe(each, sent)) for each in wanted]
        with uploads:
            try:
                return request, await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def postprocess(
        self, result: tuple[Any, list[Transcript]], headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """The transcripts in the protocol of the request."""
        request, transcripts = result
        if not isinstance(request, InferRequest):
            return {"predictions": [_prediction(transcript) for transcript in transcripts]}
        segments = [[segment.model_dump(exclude_none=True) for segment in each.segments] for each in transcripts]
        arrays = {
            "TEXT": v2.bytes_array([transcript.text.encode() for transcript in transcripts]),
            "LANGUAGE": v2.bytes_array([(transcript.language or "").encode() for transcript in transcripts]),
            "DURATION": np.array([transcript.duration for transcript in transcripts], np.float32),
            "SEGMENTS": v2.bytes_array([orjson.dumps(each) for each in segments]),
        }
        return v2.response(request, self.name, arrays)

    async def _read_v1(self, body: dict[str, Any], uploads: contextlib.ExitStack) -> list[TranscriptionRequest]:
        form = ProtocolForm.from_values(body.get("parameters") or {})
        instances = body["instances"]
        _check_count(len(instances))
        found = []
        for index, instance in enumerate(instances):
            source = await self._v1_source(instance, f"instances[{index}]")
            uploads.callback(source.close)
            found.append(form.request(source, form.task))
        return found

    async def _v1_source(self, instance: Any, where: str) -> Upload:
        audio = instance.get("audio", instance) if isinstance(instance, dict) else None
        if isinstance(audio, dict) and isinstance(audio.get("url"), str):
            return await fetch.fetch(audio["url"], self._settings.fetch_limits())
        if not isinstance(audio, dict) or not isinstance(audio.get("b64"), str):
            raise InvalidInput(f"{where} must be {{'audio': {{'b64': …}}}} or {{'url': …}}", param=where)
        try:
            data = await asyncio.to_thread(_from_base64, audio["b64"])
        except (binascii.Error, ValueError):
            raise InvalidInput(f"{where}.audio.b64 is not base64", param=f"{where}.audio.b64") from None
        return await self._spooled(data)

    async def _spooled(self, data: bytes) -> Upload:
        """The recording on disk. A client that leaves while a thread writes it leaves nothing there."""
        writing = asyncio.create_task(asyncio.to_thread(upload.spool, data, self._settings.max_upload_bytes))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(_discard)
            raise

    async def _read_v2(self, request: InferRequest, uploads: contextlib.ExitStack) -> list[TranscriptionRequest]:
        parameters = v2.parameters(request)
        form = ProtocolForm.from_values(parameters)
        tensors = await asyncio.to_thread(v2.tensors, request)
        if tensors.keys() >= {"AUDIO_FILE", "AUDIO"}:
            raise InvalidInput("send 'AUDIO_FILE' or 'AUDIO', not both", param="inputs")
        if (files := tensors.get("AUDIO_FILE")) is not None:
            if files.dtype != np.object_:
                raise InvalidInput("'AUDIO_FILE' must be BYTES: encoded recordings", param="AUDIO_FILE")
            _check_count(files.size)
            found = []
            for data in files.ravel():
                source = await self._spooled(data)
                uploads.callback(source.close)
                found.append(form.request(source, form.task))
            return found
        if "AUDIO" not in tensors:
            raise InvalidInput("an input 'AUDIO_FILE' (BYTES [N]) or 'AUDIO' (FP32 [N, S]) is needed", param="inputs")
        rate = _sample_rate(parameters.get("sample_rate", SAMPLE_RATE))
        rows = await asyncio.to_thread(_rows, tensors)
        _check_count(len(rows))
        return [form.request(Waveform(row, rate), form.task) for row in rows]


def _prediction(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": transcript.duration,
        "segments": [segment.model_dump(exclude_none=True) for segment in transcript.segments],
    }


def _check_count(count: int) -> None:
    if not count:
        raise InvalidInput(f"the request holds no recording, 1 to {MAX_INSTANCES} are accepted", code="no_recordings")
    if count > MAX_INSTANCES:
        raise TooLarge(
            f"the request holds {count} recordings, 1 to {MAX_INSTANCES} are accepted", code="too_many_recordings"
        )


def _discard(written: asyncio.Task[Upload]) -> None:
    if written.exception() is None:
        written.result().close()


def _from_base64(text: str) -> bytes:
    """In a thread: 25 MB take half a second. Raises ValueError."""
    return base64.b64decode("".join(text.split()), validate=True)


def _rows(tensors: Mapping[str, v2.Array]) -> list[v2.Array]:
    """Each recording's own samples. In a thread: looking through an hour takes 0.1 s. Raises InvalidInput."""
    audio, lengths = tensors["AUDIO"], tensors.get("LENGTHS")
    if audio.ndim == 1:
        audio = audio[None]
    if audio.dtype != np.float32 or audio.ndim != 2 or not np.isfinite(audio).all():
        raise InvalidInput("'AUDIO' must be finite FP32 of shape [N, S]: mono samples in [-1, 1]", param="AUDIO")
    if lengths is None:
        return list(audio)
    if lengths.shape != (len(audio),) or not np.issubdtype(lengths.dtype, np.integer):
        raise InvalidInput(f"'LENGTHS' must be INT32 of shape [{len(audio)}]", param="LENGTHS")
    if len(lengths) and not (lengths.min() >= 0 and lengths.max() <= audio.shape[1]):
        raise InvalidInput(f"'LENGTHS' must lie in 0..{audio.shape[1]}", param="LENGTHS")
    return [row[:length] for row, length in zip(audio, lengths, strict=True)]


def _sample_rate(value: Any) -> int:
    lowest, highest = _RATES
    try:
        rate = int(value)
    except (TypeError, ValueError):
        rate = 0
    if not lowest <= rate <= highest:
        raise InvalidInput(f"sample_rate must be {lowest} to {highest} Hz, got {str(value)[:20]}", param="sample_rate")
    return rate
