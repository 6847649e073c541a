"""V1 and V2 over HTTP: the limits of JSON, which are smaller than the body's, and how outputs are asked for."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.types import Message

from serving import v2
from serving.auth import Keys
from serving.errors import Overloaded
from serving.middleware import Drain
from serving.routes import BodyBudget, JsonLimit, protocol_router
from serving.server import wrap
from tests.conftest import ServeApp
from tests.hops import Sums, predictor

LIMIT = 2000
REFUSAL = f"bytes of JSON; at most {LIMIT} are accepted (MAX_JSON_BYTES), send tensors as binary"


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
async def test_json_over_the_limit_is_413(serve_app: ServeApp, path: str) -> None:
    port = await serve_app(predictor(json_limit=LIMIT))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for size, status in ((LIMIT, 400), (LIMIT + 1, 413)):
            answer = await client.post(path, content=b" " * size)
            assert answer.status_code == status
        assert answer.json() == {"error": f"{LIMIT + 1} {REFUSAL}"}


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
async def test_json_over_the_limit_is_413_without_a_length_too(serve_app: ServeApp, path: str) -> None:
    port = await serve_app(predictor(json_limit=LIMIT))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.post(path, content=_pieces(b" " * LIMIT))).status_code == 400
        answer = await client.post(path, content=_pieces(b" " * (LIMIT + 1)))
        refusal = f"more bytes of JSON; at most {LIMIT} {REFUSAL.partition(str(LIMIT))[2].strip()}"
        assert (answer.status_code, answer.json()) == (413, {"error": refusal})


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
async def test_json_over_the_limit_is_received_no_further(path: str) -> None:
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 100
        return {"type": "http.request", "body": b" " * 100, "more_body": received < 10 * LIMIT}

    budget, statuses, until_refused = BodyBudget(1 << 30), [], []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            until_refused.append(received)

    app = FastAPI()
    app.include_router(protocol_router(Sums(), JsonLimit(LIMIT, 1000), budget))
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    await wrap(app, {}, Keys(), Drain(), 1 << 30)(scope, receive, send)
    assert (statuses, until_refused) == ([413], [LIMIT + 100])


async def test_many_small_values_are_413(serve_app: ServeApp) -> None:
    port = await serve_app(predictor())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        lists = b'{"instances": [' + b",".join([b"[]"] * 1000) + b"]}"
        names = b'{"instances": {' + b",".join(b'"%d":0' % i for i in range(600)) + b"}}"
        for body in (lists, names):
            answer = await client.post("/v1/models/m:predict", content=body)
            refusal = "more than 1000 values and names in the JSON (MAX_JSON_VALUES), send tensors as binary"
            assert (answer.status_code, answer.json()) == (413, {"error": refusal})


async def test_binary_tensors_do_not_count(serve_app: ServeApp) -> None:
    parts, length = v2.encode(v2.request("m", {"X": np.ones(10_000, np.float32)}))
    port = await serve_app(predictor(json_limit=LIMIT))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        headers = {"inference-header-content-length": str(length)}
        answer = await client.post("/v2/models/m/infer", content=b"".join(parts), headers=headers)
        assert answer.status_code == 200
        headers = {"inference-header-content-length": str(LIMIT + 1)}
        assert (await client.post("/v2/models/m/infer", content=b"".join(parts), headers=headers)).status_code == 413


@pytest.mark.parametrize(
    ("outputs", "parameters", "message"),
    [
        ([], {"binary_data_output": "false"}, "'binary_data_output' must be true or false"),
        ([{"name": "X", "parameters": {"binary_data": 1}}], {}, "'binary_data' must be true or false"),
        ([{"name": "X"}, {"name": "X"}], {}, "an output is asked for twice"),
    ],
)
async def test_output_choices_that_say_nothing_clear_are_400(
    serve_app: ServeApp, outputs: list[dict[str, object]], parameters: dict[str, object], message: str
) -> None:
    port = await serve_app(predictor())
    inputs = [{"name": "X", "shape": [1], "datatype": "FP32", "data": [1]}]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        body = {"inputs": inputs, "outputs": outputs, "parameters": parameters}
        answer = await client.post("/v2/models/m/infer", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})


def test_bodies_in_memory_are_bounded_all_together() -> None:
    budget = BodyBudget(2500)
    with budget.share() as first, budget.share() as second:
        first(1000)
        second(1000)
        with pytest.raises(
            Overloaded, match=r"hold 2000 bytes of bodies; with 1000 more .*MAX_BODIES_BYTES"
        ) as refused:
            second(1000)
        assert refused.value.retry_after == 1.0
        second(500)
    with budget.share() as third:
        third(2500)


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
async def test_a_body_that_finds_no_room_is_503(serve_app: ServeApp, path: str) -> None:
    port = await serve_app(predictor(bodies=500))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for content in (b" " * 501, _pieces(b" " * 501)):  # by its length, and counted as it comes
            answer = await client.post(path, content=content)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await client.post(path, content=b" " * 500)).status_code == 400  # what was refused holds nothing


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


async def test_a_length_that_is_only_announced_takes_no_room(serve_app: ServeApp) -> None:
    """Else two headers would keep everybody else out for as long as a request may last."""
    port = await serve_app(predictor(bodies=500))
    liars = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for _, writer in liars:
        writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: 400\r\n\r\n{")
        await writer.drain()
    body = b'{"inputs": [{"name": "X", "shape": [1], "datatype": "FP32", "data": [1.0]}]}'.ljust(400)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for _ in range(20):  # meanwhile the liars' requests have begun
            assert (await client.post("/v2/models/m/infer", content=body)).status_code == 200
    for _, writer in liars:
        writer.close()
