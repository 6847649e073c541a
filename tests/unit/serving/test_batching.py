"""The batcher: joins what waits, is bounded, forgets what was cancelled, survives its engine, and is fair."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from serving import telemetry
from serving.batching import Batcher
from serving.errors import InternalError, Overloaded, ServingError, Unprocessable

Engine = Callable[[Sequence[Any]], Any]


class Gated:
    """An engine that answers an item with itself, one batch at a time as the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        self.begun.release()
        self.gate.acquire()
        return items

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@asynccontextmanager
async def batching(run: Engine, **limits: Any) -> AsyncIterator[Batcher[Any, Any]]:
    key = limits.pop("key", lambda _: None)
    made: Batcher[Any, Any] = Batcher(
        run, key, **{"max_size": 4, "max_wait": 0.0, "max_queue": 100, "name": "unit", **limits}
    )
    try:
        yield made
    finally:
        if isinstance(run, Gated):
            run.gate.release(1000)
        await made.close()


async def settled(count: int) -> None:
    """Lets every task that can run do so, `count` times over."""
    for _ in range(count):
        await asyncio.sleep(0)


def submit(batcher: Batcher[Any, Any], *items: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"sonotome_{name}", {"model_name": "unit"}) or 0.0


async def test_one_item_is_answered_without_company() -> None:
    async with batching(list) as batcher:
        assert await asyncio.wait_for(batcher.submit("a"), 5) == "a"


async def test_items_that_wait_together_share_a_batch_up_to_its_size() -> None:
    engine = Gated()
    async with batching(engine, max_size=4) as batcher:
        first = submit(batcher, "busy")
        await engine.until_begun()
        rest = submit(batcher, *"abcdef")
        await settled(5)
        engine.gate.release(10)
        assert await asyncio.gather(*first, *rest) == ["busy", *"abcdef"]
    assert engine.batches == [["busy"], list("abcd"), list("ef")]


async def test_an_incomplete_batch_waits_for_company_but_no_longer_than_the_limit() -> None:
    engine = Gated()
    engine.gate.release(10)
    async with batching(engine, max_size=2, max_wait=30.0) as batcher:
        alone = submit(batcher, "a")
        await settled(20)
        assert engine.batches == []  # it waits
        company = submit(batcher, "b")
        assert await asyncio.wait_for(asyncio.gather(*alone, *company), 5) == ["a", "b"]  # full, so at once
    assert engine.batches == [["a", "b"]]
    async with batching(list, max_size=2, max_wait=0.02) as batcher:
        assert await asyncio.wait_for(batcher.submit("a"), 5) == "a"


async def test_unlike_items_are_never_mixed_and_answers_keep_their_owners() -> None:
    engine = Gated()
    async with batching(engine, max_size=8, key=lambda item: item[0]) as batcher:
        tasks = submit(batcher, "x0")
        await engine.until_begun()
        tasks += submit(batcher, "a1", "b1", "a2", "c1", "b2", "a3")
        await settled(5)
        engine.gate.release(10)
        assert await asyncio.gather(*tasks) == ["x0", "a1", "b1", "a2", "c1", "b2", "a3"]
    assert engine.batches == [["x0"], ["a1", "a2", "a3"], ["b1", "b2"], ["c1"]]


async def test_a_flood_of_one_key_does_not_starve_another() -> None:
    """The flood is refilled for as long as the lone item waits; only its being older saves it."""
    engine = Gated()
    async with batching(engine, max_size=4, key=lambda item: item[0]) as batcher:
        tasks = submit(batcher, "x")
        await engine.until_begun()
        tasks += submit(batcher, *["flood"] * 8)
        await settled(5)
        lone = submit(batcher, "lone")
        for _ in range(4):
            tasks += submit(batcher, *["flood"] * 8)
            await settled(5)
            engine.gate.release()
            await engine.until_begun()
        assert ["lone"] in engine.batches[:5]
        engine.gate.release(1000)
        await asyncio.gather(*lone, *tasks)


# --- the bound ---


async def test_more_than_the_queue_holds_is_refused_with_a_time_to_come_back() -> None:
    engine = Gated()
    async with batching(engine, max_size=1, max_queue=3) as batcher:
        running = submit(batcher, "running")
        await engine.until_begun()
        waiting = submit(batcher, "a", "b", "c")
        await settled(5)
        assert metric("batch_queue_length") == 3
        with pytest.raises(Overloaded, match=r"3 requests are waiting, which is the limit \(MAX_QUEUE\)") as caught:
            await batcher.submit("d")
        assert caught.value.http_status == 503
        assert caught.value.code == "queue_full"
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 0
        engine.gate.release(10)
        assert await asyncio.gather(*running, *waiting) == ["running", "a", "b", "c"]
        assert await asyncio.wait_for(batcher.submit("e"), 5) == "e"  # there is room again


# --- cancelling ---


async def test_a_cancelled_item_frees_its_place_and_is_never_computed() -> None:
    engine = Gated()
    async with batching(engine, max_size=1, max_queue=2) as batcher:
        running = submit(batcher, "running")
        await engine.until_begun()
        gone, stays = submit(batcher, "gone", "stays")
        await settled(5)
        gone.cancel()
        await settled(5)
        assert metric("batch_queue_length") == 1
        late = submit(batcher, "late")
        await settled(5)
        engine.gate.release(10)
        assert await asyncio.gather(*running, stays, *late) == ["running", "stays", "late"]
    assert engine.batches == [["running"], ["stays"], ["late"]]


