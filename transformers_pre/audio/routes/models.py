"""GET `/v1/models`, which serves both OpenAI's clients and KServe's V1: the paths are the same."""

import time
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.dialects import Dialects, openai_body
from serving.errors import NotFound, Overloaded

_ERRORS = Dialects()
_ERRORS.register("/", openai_body)


def router(name: str, ready: Callable[[], bool]) -> APIRouter:
    """The routes. `name` is the model's, `ready` says whether it answers.

    Their own errors are in OpenAI's shape: its clients read them apart, KServe's show them as they are.
    """
    routes = APIRouter()
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
        return Response(orjson.dumps({**card, "name": name, "ready": True}), media_type="application/json")

    return routes
