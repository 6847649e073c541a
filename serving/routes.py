"""V1, V2, health, limits and docs on KServe's app. Included before KServe's own routes: the first match wins.

JSON and binary tensors arrive on one route, are decoded without a copy (`serving.v2`) and go through `Model.__call__`, so
that KServe's stage metrics and readiness stay in force. Not here: any route of a modality, and errors (`serving.middleware`).
"""

import contextlib
import importlib.resources
import mmap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from kserve import InferResponse, Model
from kserve.errors import ModelNotFound, ModelNotReady
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from serving import VERSION, v2
from serving.engine import Described
from serving.errors import InvalidInput, NotFound, Overloaded, TooLarge, UnsupportedMedia
from serving.middleware import unless_disconnected, whole_number
from serving.threads import in_turn

R = TypeVar("R")

HEALTH = ("/", "/health", "/v2/health/ready", "/v2/models/{model_name}/ready")
"""Paths of `health_router` (`serving.middleware.HealthPaths`)."""
_AT_ONCE = 1 << 16
"""Bytes of JSON that are decoded on the event loop, in less than a millisecond: a thread would only cost time."""


class BodyBudget:
    """How much of requests' bodies may be in memory, all requests together."""

    def __init__(self, limit: int):
        self._limit = limit
        self._held = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes of the budget, or raises Overloaded; they are given back at the end of the block."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._held + size > self._limit:
                raise Overloaded(
                    f"requests in progress hold {self._held} bytes of bodies; with {size} more it would be over "
                    f"{self._limit}, the limit here (MAX_BODIES_BYTES)",
                    code="too_many_bytes",
                )
            self._held += size
            taken += size

        try:
            yield take
        except BaseException as error:
            _forget_locals(error)
            raise
        finally:
            self._held -= taken


def _forget_locals(error: BaseException | None) -> None:
    """Frees what the finished calls of a failure hold: a body would outlive its share until the collector comes by."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


async def receive_body(request: Request, take: Callable[[int], None]) -> memoryview:
    """The whole body in one buffer, allocated once when Content-Length says its size.

    Args:
        request: whose body it is.
        take: is told of bytes as they arrive, before they take memory; it may refuse.

    Raises:
        InvalidInput: the body is not as long as it says.
        UnsupportedMedia: it is compressed.
    """
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedMedia(f"the body's content-encoding is {encoding[:32]!r}; send it without one")
    size, end = whole_number(request.headers, "Content-Length"), 0
    if size is None:
        # Grows in place: joining the chunks would hold the event loop for half a second a gigabyte.
        gathered = bytearray()
        try:
            async for chunk in request.stream():
                take(len(chunk))
                gathered += chunk
        except BaseException:
            gathered.clear()  # a refusal's traceback would keep it
            raise
        return memoryview(gathered)
    # Anonymous memory: pages cost nothing until bytes arrive in them, so a header alone cannot take memory, nor a share of it.
    pages = mmap.mmap(-1, size) if size else None
    buffer = memoryview(pages or bytearray())
    try:
        async for chunk in request.stream():
            if end + len(chunk) > size:
                raise InvalidInput(f"the body is longer than its Content-Length of {size} bytes")
            take(len(chunk))
            buffer[end : end + len(chunk)] = chunk
            end += len(chunk)
        if end != size:
            raise InvalidInput(f"the body ended after {end} of {size} bytes")
    except BaseException:
        buffer.release()
        if pages is not None:
            pages.close()
        raise
    return buffer


def no_version(model_name: str, version: str) -> NotFound:
    """The error for a request that names a version of the model."""
    return NotFound(
        f"model {model_name!r} has no version {version[:32]!r}: revisions are served by traffic split, call it without one",
        code="version_not_found",
    )


@dataclass(frozen=True)
class JsonLimit:
    """What JSON a request may hold, of V1, V2 and every other route that takes some.

    It has a limit apart from the body's: parsing holds Python's lock, so that nothing else runs, and takes many times the
    JSON's size in memory; binary tensors do neither.
    """

    max_bytes: int
    max_values: int

    def check_size(self, size: int) -> None:
        """Raises TooLarge for more than `max_bytes`."""
        if size > self.max_bytes:
            raise self._too_large(f"{size} bytes of JSON")

    def counting(self, take: Callable[[int], None]) -> Callable[[int], None]:
        """`take`, which besides raises TooLarge for a chunk that makes it more than `max_bytes`: not all tell their length."""
        received = 0

        def take_json(size: int) -> None:
            nonlocal received
            received += size
            if received > self.max_bytes:
                raise self._too_large("more bytes of JSON")
            take(size)

        return take_json

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(
            f"{what}; at most {self.max_bytes} are accepted (MAX_JSON_BYTES), send tensors as binary",
            code="json_too_large",
        )

    def check(self, text: memoryview) -> None:
        """Raises TooLarge for more than `max_bytes`, or more values than `max_values`."""
        self.check_size(len(text))
        if len(text) <= self.max_values:
            return
        copy = bytes(text)
        if sum(copy.count(mark) for mark in b",[{:") > self.max_values:
            raise TooLarge(
                f"more than {self.max_values} values and names in the JSON (MAX_JSON_VALUES), send tensors as binary",
                code="json_too_large",
            )

    async def decoded(self, text: memoryview, decode: Callable[[], R]) -> R:
        """What `decode` makes of a body with the JSON `text`. Raises TooLarge, and what `decode` raises.

        `decode` is no closure over the body: the frame of one keeps it, whatever is cleared (`BodyBudget`).
        """
        return (
            self._decoded(text, decode)
            if len(text) <= _AT_ONCE
            else await in_turn(partial(self._decoded, text, decode))
        )

    def _decoded(self, text: memoryview, decode: Callable[[], R]) -> R:
        self.check(text)
        return decode()

    async def receive(self, request: Request, take: Callable[[int], None]) -> dict[str, Any]:
        """The JSON object that is a request's body. Raises InvalidInput or TooLarge, and what `take` does."""
        self.check_size(whole_number(request.headers, "Content-Length") or 0)
        body = await receive_body(request, self.counting(take))
        return await self.decoded(body, partial(_json_object, body))


