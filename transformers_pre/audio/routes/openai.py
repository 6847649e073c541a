"""OpenAI's audio API: transcriptions, translations and models (`routes.models`), also under KServe's prefix `/openai`.

Wire format: the stock `openai` client sends it and its types are what answers must satisfy. The model's name is not
checked: a pod serves one model, clients have names like `whisper-1` built in, and a wrong path is a 404 anyway.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from serving.contracts.asr import Task
from serving.middleware import unless_disconnected
from transformers_pre.audio import formats
from transformers_pre.audio.forms import OpenAIForm
from transformers_pre.audio.merge import Transcript, TranscriptSegment
from transformers_pre.audio.routes import models
from transformers_pre.audio.routes.events import STREAM_END, EventStream, event
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.transcribe import Transcriber

PREFIXES = ("/v1/audio", "/openai/v1")
"""Paths whose errors are in OpenAI's shape. `/v1/models` is not among them: V1's `:predict` begins with it."""


def router(transcriber: Transcriber, settings: AudioSettings, ready: Callable[[], bool]) -> APIRouter:
    """The routes, over a transcriber. `ready` says whether the model answers."""
    routes = APIRouter()
    for part in (_audio_routes(transcriber, settings), models.router(settings.model_name, ready)):
        routes.include_router(part, tags=["OpenAI"])
        routes.include_router(part, prefix="/openai", include_in_schema=False)
    return routes


def _audio_routes(transcriber: Transcriber, settings: AudioSettings) -> APIRouter:
    routes = APIRouter()
    limits = settings.form_limits()

    async def answer(request: Request, task: Task) -> Response:
        headers = dict(request.headers)
        with contextlib.ExitStack() as resources:
            form, upload = await OpenAIForm.receive(request, limits)
            resources.enter_context(upload)
            asked = form.request(upload.file, task)
            if form.stream:
                events = _events(transcriber.stream(asked, headers))
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


async def _events(items: AsyncGenerator[TranscriptSegment | Transcript, None]) -> AsyncGenerator[bytes, None]:
    """A transcript in the making as OpenAI's events.

    transcript.text.delta …   one a segment, as soon as it is final
    transcript.text.done      the whole text, equal to the deltas joined and to what the answer without `stream` says
    [DONE]
    """
    sent = ""
    async with contextlib.aclosing(items):
        async for item in items:
            if isinstance(item, Transcript):
                if item.text != sent:
                    raise ValueError("the segments' texts do not make up the transcript's text")
                yield event(formats.done_body(item))
                yield STREAM_END
            else:
                yield event(formats.delta_body(item.text))
                sent += item.text


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
