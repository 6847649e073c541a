"""The audio transformer as a KServe model: V1 and V2 in, the pipeline of `transcribe`, V1 and V2 out.

The public routes (OpenAI's, the original services') call the same `Transcriber` themselves.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from kserve import InferRequest, InferResponse

from serving import v2
from serving.known_predictor import KnownPredictor
from serving.transformer import Transformer
from transformers_pre.audio import instances
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.forms import ProtocolForm
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.merge import Transcript
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber, TranscriptionRequest


class SpeechTransformer(Transformer[TranscriptionRequest, Transcript]):
    """Transcribes recordings: V1 `instances` and V2 `AUDIO_FILE` or `AUDIO`. Its workers are the decoders."""

    def __init__(
        self,
        transcriber: Transcriber,
        client: KnownPredictor,
        media: DecoderPool,
        containers: ContainerPool,
        settings: AudioSettings,
    ):
        super().__init__(settings.model_name, client, media, containers)
        self._transcriber = transcriber
        self._settings = settings

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: encoded files, or samples."""
        return instances.INPUT_TYPES

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata; `SEGMENTS` is JSON."""
        return [
            {"name": "TEXT", "datatype": "BYTES", "shape": [-1]},
            {"name": "LANGUAGE", "datatype": "BYTES", "shape": [-1]},
            {"name": "DURATION", "datatype": "FP32", "shape": [-1]},
            {"name": "SEGMENTS", "datatype": "BYTES", "shape": [-1]},
        ]

    async def read_v1(self, body: dict[str, Any], resources: contextlib.ExitStack) -> list[TranscriptionRequest]:
        """The recordings of `instances`."""
        form = ProtocolForm.from_values(body.get("parameters") or {})
        recordings = await instances.of_v1(body, self._settings, resources)
        return [form.request(each, form.task) for each in recordings]

    async def read_v2(self, request: InferRequest, resources: contextlib.ExitStack) -> list[TranscriptionRequest]:
        """The recordings of `AUDIO_FILE`, or the samples of `AUDIO`."""
        form = ProtocolForm.from_values(v2.parameters(request))
        sources = await instances.of_v2(request, self._settings, resources)
        return [form.request(each, form.task) for each in sources]

    async def work(self, job: TranscriptionRequest, headers: Mapping[str, str]) -> Transcript:
        """The transcript of one recording."""
        return await self._transcriber.transcribe(job, headers)

    def write_v1(self, results: Sequence[Transcript]) -> dict[str, Any]:
        """One prediction a recording."""
        return {"predictions": [_prediction(transcript) for transcript in results]}

    def write_v2(self, results: Sequence[Transcript], request: InferRequest) -> InferResponse:
        """One row a recording."""
        segments = [[segment.model_dump(exclude_none=True) for segment in each.segments] for each in results]
        arrays = {
            "TEXT": v2.bytes_array([transcript.text.encode() for transcript in results]),
            "LANGUAGE": v2.bytes_array([(transcript.language or "").encode() for transcript in results]),
            "DURATION": np.array([transcript.duration for transcript in results], np.float32),
            "SEGMENTS": v2.bytes_array([orjson.dumps(each) for each in segments]),
        }
        return v2.response(request, self.name, arrays)


def _prediction(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": transcript.duration,
        "segments": [segment.model_dump(exclude_none=True) for segment in transcript.segments],
    }