def protocol_router(model: Model, limit: JsonLimit, bodies: BodyBudget) -> APIRouter:
    """V1 `:predict`, V2 `infer` and server metadata, for the one model of this pod."""
    routes = APIRouter()

    routes.include_router(_metadata_router(model))

    def ready(name: str) -> Model:
        if name != model.name:
            raise ModelNotFound(name)
        if not model.ready:
            raise ModelNotReady(name)
        return model

    @routes.post("/v2/models/{model_name}/infer", tags=["V2"], summary="V2 inference, JSON or binary tensors")
    async def infer(model_name: str, request: Request) -> Response:
        served = ready(model_name)
        json_length = whole_number(request.headers, "Inference-Header-Content-Length")
        declared = whole_number(request.headers, "Content-Length") if json_length is None else json_length
        limit.check_size(declared or 0)
        with bodies.share() as take:
            counted = limit.counting(take) if json_length is None else take
            return await _inferred(served, request, json_length, limit, counted)

    @routes.post("/v2/models/{model_name}/versions/{version}/infer", tags=["V2"], include_in_schema=False)
    @routes.get("/v2/models/{model_name}/versions/{version}/{rest:path}", tags=["V2"], include_in_schema=False)
    @routes.get("/v2/models/{model_name}/versions/{version}", tags=["V2"], include_in_schema=False)
    async def version(model_name: str, version: str) -> Response:
        ready(model_name)
        raise no_version(model_name, version)

    @routes.post("/v1/models/{model_name}:predict", tags=["V1"], summary="V1 inference, JSON")
    async def predict(model_name: str, request: Request) -> Response:
        served = ready(model_name)
        with bodies.share() as take:
            return await _predicted(served, request, limit, take)

    return routes


