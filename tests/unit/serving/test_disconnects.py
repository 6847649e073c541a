"""Clients that go away: their work is cancelled, and nothing of it is left behind."""

import asyncio
from typing import Any

import pytest

from serving import errors
from serving.middleware import unless_disconnected


async def test_work_is_cancelled_when_its_client_goes() -> None:
    gone, cancelled = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(unless_disconnected(receive, work()))
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(errors.InvalidInput, match="the client went away"):
        await asyncio.wait_for(task, 5)
    assert cancelled.is_set()


async def test_work_that_ends_first_is_answered_and_leaves_no_task_behind() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def work(fail: bool) -> int:
        if fail:
            raise errors.Unprocessable("no")
        return 7

    assert await unless_disconnected(receive, work(False)) == 7
    with pytest.raises(errors.Unprocessable):
        await unless_disconnected(receive, work(True))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_the_request_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(unless_disconnected(receive, work()))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
