"""The audio transformer as a KServe model: V1 and V2 in, the pipeline of `transcribe`, V1 and V2 out.

The public routes (OpenAI's, the original services') call the same `Transcriber` themselves.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import orjson
from kserve import InferRequest, InferResponse, Model

from serving import v2
from serving.contracts import asr
from serving.errors import InvalidInput, TooLarge
from serving.threads import in_turn, pieces_of_base64
from transformers_pre.audio.fetch import fetch
from transformers_pre.audio.forms import ProtocolForm
from transformers_pre.audio.media import SAMPLE_RATE, DecoderPool
from transformers_pre.audio.merge import Transcript
from transformers_pre.audio.predictor import KnownPredictor
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.spool import Spool
from transformers_pre.audio.transcribe import SAMPLE_RATES, Transcriber, TranscriptionRequest, Waveform

_PIECE = 1 << 18  # bytes that are copied at a time

Job = tuple[Any, list[TranscriptionRequest], contextlib.ExitStack, Mapping[str, str]]


class SpeechTransformer(Model):  # type: ignore[misc]  # kserve ships no types
    """Transcribes recordings: V1 `instances` and V2 `AUDIO_FILE` or `AUDIO`.

    It is ready once its decoders run. The predictor is woken as this pod starts, so that both come up from zero
    together, but it is not waited for: KServe scales the two apart.
    """

    def __init__(self, transcriber: Transcriber, client: KnownPredictor, media: DecoderPool, settings: AudioSettings):
        super().__init__(settings.model_name)
        self.dead = asyncio.Event()
        self._transcriber = transcriber
        self._client = client
        self._media = media
        self._settings = settings

    async def start_up(self) -> None:
        """Wakes the predictor, then starts the decoders."""
        self._client.wake()
        await self._media.start()
        self.ready = True

    async def shut_down(self) -> None:
        """Stops the decoders and closes the connections to the predictor."""
        self.ready = False
        await self._media.close()
        await self._client.close()

    def health(self) -> dict[str, Any]:
        """The predictor's device and whether its model is loaded, as far as this pod knows without asking."""
        return self._client.known()

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
        self._check_count(len(instances))
        found = []
        for index, instance in enumerate(instances):
            source = uploads.enter_context(await self._v1_source(instance, f"instances[{index}]"))
            found.append(form.request(source, form.task))
        return found

    async def _v1_source(self, instance: Any, where: str) -> BinaryIO:
        audio = instance.get("audio", instance) if isinstance(instance, dict) else None
        if isinstance(audio, dict) and isinstance(audio.get("url"), str):
            return await fetch(audio["url"], self._settings.fetch_limits())
        if not isinstance(audio, dict) or not isinstance(audio.get("b64"), str):
            raise InvalidInput(f"{where} must be {{'audio': {{'b64': …}}}} or {{'url': …}}", param=where)
        param = f"{where}.audio.b64"
        return await self._spooled(_from_base64(audio["b64"], param), param)

    async def _spooled(self, pieces: Iterable[bytes | memoryview], param: str) -> BinaryIO:
        with Spool(self._settings.max_upload_bytes, param) as recording:
            await recording.fill(pieces)
            return await recording.finish()

    def _check_count(self, count: int) -> None:
        most = self._settings.max_instances
        if not count:
            raise InvalidInput(f"the request holds no recording, 1 to {most} are accepted", code="no_recordings")
        if count > most:
            raise TooLarge(
                f"the request holds {count} recordings, 1 to {most} are accepted (MAX_INSTANCES)",
                code="too_many_recordings",
            )

    async def _read_v2(self, request: InferRequest, uploads: contextlib.ExitStack) -> list[TranscriptionRequest]:
        parameters = v2.parameters(request)
        form = ProtocolForm.from_values(parameters)
        tensors = await in_turn(lambda: v2.tensors(request))
        if tensors.keys() >= {"AUDIO_FILE", "AUDIO"}:
            raise InvalidInput("send 'AUDIO_FILE' or 'AUDIO', not both", param="inputs")
        if (files := tensors.get("AUDIO_FILE")) is not None:
            if files.dtype != np.object_:
                raise InvalidInput("'AUDIO_FILE' must be BYTES: encoded recordings", param="AUDIO_FILE")
            self._check_count(files.size)
            found = []
            for data in files.ravel():
                source = uploads.enter_context(await self._spooled(_slices(data), "AUDIO_FILE"))
                found.append(form.request(source, form.task))
            return found
        if "AUDIO" not in tensors:
            raise InvalidInput("an input 'AUDIO_FILE' (BYTES [N]) or 'AUDIO' (FP32 [N, S]) is needed", param="inputs")
        rate = _sample_rate(parameters.get("sample_rate", SAMPLE_RATE))
        audio = np.atleast_2d(tensors["AUDIO"])  # one recording may come as [S]
        self._check_count(len(audio))
        rows = await in_turn(lambda: asr.rows(audio, tensors.get("LENGTHS")))
        return [form.request(Waveform(row, rate), form.task) for row in rows]


def _prediction(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": transcript.duration,
        "segments": [segment.model_dump(exclude_none=True) for segment in transcript.segments],
    }


def _from_base64(text: str, param: str) -> Iterator[bytes]:
    """`pieces_of_base64` of the field `param`. Raises InvalidInput."""
    try:
        yield from pieces_of_base64(text)
    except ValueError:
        raise InvalidInput(f"{param} is not base64", param=param) from None


def _slices(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))


def _sample_rate(value: Any) -> int:
    try:
        rate = int(value)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if rate not in SAMPLE_RATES:
        accepted = f"{SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} Hz"
        raise InvalidInput(f"sample_rate must be {accepted}, got {str(value)[:20]}", param="sample_rate")
    return rate