async def _inferred(
    served: Model, request: Request, json_length: int | None, limit: JsonLimit, take: Callable[[int], None]
) -> Response:
    """The answer to a V2 request, whose body is held by this call alone."""
    body = await receive_body(request, take)
    text = body if json_length is None else body[:json_length]
    decoded = await limit.decoded(text, partial(v2.decode_request, body, json_length, served.name))
    v2.wants_binary(decoded, [])  # refused before the model works for nothing
    answer, headers = await unless_disconnected(request.receive, served(decoded, headers=dict(request.headers)))
    binary = v2.wants_binary(decoded, [output.name for output in answer.outputs])
    return v2_response(answer, binary, headers)


async def _predicted(served: Model, request: Request, limit: JsonLimit, take: Callable[[int], None]) -> Response:
    """The answer to a V1 request, whose body is held by this call alone."""
    decoded = await limit.receive(request, take)
    if not isinstance(decoded.get("instances"), list):
        raise InvalidInput("the body must be an object with a list 'instances'", param="instances")
    answer, headers = await unless_disconnected(request.receive, served(decoded, headers=dict(request.headers)))
    return Response(orjson.dumps(answer), media_type="application/json", headers=headers)


def _metadata_router(model: Model) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v2", tags=["V2"], summary="Server metadata")
    async def metadata() -> dict[str, Any]:
        return v2.server_metadata()

    @routes.get("/v2/models/{model_name}", tags=["V2"], summary="Model metadata: inputs, outputs, what the weights are")
    async def model_metadata(model_name: str) -> dict[str, Any]:
        if model_name != model.name:
            raise ModelNotFound(model_name)
        found = {
            "name": model.name,
            "platform": "",
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }
        return {**found, "parameters": model.described()} if isinstance(model, Described) else found

    return routes


def _json_object(body: memoryview) -> dict[str, Any]:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise InvalidInput("the body must be a JSON object")
    return decoded


def v2_response(answer: InferResponse, binary: dict[str, bool], headers: dict[str, str]) -> Response:
    """A V2 response on the wire: binary outputs behind the JSON, plain JSON when there are none."""
    parts, length = v2.encode(answer, binary)
    if len(parts) == 1:
        return Response(parts[0], media_type="application/json", headers=headers)
    return Response(
        b"".join(parts), media_type="application/octet-stream", headers={**headers, v2.JSON_LENGTH: str(length)}
    )


def health_router(model: Model, draining: Callable[[], bool]) -> APIRouter:
    """Readiness that tells the truth: false until the warm-up is over, and again once the pod drains.

    `/` and `/health` always answer 200, for people and uptime monitors; they call nobody, so they wake no pod from zero.
    """
    routes = APIRouter(tags=["health"])

    def check(name: str | None) -> None:
        if name is not None and name != model.name:
            raise ModelNotFound(name)
        if draining():
            raise Overloaded("this pod is shutting down", code="draining")
        if not model.ready:
            raise ModelNotReady(model.name)

    @routes.get("/")
    @routes.get("/health")
    async def health() -> dict[str, Any]:
        status = "draining" if draining() else "ok" if model.ready else "starting"
        return {"status": status, **model.health()}

    @routes.get("/v2/health/ready")
    async def server_ready() -> dict[str, bool]:
        check(None)
        return {"ready": True}

    @routes.get("/v2/models/{model_name}/ready")
    async def model_ready(model_name: str) -> dict[str, Any]:
        check(model_name)
        return {"name": model_name, "ready": True}

    return routes


class _WholeFiles(StaticFiles):
    """Files without ranges, which HTTP lets a server ignore: Starlette refuses bad ones in plain text, in no dialect of ours."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def mount_docs(app: FastAPI, title: str, description: str) -> None:
    """`/docs` from files in the image, so that it works without internet access; `/openapi.json` is FastAPI's own."""
    app.title, app.version, app.description = title, VERSION, description
    assets = next(iter((importlib.resources.files("swagger_ui_bundle") / "vendor").iterdir()))
    app.mount("/docs/assets", _WholeFiles(directory=str(assets)), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",  # relative, as the others: the pod may be served under a prefix
            title=title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )
