"""POST `/predict`, the route of the original service: a study in a form, or where it lies in JSON, and what was found in it."""

import contextlib
from typing import Any, BinaryIO

import orjson
from fastapi import APIRouter, Request, Response

from serving.errors import InvalidInput
from serving.middleware import unless_disconnected
from serving.routes import BodyBudget, JsonLimit
from serving.threads import in_thread
from serving.uploads.fetch import fetch
from transformers_pre.dicom import answers, dicomweb
from transformers_pre.dicom.forms import StudyForm
from transformers_pre.dicom.pipeline import Pipeline, StudyRequest
from transformers_pre.dicom.settings import DicomSettings

PREFIXES = ("/predict",)
"""Paths whose errors are in the service's shape, `answers.failure`."""


def router(pipeline: Pipeline, settings: DicomSettings, bodies: BodyBudget) -> APIRouter:
    """The route, over a pipeline."""
    routes = APIRouter(tags=["CT-CLIP service"])
    forms = settings.form_limits()
    json = JsonLimit(settings.max_json_bytes, settings.max_json_values)

    async def asked(request: Request, resources: contextlib.ExitStack) -> StudyRequest:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            with bodies.share() as take:
                return await _linked(await json.receive(request, take), settings, resources)
        form, upload = await StudyForm.receive(request, forms)
        resources.enter_context(upload)
        return form.request(upload.file, upload.parts)

    @routes.post("/predict", summary="Findings in a chest CT", openapi_extra=StudyForm.openapi())
    async def predict(request: Request) -> Response:
        """`processing_status` is Success or, with `error`, Failure. `input` tells what was used of the upload, and how."""
        with contextlib.ExitStack() as resources:
            reading = await unless_disconnected(
                request.receive, pipeline.read(await asked(request, resources), dict(request.headers))
            )
        content = await in_thread(lambda: orjson.dumps(answers.body(reading)))
        return Response(content, media_type="application/json")

    return routes


async def _linked(body: dict[str, Any], settings: DicomSettings, resources: contextlib.ExitStack) -> StudyRequest:
    """What a JSON body asks for, its study fetched."""
    form = StudyForm.from_values(body)
    links = {name: body[name] for name in ("url", "dicomweb") if isinstance(body.get(name), str)}
    if len(links) != 1:
        raise InvalidInput('the body must hold "url" or "dicomweb", a link to one study', param="url")
    ((kind, link),) = links.items()
    file: BinaryIO
    parts: tuple[range, ...] = ()
    if kind == "dicomweb":
        file, parts = await dicomweb.fetch(link, settings)
    else:
        file = await fetch(link, settings.fetch_limits())
    return form.request(resources.enter_context(file), parts)
