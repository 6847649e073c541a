"""The CT transformer as a KServe model: V1 and V2 in, the pipeline, V1 and V2 out.

The public route (`/predict`) calls the same `Pipeline` itself.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import orjson
from kserve import InferRequest, InferResponse

from serving import v2
from serving.contracts import ct
from serving.contracts.parameters import v1_parameters
from serving.errors import InvalidInput
from serving.known_predictor import KnownPredictor
from serving.threads import in_turn
from serving.transformer import Transformer
from serving.uploads import inline
from serving.uploads.fetch import fetch
from transformers_pre.dicom import answers
from transformers_pre.dicom.forms import StudyForm
from transformers_pre.dicom.pipeline import Pipeline, Reading, StudyRequest
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.settings import DicomSettings


class CtTransformer(Transformer[StudyRequest, Reading]):
    """Reads studies: V1 `instances` and V2 `DICOM_ZIP` or `VOLUME`. Its workers are those of the study reader."""

    def __init__(self, pipeline: Pipeline, client: KnownPredictor, reader: StudyReader, settings: DicomSettings):
        super().__init__(settings.model_name, client, reader)
        self._pipeline = pipeline
        self._settings = settings

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: an archive, or a volume as the predictor takes it."""
        return [{"name": "DICOM_ZIP", "datatype": "BYTES", "shape": [1]}, *ct.input_types()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: what the predictor gives; for an archive also what was used of it (JSON) and which it is."""
        own = ("INPUT", "STUDY_UID", "SERIES_UID")
        return [*ct.output_types(), *({"name": name, "datatype": "BYTES", "shape": [1]} for name in own)]

    async def read_v1(self, body: dict[str, Any], resources: contextlib.ExitStack) -> list[StudyRequest]:
        """The studies of `instances`: `{"study": {"b64": …}}`, an archive, or `{"url": …}`."""
        form = StudyForm.from_values(v1_parameters(body))
        instances = body["instances"]
        self._settings.check_count(len(instances))
        found = []
        for index, instance in enumerate(instances):
            file = resources.enter_context(await self._v1_source(instance, f"instances[{index}]"))
            found.append(form.request(file))
        return found

    async def _v1_source(self, instance: Any, where: str) -> BinaryIO:
        study = instance.get("study", instance) if isinstance(instance, dict) else None
        if isinstance(study, dict) and isinstance(study.get("url"), str):
            return await fetch(study["url"], self._settings.fetch_limits())
        if not isinstance(study, dict) or not isinstance(study.get("b64"), str):
            raise InvalidInput(f"{where} must be {{'study': {{'b64': …}}}} or {{'url': …}}", param=where)
        return await inline.from_base64(study["b64"], self._settings.max_upload_bytes, f"{where}.study.b64")

    async def read_v2(self, request: InferRequest, resources: contextlib.ExitStack) -> list[StudyRequest]:
        """The archive of `DICOM_ZIP`, or the volume of `VOLUME`, which goes on as it is."""
        names = {item.name for item in request.inputs}
        if names >= {"DICOM_ZIP", "VOLUME"}:
            raise InvalidInput("send 'DICOM_ZIP' or 'VOLUME', not both", param="inputs")
        if "VOLUME" in names:
            (item,) = await in_turn(partial(ct.read_request, request))
            return [StudyRequest(item.volume, item.options, prompts=item.prompts, draw=False)]
        tensors = await in_turn(partial(v2.tensors, request))
        archive = tensors.get("DICOM_ZIP")
        if archive is None or archive.dtype != np.object_ or archive.size != 1:
            raise InvalidInput(
                "an input 'DICOM_ZIP' (BYTES [1], a ZIP of one study) or 'VOLUME' (FP32 [1, D, H, W]) is needed",
                param="inputs",
            )
        prompts = list(ct.read_prompts(tensors.get("PROMPTS")))
        form = StudyForm.from_values({**v2.parameters(request), "prompts": prompts})
        file = await inline.from_bytes(archive.ravel()[0], self._settings.max_upload_bytes, "DICOM_ZIP")
        return [replace(form.request(resources.enter_context(file)), draw=False)]

    async def work(self, job: StudyRequest, headers: Mapping[str, str]) -> Reading:
        """What was read of one study."""
        return await self._pipeline.read(job, headers)

    def write_v1(self, results: Sequence[Reading]) -> dict[str, Any]:
        """One prediction a study, the body of `/predict`."""
        return {"predictions": [answers.body(reading) for reading in results]}

    def write_v2(self, results: Sequence[Reading], request: InferRequest) -> InferResponse:
        """The predictor's outputs, and of an archive the transformer's own."""
        (reading,) = results
        own: dict[str, v2.Array] = {}
        if reading.identity is not None:
            own = {
                "INPUT": v2.bytes_array([orjson.dumps(reading.report)]),
                "STUDY_UID": v2.bytes_array([reading.identity.study_uid.encode()]),
                "SERIES_UID": v2.bytes_array([reading.identity.series_uid.encode()]),
            }
        return ct.write_response([reading.result], request, self.name, own)
