"""Server-sent events and the HTTP response that sends them. What the events say is their route's.

While there is nothing to send for a while, a comment `: keep-alive` goes out, which every client skips: proxies cut idle
connections. What goes wrong before the first event or comment is an ordinary HTTP error; later it is an event
`{"error": {…}}`, the last one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.dialects import from_exception, openai_body
from serving.errors import InternalError, InvalidInput
from serving.middleware import unless_disconnected

logger = logging.getLogger(__name__)

STREAM_END = b"data: [DONE]\n\n"
"""What closes a stream of events that ended well."""

_KEEP_ALIVE = b": keep-alive\n\n"  # a comment (HTML standard, 9.2.5), and the empty line that ends a block


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event with a JSON body."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


class EventStream(StreamingResponse):
    """Sends `events`, whole ones each; it owns them and the resources that they read from, and closes both.

    The status line waits for the first event, or for `keep_alive_seconds` without one. `events` runs in one task from its
    first item to its end, and that task is cancelled when the client goes away.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        resources: contextlib.AbstractContextManager[Any],
        keep_alive_seconds: float,
    ):
        # Proxies must pass each event on as it comes; the second header is the one that nginx reads.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._events = self._told(events)
        self._resources = resources
        self._keep_alive_seconds = keep_alive_seconds
        self._begun = False
        self._sending = asyncio.Lock()
        self._last_sent = asyncio.get_running_loop().time()
        super().__init__(self._events, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response. Raises what went wrong before anything was sent."""
        with self._resources:
            try:
                await unless_disconnected(receive, self.stream_response(send))
            except InvalidInput:
                # Once begun, errors are events, so this says that the client is gone: nobody to tell, nothing to log.
                if not self._begun:
                    raise

    async def stream_response(self, send: Send) -> None:
        """Sends status, headers, events, and comments while there are none."""
        keeping_alive = asyncio.create_task(self._keep_alive(send))
        try:
            async with contextlib.aclosing(self._events) as events:
                async for chunk in events:
                    await self._send(send, chunk)
        finally:
            keeping_alive.cancel()
            await asyncio.wait({keeping_alive})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        """Sends one whole event or comment, the status line before the first."""
        async with self._sending:
            if not self._begun:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                self._begun = True
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._last_sent = asyncio.get_running_loop().time()

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            idle = clock() - self._last_sent
            if idle < self._keep_alive_seconds:
                await asyncio.sleep(self._keep_alive_seconds - idle)
            else:
                await self._send(send, _KEEP_ALIVE)

    async def _told(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The events. Raises what goes wrong as long as nothing was sent, and tells it by an event later."""
        try:
            async with contextlib.aclosing(events):
                async for each in events:
                    yield each
        except Exception as error:
            if not self._begun:
                raise
            known = from_exception(error)
            if known is None:
                logger.exception("unhandled error in a stream of events")
            yield event(openai_body(known or InternalError()))
