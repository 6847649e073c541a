"""A transformer's KServe model: V1 and V2 requests in, one job a file or tensor, V1 and V2 answers out.

What a job is and how it is done, the transformers know; their public routes do the same jobs without this class.
"""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from kserve import InferRequest, InferResponse, Model

from serving.known_predictor import KnownPredictor

J = TypeVar("J")
R = TypeVar("R")


class Workers(Protocol):
    """What a transformer starts with its pod and ends with it, such as a pool of decoders."""

    async def start(self) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Transformer(Model, Generic[J, R]):  # type: ignore[misc]  # kserve ships no types
    """Ready once its workers run. The predictor is woken as the pod starts, so that both come up from zero together.

    It is not waited for: KServe scales the two apart.
    """

    def __init__(self, model_name: str, client: KnownPredictor, *workers: Workers):
        super().__init__(model_name)
        self.dead = asyncio.Event()
        self._client = client
        self._workers = workers

    @abstractmethod
    async def read_v1(self, body: dict[str, Any], resources: contextlib.ExitStack) -> list[J]:
        """The jobs of a V1 request; the files that they need are closed with `resources`. Raises ServingError."""

    @abstractmethod
    async def read_v2(self, request: InferRequest, resources: contextlib.ExitStack) -> list[J]:
        """The jobs of a V2 request, as `read_v1`."""

    @abstractmethod
    async def work(self, job: J, headers: Mapping[str, str]) -> R:
        """The result of a job. Raises ServingError. Cancelling it frees what it takes."""

    @abstractmethod
    def write_v1(self, results: Sequence[R]) -> dict[str, Any]:
        """The V1 answer, one prediction a job."""

    @abstractmethod
    def write_v2(self, results: Sequence[R], request: InferRequest) -> InferResponse:
        """The V2 answer, one row a job."""

    async def start_up(self) -> None:
        """Wakes the predictor, then starts the workers."""
        self._client.wake()
        for workers in self._workers:
            await workers.start()
        self.ready = True

    async def shut_down(self) -> None:
        """Stops the workers and closes the connections to the predictor."""
        self.ready = False
        for workers in self._workers:
            await workers.close()
        await self._client.close()

    def health(self) -> dict[str, Any]:
        """The predictor's device and whether its model is loaded, as far as this pod knows without asking."""
        return self._client.known()

    def load(self) -> bool:
        """KServe calls this for a request to a model that is not ready; `start_up` does the starting."""
        return bool(self.ready)

    def validate(self, payload: Any) -> Any:
        """KServe checks the shape of V1 and V2 bodies here; `preprocess` has done so."""
        return payload

    async def preprocess(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> tuple[Any, list[J], contextlib.ExitStack, Mapping[str, str]]:
        """The request and its jobs. Raises ServingError."""
        with contextlib.ExitStack() as resources:
            if isinstance(payload, InferRequest):
                jobs = await self.read_v2(payload, resources)
            else:
                jobs = await self.read_v1(payload, resources)
            return payload, jobs, resources.pop_all(), headers or {}

    async def predict(
        self,
        payload: tuple[Any, list[J], contextlib.ExitStack, Mapping[str, str]],
        headers: dict[str, str] | None = None,
    ) -> tuple[Any, list[R]]:
        """The results, in the order of the jobs; one that fails fails the request."""
        request, jobs, resources, sent = payload
        tasks = [asyncio.create_task(self.work(job, sent)) for job in jobs]
        with resources:
            try:
                return request, await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def postprocess(
        self, result: tuple[Any, list[R]], headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """The answer in the protocol of the request."""
        request, results = result
        if isinstance(request, InferRequest):
            return self.write_v2(results, request)
        return self.write_v1(results)
