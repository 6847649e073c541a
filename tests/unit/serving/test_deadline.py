"""One deadline a request: from the header or the setting, enforced from the first byte on, also against slow senders."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request

from serving.auth import Keys
from serving.deadline import CURRENT, HEADER, Deadline
from serving.errors import DeadlineExceeded
from serving.middleware import Drain
from serving.server import wrap
from tests.conftest import ServeApp


def app(drain: Drain) -> FastAPI:
    routes = FastAPI()

    @routes.post("/read")
    async def read(request: Request) -> dict[str, float]:
        await request.body()
        deadline = CURRENT.get()
        assert deadline is not None
        return {"seconds": deadline.seconds}

    return wrap(routes, {}, Keys(), drain, 1000, seconds=30)


@pytest.mark.parametrize(("headers", "seconds"), [({}, 30), ({HEADER: "2.5"}, 2.5)])
async def test_the_header_or_else_the_setting_decides(
    serve_app: ServeApp, headers: dict[str, str], seconds: float
) -> None:
    port = await serve_app(app(Drain()))
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/read", headers=headers)
    assert answer.json() == {"seconds": seconds}


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
async def test_a_bad_header_is_refused_before_the_body_is_read(serve_app: ServeApp, text: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve_app(app(Drain())))
    writer.write(f"POST /read HTTP/1.1\r\nhost: x\r\n{HEADER}: {text}\r\ncontent-length: 9\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_sender_that_stalls_is_answered_at_the_deadline_and_no_longer_in_flight(serve_app: ServeApp) -> None:
    drain = Drain()
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve_app(app(drain)))
    writer.write(f"POST /read HTTP/1.1\r\nhost: x\r\n{HEADER}: 0.1\r\ncontent-length: 9\r\n\r\nhalf".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 504")
    writer.close()
    async with asyncio.timeout(10):
        await drain.wait()


async def test_what_times_out_by_itself_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError, match="a socket's"):
        async with Deadline(10).enforced():
            raise TimeoutError("a socket's")
    with pytest.raises(DeadlineExceeded, match=r"longer than its 0\.01 s"):
        async with Deadline(0.01).enforced():
            await asyncio.Event().wait()
