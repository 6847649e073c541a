"""OpenAI's audio API: transcriptions, translations and models, also under KServe's prefix `/openai`.

Wire format: the stock `openai` client sends it and its types are what answers must satisfy. The model's name is not
checked: a pod serves one model, clients have names like `whisper-1` built in, and a wrong path is a 404 anyway.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from serving.contracts.asr import Task
from serving.dialects import Dialects, openai_body
from serving.errors import NotFound, Overloaded
from serving.middleware import unless_disconnected
from transformers_pre.audio import formats
from transformers_pre.audio.forms import OpenAIForm
from transformers_pre.audio.merge import Transcript
from transformers_pre.audio.routes.events import EventStream
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber

PREFIXES = ("/v1/audio", "/openai/v1")
"""Paths whose errors are in OpenAI's shape. `/v1/models` is not among them: V1's `:predict` begins with it."""
_ERRORS = Dialects()
_ERRORS.register("/", openai_body)


def router(transcriber: Transcriber, settings: AudioSettings, ready: Callable[[], bool]) -> APIRouter:
    """The routes, over a transcriber. `ready` says whether the model answers."""
    routes = APIRouter()
    for part in (_audio_routes(transcriber, settings), _model_routes(settings, ready)):
        routes.include_router(part, tags=["OpenAI"])
        routes.include_router(part, prefix="/openai", include_in_schema=False)
    return routes


def _audio_routes(transcriber: Transcriber, settings: AudioSettings) -> APIRouter:
    routes = APIRouter()
    limits = settings.form_limits()

    async def answer(request: Request, task: Task) -> Response:
        headers = dict(request.headers)
        with contextlib.ExitStack() as resources:
            form, recording = await OpenAIForm.receive(request, limits)
            resources.enter_context(recording)
            asked = form.request(recording, task)
            if form.stream:
                events = transcriber.stream(asked, headers)
                return EventStream(events, resources.pop_all(), settings.stream_keep_alive_seconds)
            transcript = await unless_disconnected(request.receive, transcriber.transcribe(asked, headers))
        return _response(transcript, form)

    @routes.post("/v1/audio/transcriptions", summary="Speech to text", openapi_extra=OpenAIForm.openapi())
    async def transcriptions(request: Request) -> Response:
        return await answer(request, "transcribe")

    @routes.post("/v1/audio/translations", summary="Speech to English text", openapi_extra=OpenAIForm.openapi())
    async def translations(request: Request) -> Response:
        return await answer(request, "translate")

    return routes


def _model_routes(settings: AudioSettings, ready: Callable[[], bool]) -> APIRouter:
    """Lists that serve both OpenAI's clients and KServe's V1, whose paths are the same.

    Their own errors are in OpenAI's shape: its clients read them apart, KServe's show them as they are.
    """
    routes = APIRouter()
    name = settings.model_name
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "sonotome"}

    @routes.get("/v1/models", summary="The model, as OpenAI and V1 list it")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card], "models": [name]}

    @routes.get("/v1/models/{model_id}", summary="The model and its readiness")
    async def model(request: Request, model_id: str) -> Response:
        if model_id != name:
            missing = f"there is no such model here, the one served is {name!r}"
            return _ERRORS.response(request.url.path, NotFound(missing, code="model_not_found", param="model"))
        if not ready():
            return _ERRORS.response(
                request.url.path, Overloaded(f"model {name!r} is not ready", code="model_not_ready")
            )
        return _json({**card, "name": name, "ready": True})

    return routes


def _response(transcript: Transcript, form: OpenAIForm) -> Response:
    match form.response_format:
        case "json":
            return _json(formats.json_body(transcript))
        case "verbose_json":
            return _json(formats.verbose_body(transcript, form.timestamp_granularities))
        case "text":
            return PlainTextResponse(transcript.text)
        case "srt":
            return PlainTextResponse(formats.srt(transcript))
        case "vtt":
            return PlainTextResponse(formats.vtt(transcript), media_type="text/vtt")


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
