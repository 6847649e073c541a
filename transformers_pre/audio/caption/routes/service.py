"""The captioning service's routes: POST `/process` takes JSON, as the original service; POST `/caption` a form, and tells all."""

from typing import Any, BinaryIO

from fastapi import APIRouter, Request

from serving.errors import ServingError
from serving.middleware import unless_disconnected
from serving.routes import BodyBudget, JsonLimit
from serving.uploads.form import json_openapi
from transformers_pre.audio.caption import inputs
from transformers_pre.audio.caption.describer import Describer
from transformers_pre.audio.caption.description import Description
from transformers_pre.audio.caption.forms import CaptionForm
from transformers_pre.audio.caption.settings import CaptionSettings

PREFIXES = ("/process", "/caption")
"""Paths whose errors are in the service's shape, `error_body`."""
_INPUT = {
    "input_data": {
        "description": "The recording: base64, a data: URL, an http(s) link, or an object with one of them in `data`.",
        "anyOf": [{"type": "string"}, {"type": "object", "required": ["data"]}],
    }
}


def error_body(error: ServingError) -> dict[str, Any]:
    """The service's own shape of an error."""
    return {"status": "error", "message": error.message}


def router(describer: Describer, settings: CaptionSettings, bodies: BodyBudget) -> APIRouter:
    """The routes, over a describer."""
    routes = APIRouter(tags=["captioning service"])
    form_limits = settings.form_limits()
    json_limit = JsonLimit(settings.max_json_bytes, settings.max_json_values)

    async def asked(request: Request) -> tuple[CaptionForm, BinaryIO]:
        with bodies.share() as take:  # until the recording is on disk
            body = await json_limit.receive(request, take)
            form = CaptionForm.from_values(body)
            return form, await inputs.recording(body.get("input_data"), "input_data", settings)

    @routes.post("/process", summary="One caption", openapi_extra=json_openapi(CaptionForm, _INPUT))
    async def process(request: Request) -> dict[str, Any]:
        """`processed_data` is the caption; null, with `silence` beside it, when there is nothing to hear."""
        form, recording = await asked(request)
        with recording:
            work = describer.describe(form.request(recording), dict(request.headers))
            found = await unless_disconnected(request.receive, work)
        silence = {"silence": True} if found.silence else {}
        return {"status": "success", "processed_data": found.caption, **silence}

    @routes.post("/caption", summary="Captions with scores and times", openapi_extra=CaptionForm.openapi())
    async def caption(request: Request) -> Description:
        """`captions` stand for the recording, `windows` are its stretches of up to 30 s; silence has none."""
        form, upload = await CaptionForm.receive(request, form_limits)
        with upload:
            work = describer.describe(form.request(upload.file), dict(request.headers))
            return await unless_disconnected(request.receive, work)

    return routes
