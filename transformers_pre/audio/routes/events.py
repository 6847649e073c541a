"""A transcript in the making as OpenAI's server-sent events, and the HTTP response that sends them.

    transcript.text.delta …   one a segment, as soon as it is final
    transcript.text.done      the whole text, equal to the deltas joined and to what the answer without `stream` says
    [DONE]

While there is nothing to send for a while, a comment `: keep-alive` goes out, which every client skips: proxies cut idle
connections. What goes wrong before the first event or comment is an ordinary HTTP error; later it is an event
`{"error": {…}}`, the last one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.dialects import from_exception, openai_body
from serving.errors import InternalError, InvalidInput
from serving.middleware import unless_disconnected
from transformers_pre.audio import formats
from transformers_pre.audio.merge import Transcript, TranscriptSegment

logger = logging.getLogger(__name__)

Items = AsyncGenerator[TranscriptSegment | Transcript, None]
"""Segments as they become final, then the transcript."""

_KEEP_ALIVE = b": keep-alive\n\n"  # a comment (HTML standard, 9.2.5), and the empty line that ends a block


class EventStream(StreamingResponse):
    """Sends the events of `items`; it owns `items` and the resources that those read from, and closes both.

    The status line waits for the first event, or for `keep_alive_seconds` without one. `items` runs in one task from its
    first item to its end, and that task is cancelled when the client goes away.
    """

    def __init__(self, items: Items, resources: contextlib.AbstractContextManager[Any], keep_alive_seconds: float):
        # Proxies must pass each event on as it comes; the second header is the one that nginx reads.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._events = self._write(items)
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

    async def _write(self, items: Items) -> AsyncGenerator[bytes, None]:
        """The events of `items`. Raises what goes wrong as long as nothing was sent, and tells it by an event later."""
        sent = ""
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    if isinstance(item, Transcript):
                        if item.text != sent:
                            raise ValueError("the segments' texts do not make up the transcript's text")
                        yield formats.event(formats.done_body(item))
                        yield formats.STREAM_END
                    else:
                        yield formats.event(formats.delta_body(item.text))
                        sent += item.text
        except Exception as error:
            if not self._begun:
                raise
            known = from_exception(error)
            if known is None:
                logger.exception("unhandled error in a stream of events")
            yield formats.event(openai_body(known or InternalError()))
