"""What happens around every request, before any route: its id, span, log line and error body; drain, keys, body limit.

Plain ASGI, so that streams and WebSockets pass through untouched. `serving.server` puts the layers on, outermost first:
`RequestScope` → `DeadlineMiddleware` → `DrainMiddleware` → `ApiKeys` → `BodyLimit` → KServe's app.
"""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Match, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import served_by, telemetry
from serving.auth import Keys
from serving.deadline import CURRENT, Deadline
from serving.dialects import Dialects, from_exception
from serving.errors import InternalError, InvalidInput, MethodNotAllowed, Overloaded, TooLarge

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LINGER_SECONDS = 2.0
_DEADLINE_SLACK = 0.5  # seconds, in which what enforces the deadline itself can say so
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_BROWSER_KEY = "openai-insecure-api-key."  # a subprotocol of OpenAI's clients in browsers, in front of the key
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class HealthPaths:
    """The paths that probes and scrapers use: they need no key, are not counted, and answer while the pod drains.

    Args:
        paths: as their routes have them, e.g. `/v2/models/{model_name}/ready`; a module that owns such a route names it.
    """

    def __init__(self, paths: Iterable[str]):
        self._patterns = [compile_path(path)[0] for path in paths]

    def __contains__(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._patterns)


def request_id_of(headers: Mapping[str, str]) -> str:
    """The client's own `x-request-id` if it is fit for a log and a header, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class RequestScope:
    """Outermost: request id in and out, revisions, server span, one log line, and every error in the dialect of its route.

    While the pod drains, every answer ends its connection: a client that kept it would meet the same pod again, or its end.
    """

    def __init__(self, app: ASGIApp, dialects: Dialects, drain: "Drain", health: HealthPaths, revision: str):
        self.app = app
        self.dialects = dialects
        self.drain = drain
        self.health = health
        self.revision = revision

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with served_by.noting(self.revision) as revisions:
            await self._serve(scope, receive, send, revisions)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, revisions: set[str]) -> None:
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        token = telemetry.REQUEST_ID.set(request_id)
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = request_id
                if revisions:
                    answered[served_by.HEADER] = ", ".join(sorted(revisions))
                if self.drain.draining.is_set() and message["type"] == "http.response.start":
                    answered["connection"] = "close"
            await send(message)

        try:
            if scope["path"] in self.health:
                await self._answer(scope, receive, send_with_id)
                return
            with telemetry.span(scope.get("method", "WEBSOCKET"), SpanKind.SERVER, dict(headers)) as span:
                try:
                    await self._answer(scope, receive, send_with_id)
                finally:
                    _describe(span, scope, status)
                    telemetry.note_request(_route(scope), status, began)
        finally:
            telemetry.REQUEST_ID.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, unread = False, _has_body(scope)

        async def receive_and_note() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] in ("http.response.start", "websocket.accept")
            await send(message)

        try:
            await self.app(scope, receive_and_note, send_and_note)
        except Exception as error:  # the one place where everything unexpected ends
            known = from_exception(error)
            if known is None:
                logger.exception("unhandled error")
            if begun:
                raise
            response = self.dialects.response(scope["path"], known or InternalError())
            if response.status_code == MethodNotAllowed.http_status:
                response.headers["allow"] = ", ".join(_allowed(scope))
            if unread:
                await _answer_early(response, receive, send)
            else:
                await response(scope, receive, send)  # to a WebSocket: its handshake's answer


class DeadlineMiddleware:
    """Gives each request its deadline and ends it there, also while its body is still arriving; WebSockets have none.

    It is the backstop: the hop, which knows more, refuses first.
    """

    def __init__(self, app: ASGIApp, seconds: float, health: HealthPaths):
        self.app = app
        self.seconds = seconds
        self.health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises DeadlineExceeded, or InvalidInput for a bad header."""
        if scope["type"] != "http" or scope["path"] in self.health:
            await self.app(scope, receive, send)
            return
        deadline = Deadline.of(Headers(scope=scope), self.seconds)
        token = CURRENT.set(deadline)
        try:
            async with deadline.enforced(slack=_DEADLINE_SLACK):
                await self.app(scope, receive, send)
        finally:
            CURRENT.reset(token)


