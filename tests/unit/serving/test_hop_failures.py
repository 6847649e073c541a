"""The hop when the predictor refuses, fails, talks nonsense or dies: what a client is told, and what it never is."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from starlette.responses import Response

from serving import errors, v2
from serving.deadline import Deadline
from serving.errors import ServingError
from tests.hops import OK, Scripted, client, ok, predictor, refusal, refused, request
from tests.servers import ServeApp

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# --- what it passes on ---

PASSED_ON = {400: errors.InvalidInput, 401: errors.Unauthorized, 413: errors.TooLarge,
             415: errors.UnsupportedMedia, 422: errors.Unprocessable}  # fmt: skip


@pytest.mark.parametrize(("status", "cls"), PASSED_ON.items())
async def test_the_predictors_refusals_are_the_clients(
    serve_app: ServeApp, status: int, cls: type[ServingError]
) -> None:
    server = Scripted(refused(status, "at most 7 frobs"))
    error = await refusal(await serve_app(server))
    assert (type(error), error.message) == (cls, "at most 7 frobs")
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail":"x"}', b'"x"', b"\xff", b"null"])
async def test_a_refusal_without_a_message_has_one_of_ours(serve_app: ServeApp, body: bytes) -> None:
    error = await refusal(await serve_app(Scripted(Response(body, 400))))
    assert (type(error), error.message) == (errors.InvalidInput, "the predictor refused the request")


@pytest.mark.parametrize("status", [500, 501, 599, 204, 302, 404, 405])
async def test_faults_of_the_predictor_are_a_fixed_text_and_not_repeated(serve_app: ServeApp, status: int) -> None:
    server = Scripted(refused(status, "secret path /x") if status >= 300 else Response(status_code=status))
    error = await refusal(await serve_app(server))
    assert (type(error), error.message) == (errors.InternalError, errors.InternalError.MESSAGE)
    assert len(server.requests) == 1


async def test_502_of_a_proxy_is_503_and_not_repeated(serve_app: ServeApp) -> None:
    """Knative's proxy says so of a container that died, and nobody knows whether it had begun."""
    server = Scripted(refused(502, "dial tcp 127.0.0.1:8080: connection refused"))
    error = await refusal(await serve_app(server))
    assert (type(error), error.message) == (
        errors.PredictorUnavailable,
        "the predictor went away while it worked on this request",
    )
    assert error.retry_after is not None
    assert len(server.requests) == 1


async def test_504_stays_504(serve_app: ServeApp) -> None:
    assert type(await refusal(await serve_app(Scripted(refused(504))))) is errors.DeadlineExceeded


async def test_redirects_are_not_followed(serve_app: ServeApp) -> None:
    elsewhere = Scripted(ok())
    target = f"http://127.0.0.1:{await serve_app(elsewhere)}/v2/models/m/infer"
    redirect = Response(status_code=307, headers={"location": target})
    assert type(await refusal(await serve_app(Scripted(redirect)))) is errors.InternalError
    assert elsewhere.requests == []


GARBAGE = {
    "no JSON": Response(b"hello"),
    "nothing": Response(b""),
    "a list": Response(b"[]"),
    "outputs of another kind": Response(b'{"outputs":[7]}'),
    "sizes that lie": Response(
        b'{"outputs":[{"name":"R","shape":[9],"datatype":"FP32","parameters":{"binary_data_size":36}}]}'
    ),
    "a length that lies": Response(OK, headers={v2.JSON_LENGTH: "9999"}),
    "a length that is no number": Response(OK, headers={v2.JSON_LENGTH: "many"}),
    "a length without end": Response(OK, headers={v2.JSON_LENGTH: "9" * 5000}),
    "not what its encoding says": Response(OK, headers={"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_a_fixed_text_and_its_cause_is_logged(
    serve_app: ServeApp, answer: Response, caplog: pytest.LogCaptureFixture
) -> None:
    server = Scripted(answer)
    with caplog.at_level(logging.ERROR, "serving.hop"):
        error = await refusal(await serve_app(server))
    assert type(error) is errors.InternalError
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert len(server.requests) == 1


async def test_a_body_over_the_predictors_limit_is_413_though_it_was_not_read(serve_app: ServeApp) -> None:
    volume = np.zeros(10 << 20, np.float32)
    async with client(await serve_app(predictor(limit=1 << 20))) as made:
        with pytest.raises(errors.TooLarge, match=r"at most 1048576 bytes are accepted \(MAX_BODY_BYTES\)"):
            await made.infer(v2.request("m", {"X": volume}), {}, Deadline(10))


# --- when it breaks ---


async def read(reader: asyncio.StreamReader) -> bytes:
    """A whole request. Raises IncompleteReadError at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


@asynccontextmanager
async def broken_server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TCP server that reads a whole request, sends `answer` and is gone, as after kill -9."""
    calls: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await read(reader))
        writer.write(answer)
        await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], calls


