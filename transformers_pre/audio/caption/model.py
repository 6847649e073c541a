"""The captioning transformer as a KServe model: V1 and V2 in, the pipeline of `describer`, V1 and V2 out."""

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
from transformers_pre.audio.caption.describer import Describer, DescriptionRequest
from transformers_pre.audio.caption.description import Description
from transformers_pre.audio.caption.forms import CaptionForm
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.media import DecoderPool


class CaptionTransformer(Transformer[DescriptionRequest, Description]):
    """Describes recordings: V1 `instances` and V2 `AUDIO_FILE` or `AUDIO`. Its workers are the decoders."""

    def __init__(self, describer: Describer, client: KnownPredictor, media: DecoderPool, settings: CaptionSettings):
        super().__init__(settings.model_name, client, media)
        self._describer = describer
        self._settings = settings

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: encoded files, or samples."""
        return instances.INPUT_TYPES

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata; `CAPTION` is empty for silence, `SCORE` 0 for that and for joined ones, `WINDOWS` is JSON."""
        return [
            {"name": "CAPTION", "datatype": "BYTES", "shape": [-1]},
            {"name": "SCORE", "datatype": "FP32", "shape": [-1]},
            {"name": "SILENCE", "datatype": "BOOL", "shape": [-1]},
            {"name": "DURATION", "datatype": "FP32", "shape": [-1]},
            {"name": "WINDOWS", "datatype": "BYTES", "shape": [-1]},
        ]

    async def read_v1(self, body: dict[str, Any], resources: contextlib.ExitStack) -> list[DescriptionRequest]:
        """The recordings of `instances`."""
        form = CaptionForm.from_values(body.get("parameters") or {})
        return [form.request(each) for each in await instances.of_v1(body, self._settings, resources)]

    async def read_v2(self, request: InferRequest, resources: contextlib.ExitStack) -> list[DescriptionRequest]:
        """The recordings of `AUDIO_FILE`, or the samples of `AUDIO`."""
        form = CaptionForm.from_values(v2.parameters(request))
        return [form.request(each) for each in await instances.of_v2(request, self._settings, resources)]

    async def work(self, job: DescriptionRequest, headers: Mapping[str, str]) -> Description:
        """The description of one recording."""
        return await self._describer.describe(job, headers)

    def write_v1(self, results: Sequence[Description]) -> dict[str, Any]:
        """One prediction a recording."""
        return {"predictions": [description.model_dump() for description in results]}

    def write_v2(self, results: Sequence[Description], request: InferRequest) -> InferResponse:
        """One row a recording."""
        windows = [[window.model_dump() for window in each.windows] for each in results]
        arrays = {
            "CAPTION": v2.bytes_array([(each.caption or "").encode() for each in results]),
            "SCORE": np.array([each.score or 0.0 for each in results], np.float32),
            "SILENCE": np.array([each.silence for each in results], np.bool_),
            "DURATION": np.array([each.duration for each in results], np.float32),
            "WINDOWS": v2.bytes_array([orjson.dumps(each) for each in windows]),
        }
        return v2.response(request, self.name, arrays)
