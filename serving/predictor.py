"""A predictor: the KServe model around an engine. Contract in, batches through the engine, contract out."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from kserve import InferRequest, InferResponse, Model
from kserve.errors import ModelNotReady

from serving import telemetry
from serving.admission import Admission
from serving.batching import Batcher
from serving.engine import ConcurrentEngine, Described, Engine
from serving.errors import PredictorUnavailable, TooLarge
from serving.settings import PredictorSettings
from serving.threads import in_turn

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
I_contra = TypeVar("I_contra", contravariant=True)
R_contra = TypeVar("R_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
logger = logging.getLogger(__name__)


class Contract(Protocol[I, R_contra]):
    """What a module of `serving.contracts` offers to the predictor's side."""

    NAME: str

    def read_request(self, request: InferRequest) -> list[I]: ...  # noqa: D102
    def write_response(self, results: Sequence[R_contra], request: InferRequest, model_name: str) -> InferResponse: ...  # noqa: D102
    def read_v1(self, body: dict[str, Any]) -> list[I]: ...  # noqa: D102
    def write_v1(self, results: Sequence[R_contra]) -> dict[str, Any]: ...  # noqa: D102
    def warm_up_item(self) -> I: ...  # noqa: D102
    def input_types(self) -> list[dict[str, Any]]: ...  # noqa: D102
    def output_types(self) -> list[dict[str, Any]]: ...  # noqa: D102


class Dispatcher(Protocol[I_contra, R_co]):
    """The way of items to the engine: `serving.batching.Batcher`, or `serving.admission.Admission`."""

    async def submit(self, item: I_contra) -> R_co: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Predictor(Model, Generic[I, R]):  # type: ignore[misc]  # kserve ships no types
    """Serves an engine by V1, V2 and gRPC. Ready only after the engine answered a warm-up item, until the engine dies.

    Args:
        contract: the module of `serving.contracts` that the engine keeps.
        engine: see `serving.engine`.
        settings: name and batching limits.
    """

    def __init__(
        self, contract: Contract[I, R], engine: Engine[I, R] | ConcurrentEngine[I, R], settings: PredictorSettings
    ):
        super().__init__(settings.model_name)
        self.dead = asyncio.Event()
        self._contract = contract
        self._engine = engine
        self._settings = settings
        self._dispatcher: Dispatcher[I, R] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start_up(self) -> None:
        """Loads the weights and answers one warm-up item; ready afterwards.

        Raises ValueError, or RuntimeError for an engine that dies, with one clear sentence.
        """
        await asyncio.to_thread(self._engine.load)
        telemetry.mark_cold_start("load")
        self._dispatcher = self._dispatch()
        await self._warm_up(self._dispatcher)
        telemetry.mark_cold_start("warmup")
        self.ready = True
        if isinstance(self._engine, ConcurrentEngine):
            self._watch = asyncio.create_task(self._until_dead(self._engine))

    async def _warm_up(self, dispatcher: Dispatcher[I, R]) -> None:
        try:
            await dispatcher.submit(self._contract.warm_up_item())
        except PredictorUnavailable as error:
            if not isinstance(self._engine, ConcurrentEngine):
                raise
            # What clients are told of a death does not say why.
            raise RuntimeError(f"the engine died as it warmed up: {await self._engine.died()}") from error

    def _dispatch(self) -> Dispatcher[I, R]:
        settings, engine = self._settings, self._engine
        if isinstance(engine, ConcurrentEngine):
            return Admission(engine.infer, max_items=settings.max_queue, name=self.name)
        return Batcher(
            engine.run,
            engine.batch_key,
            max_size=settings.max_batch_size,
            max_wait=settings.max_batch_wait_ms / 1000,
            max_queue=settings.max_queue,
            name=self.name,
        )

    async def _until_dead(self, engine: ConcurrentEngine[I, R]) -> None:
        reason = await engine.died()
        logger.critical("the engine died: %s", reason)
        self.ready = False
        self.dead.set()

    async def shut_down(self) -> None:
        """Frees the engine, after the batch that it works on."""
        self.ready = False
        if self._watch is not None:
            self._watch.cancel()
        if self._dispatcher is not None:
            await self._dispatcher.close()
            await asyncio.to_thread(self._engine.close)

    def health(self) -> dict[str, Any]:
        """What `/health` says besides its status."""
        return {"device": self._engine.device, "model_loaded": bool(self.ready)}

    def load(self) -> bool:
        """KServe calls this, on the event loop, for a request to a model that is not ready; `start_up` does the loading."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata."""
        return self._contract.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata."""
        return self._contract.output_types()

    def described(self) -> dict[str, Any]:
        """The contract, and what the engine says of its weights."""
        known = self._engine.described() if isinstance(self._engine, Described) else {}
        return {"contract": self._contract.NAME, **known}

    def validate(self, payload: Any) -> Any:
        """KServe checks the shape of V1 and V2 bodies here; the contract has done so in `preprocess`."""
        return payload

    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> tuple[Any, list[I]]:
        """The request and its items."""
        if self._dispatcher is None or not self.ready:
            raise ModelNotReady(self.name)
        # No closures: that of a refusal would hold the body until the garbage collector comes by.
        if isinstance(payload, InferRequest):
            return payload, await in_turn(partial(self._contract.read_request, payload))
        return payload, await in_turn(partial(self._contract.read_v1, payload))

    async def predict(self, payload: tuple[Any, list[I]], headers: dict[str, str] | None = None) -> tuple[Any, list[R]]:
        """The engine's results, in the order of the items; the first error of an item is the request's."""
        request, items = payload
        dispatcher = self._dispatcher
        assert dispatcher is not None  # noqa: S101  # preprocess has seen it
        if len(items) > self._settings.max_queue:
            raise TooLarge(
                f"the request has {len(items)} items, at most {self._settings.max_queue} fit the queue (MAX_QUEUE)",
                code="too_many_items",
            )
        tasks = [asyncio.create_task(dispatcher.submit(item)) for item in items]
        try:
            return request, await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # the rest of a request that failed, or whose client went away

    async def postprocess(
        self, result: tuple[Any, list[R]], headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """The answer in the protocol of the request."""
        request, results = result
        if isinstance(request, InferRequest):
            return self._contract.write_response(results, request, self.name)
        return self._contract.write_v1(results)
