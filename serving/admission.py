"""Hands items to an engine that batches by itself: bounded, cancellable, measured. Not here: batches (`serving.batching`)."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serving import telemetry
from serving.errors import InternalError, Overloaded, ServingError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
logger = logging.getLogger(__name__)


class Admission(Generic[I, R]):
    """Gives each item to `infer` at once, as long as fewer than `max_items` are there.

    Args:
        infer: the engine's call for one item.
        max_items: items that the engine may have, working or waiting; one more is refused with 503 and Retry-After.
        name: the model's name, for metrics.
    """

    def __init__(self, infer: Callable[[I], Awaitable[R]], *, max_items: int, name: str):
        self._infer = infer
        self._max_items = max_items
        self._items = 0
        self._item_seconds = 1.0  # moving average, for Retry-After
        self._length = telemetry.QUEUE_LENGTH.labels(name)

    async def submit(self, item: I) -> R:
        """The engine's result for `item`. Cancelling the caller takes the item out of the engine.

        Raises:
            Overloaded: the engine has `max_items` already.
            ServingError: whatever the engine has to say about this item.
        """
        if self._items >= self._max_items:
            raise Overloaded(
                f"{self._items} items are being worked on, which is the limit (MAX_QUEUE)",
                code="queue_full",
                retry_after=self._item_seconds,
            )
        self._count(1)
        begun = time.perf_counter()
        try:
            result = await self._infer(item)
        except ServingError:
            raise
        except Exception:  # an engine may raise anything; its item fails, the others live on
            logger.exception("the engine failed")
            raise InternalError from None
        finally:
            self._count(-1)
        self._item_seconds += 0.1 * (time.perf_counter() - begun - self._item_seconds)
        return result

    async def close(self) -> None:
        """Nothing to stop: the engine's own end does that."""

    def _count(self, change: int) -> None:
        self._items += change
        self._length.set(self._items)
