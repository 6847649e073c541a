"""Results in order, each as soon as it can be, and nothing left under way."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from transformers_pre.audio.ordered import ordered


class Source:
    """Numbers, given out as a test says."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.given = 0
        self.closed = False

    async def __call__(self) -> AsyncGenerator[int, None]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                yield item
        finally:
            self.closed = True


class Work:
    """Doubles a number when it is let go."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.cancelled: list[int] = []

    async def __call__(self, item: int) -> int:
        gate = self.gates.setdefault(item, asyncio.Event())
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        return 2 * item


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_result_does_not_wait_for_the_next_item() -> None:
    source, work = Source(), Work()
    results = ordered(source(), work, 2)
    first = asyncio.ensure_future(anext(results))
    source.items.put_nowait(1)
    await settle()
    work.gates[1].set()
    assert await first == (1, 2)
    await results.aclose()
    assert source.closed


async def test_results_come_in_the_order_of_the_items_and_some_at_a_time() -> None:
    source, work = Source(), Work()
    for item in (*range(10), None):
        source.items.put_nowait(item)
    results = ordered(source(), work, 2)
    first = asyncio.ensure_future(anext(results))
    await settle()
    assert sorted(work.gates) == [0, 1]
    assert source.given == 4
    work.gates[1].set()
    await settle()
    assert not first.done()
    work.gates[0].set()
    assert await first == (0, 0)
    for item in range(10):
        work.gates.setdefault(item, asyncio.Event()).set()
    assert [result async for result in results] == [(item, 2 * item) for item in range(1, 10)]


async def test_an_error_of_the_source_ends_it_at_once() -> None:
    source, work = Source(), Work()
    source.items.put_nowait(1)
    first = asyncio.ensure_future(anext(ordered(source(), work, 2)))
    await settle()
    source.items.put_nowait(OSError("the file ends"))
    with pytest.raises(OSError, match="the file ends"):
        await first
    assert work.cancelled == [1]
    assert source.closed


async def test_an_error_of_the_work_cancels_the_rest() -> None:
    source = Source()
    cancelled = []

    async def work(item: int) -> int:
        if item == 0:
            await settle()
            raise ValueError("no")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    for item in range(3):
        source.items.put_nowait(item)
    with pytest.raises(ValueError, match="no"):
        await anext(ordered(source(), work, 3))
    await settle()
    assert sorted(cancelled) == [1, 2]
