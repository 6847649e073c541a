"""Work on the items of a stream, some at a time, with the results in the order of the items and each as soon as it can be."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def ordered(
    source: AsyncGenerator[T, None], work: Callable[[T], Awaitable[R]], concurrency: int
) -> AsyncGenerator[tuple[T, R], None]:
    """`work` on the items of `source`, `concurrency` at a time, results in the order of the items.

    A result does not wait for the next item, which may be long in coming. At most twice as many items are held. An error of
    the source ends everything at once; closing the generator, or any error, cancels what is under way.
    """
    running = asyncio.Semaphore(concurrency)
    places = asyncio.Semaphore(2 * concurrency)
    begun: asyncio.Queue[tuple[T, asyncio.Task[R]] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[R]] = set()

    async def limited(item: T) -> R:
        async with running:
            return await work(item)

    async def begin_all() -> None:
        try:
            async with contextlib.aclosing(source) as items:
                await places.acquire()
                async for item in items:
                    task = asyncio.create_task(limited(item))
                    tasks.add(task)
                    begun.put_nowait((item, task))
                    await places.acquire()
        finally:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin_all())
    try:
        while (next_one := await begun.get()) is not None:
            item, task = next_one
            await _until_done(task, beginning)
            tasks.discard(task)
            places.release()
            yield item, task.result()
        await beginning
    finally:
        for each in (beginning, *tasks):
            each.cancel()
        await asyncio.gather(beginning, *tasks, return_exceptions=True)


async def _until_done(task: asyncio.Task[Any], beginning: asyncio.Task[None]) -> None:
    """Waits for `task`. Raises what `beginning` raises, without waiting any longer."""
    while not task.done():
        watched = {task} if beginning.done() else {task, beginning}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