class Drain:
    """Counts work in flight; after `begin()` it refuses new work with 503 and `wait()` ends when the last has gone."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._count = 0

    def begin(self) -> None:
        """From now on new work is refused; what is in flight goes on."""
        self.draining.set()

    async def wait(self) -> None:
        """Returns when nothing is in flight."""
        await self._idle.wait()

    def enter(self) -> None:
        """Counts one more piece of work. Raises Overloaded while draining."""
        if self.draining.is_set():
            raise Overloaded("this pod is shutting down, send the request again", code="draining")
        self._count += 1
        self._idle.clear()
        telemetry.IN_FLIGHT.set(self._count)

    def leave(self) -> None:
        """Counts one piece of work as done."""
        self._count -= 1
        telemetry.IN_FLIGHT.set(self._count)
        if not self._count:
            self._idle.set()


class DrainMiddleware:
    """Lets `Drain` count requests, event streams and WebSockets, all but health."""

    def __init__(self, app: ASGIApp, drain: Drain, health: HealthPaths):
        self.app = app
        self.drain = drain
        self.health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket."""
        if scope["type"] == "lifespan" or scope["path"] in self.health:
            await self.app(scope, receive, send)
            return
        self.drain.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.leave()


class ApiKeys:
    """Wants `Authorization: Bearer <key>` on every path but health and metrics, when the pod has keys."""

    def __init__(self, app: ASGIApp, keys: Keys, health: HealthPaths):
        self.app = app
        self.keys = keys
        self.health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket. Raises Unauthorized."""
        if scope["type"] != "lifespan" and scope["path"] not in self.health:
            self.keys.check(Headers(scope=scope).get("authorization") or _of_a_browser(scope))
        await self.app(scope, receive, send)


def _of_a_browser(scope: Scope) -> str | None:
    """The key of a browser's WebSocket, which can send no header but its subprotocols: OpenAI's clients put it there."""
    offered = scope.get("subprotocols", ()) if scope["type"] == "websocket" else ()
    return next((f"Bearer {each[len(_BROWSER_KEY) :]}" for each in offered if each.startswith(_BROWSER_KEY)), None)


def whole_number(headers: Headers, name: str) -> int | None:
    """The number in the header `name`; None without it. Raises InvalidInput."""
    text = headers.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:  # what 64 bits hold
        raise InvalidInput(f"the header {name} must be a whole number, got {text[:32]!r}")
    return int(text)


class BodyLimit:
    """Refuses a body over `limit` bytes: by Content-Length before reading, by counting where there is none."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises TooLarge, also out of `receive`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = whole_number(Headers(scope=scope), "Content-Length")
        if declared is not None and declared > self.limit:
            raise self._too_large(f"the body has {declared} bytes")
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise self._too_large("the body is larger")
            return message

        await self.app(scope, counted, send)

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(f"{what}; at most {self.limit} bytes are accepted (MAX_BODY_BYTES)", code="body_too_large")


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return scope["type"] == "http" and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers)


async def _answer_early(response: Response, receive: Receive, send: Send) -> None:
    """Sends an answer before the request's body was read, then throws the body away for a while and closes.

    Most clients send all of a body before they read: a connection closed at once would be reset under them, and the
    answer lost.
    """
    response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body"})


def _allowed(scope: Scope) -> list[str]:
    """The methods that a path has, for the header Allow: those of all its routes, each of which knows its own only."""
    root = scope.get("app_root_path", scope.get("root_path", ""))  # a mounted app has moved the second one
    asked = {"type": "http", "path": scope["path"], "root_path": root, "headers": []}

    def serves(method: str) -> bool:
        return any(
            route.matches({**asked, "method": method})[0] is Match.FULL
            for route in scope["app"].router.routes
            if method in ("GET", "HEAD") or not isinstance(route, Mount)  # files are mounted, they match any method
        )

    return list(filter(serves, _METHODS))


def _describe(span: Span, scope: Scope, status: int) -> None:
    """Names a server span by its route. A client's mistake is no failure of the server's; 5xx is."""
    route = _route(scope)
    span.update_name(f"{scope.get('method', 'WEBSOCKET')} {route}")
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def _route(scope: Scope) -> str:
    """The route's template, so that neither logs nor metrics carry what a client put into a path."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unmatched"


async def unless_disconnected(receive: Callable[[], Awaitable[Message]], work: Awaitable[T]) -> T:
    """Awaits `work`, and cancels it when the client goes away first.

    Call it once the request's body has been read: from then on `receive` yields nothing but the disconnect.

    Raises:
        InvalidInput: the client went away; nobody is there to read it, but the log line says so.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise InvalidInput("the client went away", code="client_disconnected")
        return await task
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
