"""One deadline a request: from its first byte to its last, over both pods.

The client's header, or the pod's setting, decides. `serving.middleware` makes it and enforces it; the hop sends the
predictor what is left.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar

from serving.errors import DeadlineExceeded, InvalidInput

HEADER = "x-request-timeout-seconds"


class Deadline:
    """One moment for a whole request: the client's wish, at most the pod's own limit."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, headers: Mapping[str, str], limit: float) -> "Deadline":
        """The deadline that the header `x-request-timeout-seconds` asks for. Raises InvalidInput."""
        text = headers.get(HEADER)
        if text is None:
            return cls(limit)
        try:
            wanted = float(text)
        except ValueError:
            wanted = -1.0
        if not 0 < wanted <= limit:
            raise InvalidInput(f"the header {HEADER} must be a number of seconds, above 0 and at most {limit:g}")
        return cls(wanted)

    def left(self) -> float:
        """Seconds left. Raises DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"the request took longer than its {self.seconds:g} s")
        return left

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
            raise DeadlineExceeded(f"the request took longer than its {self.seconds:g} s") from None


CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
"""The deadline of the request that this task works on."""