CUT_OFF = {
    "before an answer": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + OK,
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "without HTTP": b"garbage\r\n\r\n",
}


@pytest.mark.parametrize("answer", CUT_OFF.values(), ids=CUT_OFF.keys())
async def test_a_predictor_that_dies_at_work_is_503_and_not_asked_again(answer: bytes) -> None:
    async with broken_server(answer) as (port, calls):
        error = await refusal(port)
    assert type(error) is errors.PredictorUnavailable
    assert len(calls) == 1


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """A TCP server; gives its port. At the end of the block every connection is closed."""
    handlers: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def served() -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await handle(reader, writer)
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        handlers.append(asyncio.create_task(served()))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*handlers)


LARGE = np.zeros(4 << 20, np.float32)  # 16 MiB, more than the sockets' buffers take


async def test_a_kept_connection_that_closes_under_a_request_is_replaced() -> None:
    whole: list[int] = []  # requests that came whole, by connection

    async def close_under_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole.append(0)
        await read(reader)
        whole[-1] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(OK), OK))
        await reader.readexactly(1)

    async with serving(close_under_the_second) as port, client(port) as made:
        await made.infer(request(), {}, Deadline(10))
        answer = await made.infer(v2.request("m", {"X": LARGE}), {}, Deadline(10))
    assert v2.tensors(answer)["RESULT"].tolist() == [7]
    assert whole == [1, 1]


async def test_what_breaks_again_before_it_is_out_is_given_up() -> None:
    """The predictor may be dying of just this request."""
    calls = 0

    async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.readexactly(1)

    async with serving(hang_up) as port, client(port) as made:
        with pytest.raises(errors.PredictorUnavailable, match="the connection to the predictor broke"):
            await made.infer(v2.request("m", {"X": LARGE}), {}, Deadline(10))
    assert calls == 2


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, asyncio.Event, asyncio.Event]]:
    """A server that never answers: (port, set when a request came, set when its connection was closed)."""
    came, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        while await reader.read(1 << 16):
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], came, closed


async def test_the_deadline_ends_a_call_and_closes_its_connection() -> None:
    async with silent_server() as (port, _, closed):
        started = time.monotonic()
        error = await refusal(port, seconds=0.3)
        assert 0.25 < time.monotonic() - started < 3
        assert type(error) is errors.DeadlineExceeded
        assert "0.3 s" in error.message
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_deadline_that_has_passed_calls_nobody() -> None:
    async with silent_server() as (port, came, _):
        error = await refusal(port, seconds=0)
        assert type(error) is errors.DeadlineExceeded
        assert not came.is_set()


async def test_cancelling_a_call_closes_its_connection_and_frees_the_pool() -> None:
    async with silent_server() as (port, came, closed), client(port, connections=1) as made:
        call = asyncio.create_task(made.infer(request(), {}, Deadline(30)))
        await asyncio.wait_for(came.wait(), 5)
        call.cancel()
        await asyncio.wait_for(closed.wait(), 5)
        assert (await asyncio.gather(call, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        came.clear()
        again = asyncio.create_task(made.infer(request(), {}, Deadline(30)))
        await asyncio.wait_for(came.wait(), 5)  # the one connection of the pool was given back
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
