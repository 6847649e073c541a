"""The two routes of the Whisper medium service: `/transcribe` and `/transcribe_simple`, a form in, JSON out."""

from typing import Any

from fastapi import APIRouter, Request

from serving.errors import ServingError
from serving.middleware import unless_disconnected
from transformers_pre.audio.forms import SpeechForm
from transformers_pre.audio.merge import Transcript
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber

PREFIXES = ("/transcribe", "/transcribe_simple")
"""Paths whose errors are in the service's shape, `error_body`."""


def error_body(error: ServingError) -> dict[str, Any]:
    """The service's own shape of an error."""
    return {"success": False, "error": error.message}


def router(transcriber: Transcriber, settings: AudioSettings) -> APIRouter:
    """The routes, over a transcriber."""
    routes = APIRouter(tags=["Whisper service"])
    limits = settings.form_limits()

    async def transcript(request: Request) -> Transcript:
        form, upload = await SpeechForm.receive(request, limits)
        with upload:
            work = transcriber.transcribe(form.request(upload.file, "transcribe"), dict(request.headers))
            return await unless_disconnected(request.receive, work)

    @routes.post("/transcribe", summary="Text, language and number of segments", openapi_extra=SpeechForm.openapi())
    async def transcribe(request: Request) -> dict[str, Any]:
        """`language` is the ISO-639-1 code, null when nothing was said and no language was named."""
        result = await transcript(request)
        return {
            "success": True,
            "text": result.text,
            "language": result.language,
            "segments_count": len(result.segments),
        }

    @routes.post("/transcribe_simple", summary="Text only", openapi_extra=SpeechForm.openapi())
    async def transcribe_simple(request: Request) -> dict[str, str]:
        return {"text": (await transcript(request)).text}

    return routes
