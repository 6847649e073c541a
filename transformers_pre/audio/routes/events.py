"""A transcript in the making as OpenAI's server-sent events, and the HTTP response that sends them.

    transcript.text.delta …   one a segment, as soon as it is final
    transcript.text.done      the whole text, equal to the deltas joined and to what the answer without `stream` says
    [DONE]

What goes wrong before the first event is an ordinary HTTP error; later it is an event `{"error": {…}}`, the last one.
"""

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


class EventStream(StreamingResponse):
    """Sends the events of `items`; it owns `items` and the resources that those read from, and closes both.

    The status line waits for the first event. `items` runs in one task from its first item to its end, and that task is
    cancelled when the client goes away.
    """

    def __init__(self, items: Items, resources: contextlib.AbstractContextManager[Any]):
        # Proxies must pass each event on as it comes; the second header is the one that nginx reads.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._events = _events(items)
        self._resources = resources
        self._begun = False
        super().__init__(self._events, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response. Raises what went wrong before the first event."""
        with self._resources:
            try:
                await unless_disconnected(receive, self.stream_response(send))
            except InvalidInput:
                # Once begun, errors are events, so this says that the client is gone: nobody to tell, nothing to log.
                if not self._begun:
                    raise

    async def stream_response(self, send: Send) -> None:
        """Sends status, headers and events."""
        async with contextlib.aclosing(self._events) as events:
            async for chunk in events:
                if not self._begun:
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    self._begun = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _events(items: Items) -> AsyncGenerator[bytes, None]:
    begun = False
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
                begun = True
    except Exception as error:
        if not begun:
            raise
        known = from_exception(error)
        if known is None:
            logger.exception("unhandled error in a stream of events")
        yield formats.event(openai_body(known or InternalError()))
