"""One deadline a request: from its first byte to its last, over both pods.

The client's header, or the pod's setting, decides. `serving.middleware` makes it and enforces it; the hop sends the
predictor what is left.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextvars import ContextVar
from typing import TypeVar

from serving.errors import DeadlineExceeded, InvalidInput

T = TypeVar("T")
HEADER = "x-request-timeout-seconds"
_SETTING = "REQUEST_TIMEOUT_SECONDS"


class Deadline:
    """One moment for a whole request: the client's wish, at most the pod's own limit.

    Args:
        seconds: from now on.
        setting: the name of the setting that says so; empty for a client's wish.
    """

    def __init__(self, seconds: float, setting: str = ""):
        self.seconds = seconds
        self._limit = f"{seconds:g} s" + (f" ({setting})" if setting else "")
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, headers: Mapping[str, str], limit: float) -> "Deadline":
        """The deadline that the header `x-request-timeout-seconds` asks for, at most `limit`. Raises InvalidInput.

        More than the limit is no error: a transformer may be more patient than its predictor.
        """
        text = headers.get(HEADER)
        try:
            wanted = limit if text is None else float(text)
        except ValueError:
            wanted = math.nan
        if not 0 < wanted < math.inf:
            raise InvalidInput(
                f"the header {HEADER} must be a number of seconds above 0; {limit:g} ({_SETTING}) count at most"
            )
        return cls(wanted) if wanted < limit else cls(limit, _SETTING)

    def left(self) -> float:
        """Seconds left. Raises DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self, what: str = "the request took longer than its") -> DeadlineExceeded:
        """The error for a request that did not end in time: `what`, then the limit."""
        return DeadlineExceeded(f"{what} {self._limit}")

    @contextlib.asynccontextmanager
    async def enforced(self, slack: float = 0.0) -> AsyncIterator[None]:
        """Cancels the block at the deadline, `slack` seconds later. Raises DeadlineExceeded then."""
        timeout = asyncio.timeout(self.left() + slack)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise self.exceeded() from None

    async def each(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items, every one by the deadline; closes what they come from. Raises DeadlineExceeded."""
        async with contextlib.aclosing(items):
            while True:
                async with self.enforced():
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                yield item


CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
"""The deadline of the request that this task works on."""
