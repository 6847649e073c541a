"""GET `/v1/limits`: what this pod accepts, so that a client need not find out by being refused; and what every pipeline tells."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict

from transformers_pre.audio.source import SAMPLE_RATES

SecondsOrNone = Annotated[float | None, BeforeValidator(lambda seconds: seconds or None)]
"""A setting of seconds whose 0 means no limit: null."""


class RecordingLimits(BaseModel):
    """The limits of recordings: the settings of the same names, in lower case, then what is no setting."""

    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)

    max_body_bytes: int
    """Largest request body on any route."""
    max_bodies_bytes: int
    """Most bytes of V1, V2 and JSON bodies in memory, of all requests together."""
    max_json_bytes: int
    """Largest JSON of a request, binary tensors not counted."""
    max_json_values: int
    """Most values in that JSON."""
    grpc_max_message_bytes: int
    """Largest gRPC message."""
    max_upload_bytes: int
    """Largest recording. In V1's JSON, where it is base64 and a third longer, `max_json_bytes` counts too."""
    max_form_fields: int
    """Most text fields of a form."""
    max_form_field_bytes: int
    """Largest text field of a form."""
    max_form_overhead_bytes: int
    """Most of a form besides its recording."""
    max_instances: int
    """Most recordings of one V1 or V2 request."""
    max_audio_seconds: SecondsOrNone
    """Longest recording; null for no limit."""
    max_channels: int
    """Most channels of a recording."""
    decode_workers: int
    """Recordings that are decoded at a time."""
    decode_queue: int
    """Recordings that may wait for that."""
    decode_timeout_seconds: float
    """Time that decoding one recording may take."""
    decode_memory_bytes: int
    """Memory that decoding one recording may take."""
    url_timeout_seconds: float
    """Time that fetching a link may take."""
    url_max_redirects: int
    """Most redirects between a link and its recording."""
    url_max_characters: int
    """Longest link."""
    request_timeout_seconds: float
    """Time that a whole request may take."""
    min_sample_rate: int = SAMPLE_RATES[0]
    """Lowest `sample_rate` of samples that come as a tensor `AUDIO`."""
    max_sample_rate: int = SAMPLE_RATES[-1]
    """Highest `sample_rate` of samples that come as a tensor `AUDIO`."""


def router(limits: RecordingLimits) -> APIRouter:
    """The route, which answers `limits`."""
    routes = APIRouter(tags=["limits"])

    async def answer() -> RecordingLimits:
        return limits

    routes.add_api_route("/v1/limits", answer, response_model=type(limits))
    return routes
