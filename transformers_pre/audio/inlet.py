"""The way into a task that works on a stream: whoever is faster than the task waits, and learns when it has failed."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Inlet(Generic[T]):
    """Items for one task, of which `size` may wait."""

    def __init__(self, size: int):
        self._items: asyncio.Queue[T | None] = asyncio.Queue(size)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts the task, which takes the items with `get`."""
        self._task = asyncio.create_task(work)

    async def get(self) -> T | None:
        """For the task: the next item; None at the end."""
        return await self._items.get()

    async def put(self, item: T | None) -> None:
        """Hands over the next item; waits while enough is waiting. Raises what the task raised.

        A task that has ended by itself takes nothing more: it is done with the stream.
        """
        if self._items.full() and not self._task.done():
            room = asyncio.create_task(self._items.put(item))
            await asyncio.wait({room, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if room.done():
                return
            room.cancel()
        if self._task.done():
            self._task.result()
            return
        self._items.put_nowait(item)

    async def finish(self) -> None:
        """Nothing more comes: waits until the task is done with everything. Raises what it raised."""
        await self.put(None)
        await self._task

    async def stop(self) -> None:
        """Cancels the task, if it still runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
