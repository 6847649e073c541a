"""The recordings of V1 and V2 requests, the same for every pipeline: encoded files, links, or samples.

Not here: what is asked of them, which a pipeline's form says.
"""

import contextlib
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from kserve import InferRequest

from serving import v2
from serving.contracts import audio
from serving.errors import InvalidInput
from serving.threads import in_turn
from serving.uploads import inline
from serving.uploads.fetch import fetch
from serving.uploads.settings import UploadSettings
from transformers_pre.audio.media import SAMPLE_RATE
from transformers_pre.audio.source import Source, Waveform, sample_rate

INPUT_TYPES: list[dict[str, Any]] = [
    {"name": "AUDIO_FILE", "datatype": "BYTES", "shape": [-1]},
    {"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "LENGTHS", "datatype": "INT32", "shape": [-1]},
]
"""V2 metadata: encoded files, or samples."""


async def of_v1(body: dict[str, Any], settings: UploadSettings, resources: contextlib.ExitStack) -> list[BinaryIO]:
    """The recordings of `instances`: `{"audio": {"b64": …}}` or `{"url": …}`; closed with `resources`. Raises ServingError."""
    instances = body["instances"]
    settings.check_count(len(instances))
    return [
        resources.enter_context(await _v1_recording(instance, f"instances[{index}]", settings))
        for index, instance in enumerate(instances)
    ]


async def _v1_recording(instance: Any, where: str, settings: UploadSettings) -> BinaryIO:
    found = instance.get("audio", instance) if isinstance(instance, dict) else None
    if isinstance(found, dict) and isinstance(found.get("url"), str):
        return await fetch(found["url"], settings.fetch_limits())
    if not isinstance(found, dict) or not isinstance(found.get("b64"), str):
        raise InvalidInput(f"{where} must be {{'audio': {{'b64': …}}}} or {{'url': …}}", param=where)
    return await inline.from_base64(found["b64"], settings.max_upload_bytes, f"{where}.audio.b64")


async def of_v2(request: InferRequest, settings: UploadSettings, resources: contextlib.ExitStack) -> list[Source]:
    """The recordings of `AUDIO_FILE`, closed with `resources`, or the samples of `AUDIO`. Raises ServingError."""
    tensors = await in_turn(partial(v2.tensors, request))
    if tensors.keys() >= {"AUDIO_FILE", "AUDIO"}:
        raise InvalidInput("send 'AUDIO_FILE' or 'AUDIO', not both", param="inputs")
    if (files := tensors.get("AUDIO_FILE")) is not None:
        if files.dtype != np.object_:
            raise InvalidInput("'AUDIO_FILE' must be BYTES: encoded recordings", param="AUDIO_FILE")
        settings.check_count(files.size)
        return [
            resources.enter_context(await inline.from_bytes(data, settings.max_upload_bytes, "AUDIO_FILE"))
            for data in files.ravel()
        ]
    if "AUDIO" not in tensors:
        raise InvalidInput("an input 'AUDIO_FILE' (BYTES [N]) or 'AUDIO' (FP32 [N, S]) is needed", param="inputs")
    rate = sample_rate(v2.parameters(request).get("sample_rate", SAMPLE_RATE))
    samples = np.atleast_2d(tensors["AUDIO"])  # one recording may come as [S]
    settings.check_count(len(samples))
    rows = await in_turn(partial(audio.rows, samples, tensors.get("LENGTHS")))
    return [Waveform(row, rate) for row in rows]
