"""Items on their way to an engine that batches by itself: bounded, cancellable, measured; and the end of such an engine."""

import asyncio
import logging

import pytest
from prometheus_client import REGISTRY

from serving.admission import Admission
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrResult
from serving.engine import ConcurrentEngine
from serving.errors import InternalError, Overloaded, PredictorUnavailable, Unprocessable
from serving.predictor import Predictor
from serving.settings import PredictorSettings


class Held:
    """Holds every item until it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, item: int) -> int:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return 2 * item


def length() -> float | None:
    return REGISTRY.get_sample_value("sonotome_batch_queue_length", {"model_name": "admission"})


async def test_items_are_worked_on_together() -> None:
    held = Held()
    admission = Admission(held, max_items=8, name="admission")
    tasks = [asyncio.create_task(admission.submit(item)) for item in range(8)]
    await asyncio.sleep(0)
    assert length() == 8
    held.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert length() == 0


async def test_one_too_many_is_refused_and_the_next_has_a_place_again() -> None:
    held = Held()
    admission = Admission(held, max_items=1, name="admission")
    first = asyncio.create_task(admission.submit(1))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="MAX_QUEUE") as caught:
        await admission.submit(2)
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after == pytest.approx(1.0)
    held.gate.set()
    assert await first == 2
    assert await admission.submit(3) == 6


async def test_who_leaves_takes_the_item_along() -> None:
    held = Held()
    admission = Admission(held, max_items=1, name="admission")
    task = asyncio.create_task(admission.submit(1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (held.cancelled, length()) == (1, 0)


@pytest.mark.parametrize(("raised", "seen"), [(Unprocessable("no"), Unprocessable), (KeyError("x"), InternalError)])
async def test_what_an_engine_raises(
    raised: Exception, seen: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_item: int) -> int:
        raise raised

    with caplog.at_level(logging.ERROR), pytest.raises(seen):
        await Admission(fail, max_items=1, name="admission").submit(1)
    assert ("the engine failed" in caplog.text) == (seen is InternalError)


class Mortal:
    """An `asr/1` engine that batches by itself, and dies when it is told."""

    device = "fake"

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.closed = False

    def load(self) -> None:
        """Nothing to load."""

    async def infer(self, item: AsrInput) -> AsrResult:
        return AsrResult(text=f"{len(item.samples)} samples")

    async def died(self) -> str:
        await self.end.wait()
        return "it was told to"

    def close(self) -> None:
        self.closed = True


async def test_a_predictor_is_ready_until_its_engine_dies(caplog: pytest.LogCaptureFixture) -> None:
    engine = Mortal()
    assert isinstance(engine, ConcurrentEngine)
    predictor = Predictor(asr, engine, PredictorSettings(model_name="mortal"))
    await predictor.start_up()
    assert predictor.ready
    assert not predictor.dead.is_set()
    engine.end.set()
    await asyncio.wait_for(predictor.dead.wait(), 5)
    assert not predictor.ready
    assert "it was told to" in caplog.text
    await predictor.shut_down()
    assert engine.closed


class Stillborn(Mortal):
    """Dies of its first item."""

    async def infer(self, item: AsrInput) -> AsrResult:
        self.end.set()
        raise PredictorUnavailable("the model stopped while it worked on this request, send it once more")


async def test_an_engine_that_dies_as_it_warms_up_says_why_and_not_what_clients_are_told() -> None:
    engine = Stillborn()
    predictor = Predictor(asr, engine, PredictorSettings(model_name="mortal"))
    with pytest.raises(RuntimeError, match="died as it warmed up: it was told to"):
        await predictor.start_up()
    assert not predictor.ready
    await predictor.shut_down()
    assert engine.closed
