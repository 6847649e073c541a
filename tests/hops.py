"""Both sides of a hop for its tests: predictors on this event loop that answer as told, and calls of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from kserve import InferRequest, InferResponse, Model
from starlette.requests import Request
from starlette.responses import Response

from serving import v2
from serving.auth import Keys
from serving.deadline import Deadline
from serving.errors import ServingError
from serving.hop import PredictorClient
from serving.middleware import Drain
from serving.routes import BodyBudget, JsonLimit, protocol_router
from serving.server import wrap

Answer = Callable[[Request], Awaitable[Response]]


class Sums(Model):  # type: ignore[misc]  # kserve ships no types
    """A KServe model that adds up what it is sent: the predictor's side of the kit, without an engine."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        sums = {name: np.array([array.sum(dtype=np.float64)]) for name, array in v2.tensors(payload).items()}
        return v2.response(payload, self.name, sums, {"contract": "sums/1"})


def predictor(limit: int = 1 << 30, json_limit: int = 1 << 20, revision: str = "", bodies: int = 1 << 30) -> FastAPI:
    """The app of a pod that serves `Sums` as the model `m`, with bodies up to `limit` bytes, `bodies` of all together."""
    app = FastAPI()
    app.include_router(protocol_router(Sums(), JsonLimit(json_limit, 1000), BodyBudget(bodies)))
    return wrap(app, {}, Keys(), Drain(), limit, revision=revision)


class Scripted:
    """A server that answers call after call from a list, the last entry for ever, and keeps what it was sent."""

    def __init__(self, *answers: Response | Answer):
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.peers: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.requests.append(request)
        self.peers.add(scope["client"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Response):
            self.bodies.append(await request.body())
        await (answer if isinstance(answer, Response) else await answer(request))(scope, receive, send)


OK = b'{"model_name":"m","outputs":[{"name":"RESULT","shape":[1],"datatype":"INT32","data":[7]}]}'


def ok() -> Response:
    """A V2 answer: `RESULT` is [7]."""
    return Response(OK, media_type="application/json")


def refused(status: int, text: str = "what was wrong", **headers: str) -> Response:
    """An error in KServe's shape."""
    return Response(b'{"error":"%s"}' % text.encode(), status, headers=headers)


def request(**parameters: Any) -> InferRequest:
    """A request of one small tensor."""
    return v2.request("m", {"X": np.arange(4, dtype=np.float32)}, parameters)


@asynccontextmanager
async def client(port: int, **options: Any) -> AsyncIterator[PredictorClient]:
    """A client of the predictor on `port`, closed at the end of the block."""
    made = PredictorClient(f"127.0.0.1:{port}", "m", **options)
    try:
        yield made
    finally:
        await made.close()


async def infer(port: int, headers: dict[str, str] | None = None, seconds: float = 10.0) -> InferResponse:
    """One call by a client of its own."""
    async with client(port) as made:
        return await made.infer(request(), headers or {}, Deadline(seconds))


async def refusal(port: int, seconds: float = 10.0) -> ServingError:
    """The error of a call; no error of the hop may carry the predictor's address."""
    with pytest.raises(ServingError) as caught:
        await infer(port, seconds=seconds)
    assert "127.0.0.1" not in caught.value.message
    assert str(port) not in caught.value.message
    return caught.value
