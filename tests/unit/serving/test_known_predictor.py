"""What a transformer tells of its predictor without asking it: what the last calls said, over real sockets."""

from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.deadline import Deadline
from serving.errors import PredictorUnavailable
from serving.known_predictor import KnownPredictor
from tests.hops import ok, refused, request
from tests.pods import free_port
from tests.servers import Listener, listen, until


class App:
    """A predictor of the model `m`, which may be too busy to work; `asked` are the paths of health that were called."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.busy = False
        self.asked: list[str] = []

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        path = Request(scope, receive).url.path
        answer: Response
        if path.endswith("/infer"):
            answer = refused(503) if self.busy else ok()
        else:
            self.asked.append(path)
            answer = JSONResponse({"status": "ok", "device": self.device, "model_loaded": True})
        await answer(scope, receive, send)


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def listener(app: App) -> AsyncIterator[Listener]:
    listener = await listen(app)
    yield listener
    await listener.stop()


@pytest.fixture
async def known(listener: Listener) -> AsyncIterator[KnownPredictor]:
    """A client that has found its predictor ready."""
    client = KnownPredictor(f"127.0.0.1:{listener.port}", "m", retry_seconds=0)
    client.wake()
    await until(lambda: client.known()["model_loaded"])
    yield client
    await client.close()


async def call(client: KnownPredictor) -> None:
    await client.infer(request(), {}, Deadline(10))


async def test_a_predictor_that_died_is_known_to_be_gone_by_the_next_call_and_back_by_another(
    known: KnownPredictor, listener: Listener
) -> None:
    assert known.known() == {"device": "cpu", "model_loaded": True}
    await listener.stop()
    with pytest.raises(PredictorUnavailable):
        await call(known)
    assert known.known() == {"device": "cpu", "model_loaded": False}
    again = await listen(App("cuda"), listener.port)
    await call(known)
    assert known.known()["model_loaded"] is True
    await until(lambda: known.known() == {"device": "cuda", "model_loaded": True})
    await again.stop()


async def test_a_predictor_that_is_busy_is_loaded_all_the_same(known: KnownPredictor, app: App) -> None:
    app.busy = True
    with pytest.raises(PredictorUnavailable):
        await call(known)
    await until(lambda: known.known()["model_loaded"])


async def test_a_predictor_is_not_asked_as_long_as_calls_go_as_is_known(known: KnownPredictor, app: App) -> None:
    asked = list(app.asked)
    for _ in range(3):
        await call(known)
        assert known.known()["model_loaded"] is True
    assert app.asked == asked == ["/v2/models/m/ready", "/health"]


async def test_a_predictor_that_is_not_there_yet_is_asked_until_it_is(app: App) -> None:
    client = KnownPredictor(f"127.0.0.1:{(port := free_port())}", "m")
    client.wake()
    assert client.known() == {"device": None, "model_loaded": False}
    listener = await listen(app, port)
    await until(lambda: client.known() == {"device": "cpu", "model_loaded": True})
    await client.close()
    await listener.stop()


async def test_a_client_that_still_asks_is_closed() -> None:
    client = KnownPredictor(f"127.0.0.1:{free_port()}", "m")
    client.wake()
    await client.close()
    assert client.known()["model_loaded"] is False