async def test_cancelling_one_of_a_running_batch_leaves_the_others_their_answers() -> None:
    engine = Gated()
    async with batching(engine, max_size=3, max_wait=5.0) as batcher:
        first, second, third = submit(batcher, "a", "b", "c")
        await engine.until_begun()
        second.cancel()
        await settled(5)
        engine.gate.release(10)
        assert list(await asyncio.gather(first, third)) == ["a", "c"]
        assert second.cancelled()
        assert await asyncio.gather(*submit(batcher, "d", "e", "f")) == ["d", "e", "f"]


async def test_items_that_come_and_go_while_a_batch_gathers_leave_nothing_behind() -> None:
    """Each one is cancelled before its batch forms; the worker must not call itself once more for each."""
    async with batching(list, max_size=2, max_wait=0.002) as batcher:
        depths = set()
        for _ in range(30):
            (task,) = submit(batcher, "gone")
            await settled(3)
            task.cancel()
            await asyncio.wait({task})
            worker, depth = batcher._task, 0
            assert worker is not None
            awaited: Any = worker.get_coro()
            while (awaited := getattr(awaited, "cr_await", None)) is not None:
                depth += 1
            depths.add(depth)
            await asyncio.sleep(0.003)  # past `max_wait`: the batch would have formed
        assert max(depths) < 10
        assert await asyncio.wait_for(batcher.submit("stays"), 10) == "stays"


# --- an engine that fails ---


async def test_one_items_refusal_is_its_own() -> None:
    def run(items: Sequence[str]) -> list[str | ServingError]:
        return [Unprocessable("too loud") if item == "loud" else item for item in items]

    async with batching(run, max_wait=5.0, max_size=3) as batcher:
        answers = await asyncio.gather(*submit(batcher, "a", "loud", "b"), return_exceptions=True)
    assert (answers[0], answers[2]) == ("a", "b")
    assert isinstance(answers[1], Unprocessable)


def fault(kind: str) -> Engine:
    def run(items: Sequence[str]) -> list[str]:
        if "bad" not in items:
            return list(items)
        match kind:
            case "raises":
                raise RuntimeError("secret path /x")
            case "stops an iteration":
                return [next(iter(()))]
            case "too few results":
                return []
            case "too many results":
                return [*items, "more"]
            case _:
                return None  # type: ignore[return-value]  # an engine without a return

    return run


KINDS = ["raises", "stops an iteration", "too few results", "too many results", "no results"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_engine_that_fails_fails_its_batch_alone(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with batching(fault(kind), max_wait=5.0, max_size=2) as batcher:
        token = telemetry.REQUEST_ID.set("id-of-the-client")
        tasks = submit(batcher, "good", "bad")
        telemetry.REQUEST_ID.reset(token)
        with caplog.at_level(logging.ERROR, "serving.batching"):
            answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(answer) for answer in answers] == [InternalError, InternalError]
        assert "secret" not in str(answers)
        assert await asyncio.wait_for(asyncio.gather(*submit(batcher, "a", "b")), 5) == ["a", "b"]
    (record,) = caplog.records
    # The client is told that its request id finds the cause in the log: it must be there.
    assert vars(record)["request_ids"] == ["id-of-the-client", "id-of-the-client"]
    if kind == "raises":
        assert record.exc_info is not None
        assert "secret path /x" in str(record.exc_info[1])


async def test_an_engine_may_refuse_a_whole_batch() -> None:
    def run(items: Sequence[str]) -> list[str]:
        raise Unprocessable("no such language")

    async with batching(run, max_wait=5.0, max_size=2) as batcher:
        answers = await asyncio.gather(*submit(batcher, "a", "b"), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["no such language"] * 2


# --- closing, measuring ---


async def test_closing_ends_the_wait_of_those_in_the_queue_and_lets_the_running_batch_finish() -> None:
    engine = Gated()
    async with batching(engine, max_size=1) as batcher:
        submit(batcher, "running")
        await engine.until_begun()
        waiting = submit(batcher, "a", "b")
        await settled(5)
        closing = asyncio.create_task(batcher.close())
        answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [getattr(answer, "code", None) for answer in answers] == ["draining", "draining"]
        assert not closing.done()  # the engine is still at work
        engine.gate.release(10)
        await asyncio.wait_for(closing, 5)
    assert engine.batches == [["running"]]
    assert "engine_0" not in {thread.name for thread in threading.enumerate()}


async def test_what_is_measured() -> None:
    names = ("batch_size_sum", "batch_size_count", "batch_queue_seconds_count")
    before = [metric(name) for name in names]
    async with batching(list, max_size=3, max_wait=5.0) as batcher:
        await asyncio.gather(*submit(batcher, *"abc"))
    assert [metric(name) - start for name, start in zip(names, before, strict=True)] == [3, 1, 3]
    assert metric("batch_queue_length") == 0


async def test_the_event_loop_stays_free_while_the_engine_works() -> None:
    engine = Gated()
    async with batching(engine) as batcher:
        task = submit(batcher, "a")
        await engine.until_begun()
        assert threading.current_thread() is threading.main_thread()
        await settled(100)  # nothing here waits for the engine
        assert not task[0].done()
