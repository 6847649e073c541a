"""GET `/v1/limits`: what this pod accepts, so that a client need not find out by being refused."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from transformers_pre.audio.model import MAX_INSTANCES
from transformers_pre.audio.settings import AudioSettings


class Limits(BaseModel):
    """The limits of the audio transformer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_body_bytes: int
    """Largest request body on any route."""
    max_json_bytes: int
    """Largest JSON of a V1 or V2 request, binary tensors not counted."""
    max_json_values: int
    """Most values in that JSON."""
    grpc_max_message_bytes: int
    """Largest gRPC message."""
    max_upload_bytes: int
    """Largest recording."""
    max_audio_seconds: float | None
    """Longest recording; null for no limit."""
    max_channels: int
    """Most channels of a recording."""
    max_instances: int
    """Recordings of one V1 or V2 request."""
    decode_timeout_seconds: float
    """Time that decoding one recording may take."""
    decode_memory_bytes: int
    """Memory that decoding one recording may take."""
    url_timeout_seconds: float
    """Time that fetching a link may take."""
    request_timeout_seconds: float
    """Time that a whole request may take."""
    window_seconds: float
    """Longest stretch that is decoded at a time."""


def router(settings: AudioSettings) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["limits"])
    answer = Limits(
        max_body_bytes=settings.max_body_bytes,
        max_json_bytes=settings.max_json_bytes,
        max_json_values=settings.max_json_values,
        grpc_max_message_bytes=settings.grpc_max_message_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_audio_seconds=settings.max_audio_seconds or None,
        max_channels=settings.max_channels,
        max_instances=MAX_INSTANCES,
        decode_timeout_seconds=settings.decode_timeout_seconds,
        decode_memory_bytes=settings.decode_memory_bytes,
        url_timeout_seconds=settings.url_timeout_seconds,
        request_timeout_seconds=settings.request_timeout_seconds,
        window_seconds=settings.whisper_segment_duration_sec,
    )

    @routes.get("/v1/limits")
    async def limits() -> Limits:
        return answer

    return routes
