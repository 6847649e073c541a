"""Joins concurrent requests into batches for a synchronous engine: bounded, cancellable, measured."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serving import telemetry
from serving.errors import InternalError, Overloaded, ServingError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiting(Generic[I, R]):
    item: I
    key: Hashable
    future: asyncio.Future[R]
    since: float = field(default_factory=time.perf_counter)
    request_id: str = field(default_factory=telemetry.REQUEST_ID.get)


class Batcher(Generic[I, R]):
    """Runs `run` on batches of what waits, in one worker thread, so that the event loop stays free.

    The oldest item decides the key; items with the same key join it, up to `max_size`, for at most `max_wait` seconds.
    While a batch is computed the next one gathers, so under load batches fill without any waiting.

    Args:
        run: the engine's call; one result or ServingError an item, in order.
        key: items with equal keys may share a batch.
        max_size: items a batch.
        max_wait: seconds an incomplete batch waits for company.
        max_queue: items that may wait; one more is refused with 503 and Retry-After.
        name: the model's name, for metrics.
    """

    def __init__(
        self,
        run: Callable[[Sequence[I]], Sequence[R | ServingError]],
        key: Callable[[I], Hashable],
        *,
        max_size: int,
        max_wait: float,
        max_queue: int,
        name: str,
    ):
        self._run = run
        self._key = key
        self._max_size = max_size
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._name = name
        self._waiting: deque[_Waiting[I, R]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None
        self._batch_seconds = 1.0  # moving average, for Retry-After

    async def submit(self, item: I) -> R:
        """The engine's result for `item`. Cancelling the caller frees the item's place.

        Raises:
            Overloaded: `max_queue` items wait already.
            ServingError: whatever the engine has to say about this item.
        """
        if len(self._waiting) >= self._max_queue:
            batches = len(self._waiting) / self._max_size
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting, which is the limit (MAX_QUEUE)",
                code="queue_full",
                retry_after=batches * self._batch_seconds,
            )
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        waiting = _Waiting[I, R](item, self._key(item), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        self._measure()
        try:
            return await waiting.future
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._measure()

    async def close(self) -> None:
        """Stops working; whoever still waits gets Overloaded. A batch that is being computed is let finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(
                    Overloaded("this pod is shutting down, send the request again", code="draining")
                )
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        while True:
            batch = await self._gather()
            started = time.perf_counter()
            for waiting in batch:
                telemetry.QUEUE_SECONDS.labels(self._name).observe(started - waiting.since)
            telemetry.BATCH_SIZE.labels(self._name).observe(len(batch))
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, batch)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.future.cancel()
                raise
            self._batch_seconds += 0.2 * (time.perf_counter() - started - self._batch_seconds)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.future.done():
                    continue  # its client went away
                if isinstance(result, ServingError):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)

    def _compute(self, batch: Sequence[_Waiting[I, R]]) -> Sequence[R | ServingError]:
        """Calls the engine, on its thread. What it raises ends here: asyncio cannot carry a StopIteration over."""
        try:
            results = list(self._run([waiting.item for waiting in batch]))
            if len(results) != len(batch):
                raise RuntimeError(f"the engine gave {len(results)} results for {len(batch)} items")
        except ServingError as error:
            return [error] * len(batch)
        except Exception:  # an engine may raise anything; its batch fails, the worker lives on
            logger.exception("the engine failed", extra={"request_ids": [waiting.request_id for waiting in batch]})
            return [InternalError() for _ in batch]
        return results

    async def _gather(self) -> list[_Waiting[I, R]]:
        """The next batch: the oldest item and, up to the limits, those that match it."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._company(self._waiting[0].since + self._max_wait)
            if batch := self._matching():  # not when all of them were cancelled meanwhile
                for waiting in batch:
                    self._waiting.remove(waiting)
                self._measure()
                return batch

    async def _company(self, deadline: float) -> None:
        """Waits until the batch is full, its time is up, or nobody is left."""
        while 0 < len(self._matching()) < self._max_size and (left := deadline - time.perf_counter()) > 0:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _matching(self) -> list[_Waiting[I, R]]:
        if not self._waiting:
            return []
        key = self._waiting[0].key
        return [waiting for waiting in self._waiting if waiting.key == key][: self._max_size]

    def _measure(self) -> None:
        telemetry.QUEUE_LENGTH.labels(self._name).set(len(self._waiting))
