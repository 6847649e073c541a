"""The hop against real servers on loopback: what it sends, what it repeats, what it passes on, and what it never tells."""

import asyncio
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from fastapi import FastAPI
from kserve import InferRequest, InferResponse, Model
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from serving import errors, hop, telemetry, v2
from serving.auth import Keys
from serving.errors import ServingError
from serving.hop import Deadline, PredictorClient
from serving.middleware import Drain
from serving.routes import protocol_router
from serving.server import wrap
from tests.pods import free_port
from tests.servers import ServeApp, listen, until

Answer = Callable[[Request], Awaitable[Response]]


class Sums(Model):  # type: ignore[misc]  # kserve ships no types
    """A KServe model that adds up what it is sent: the predictor's side of the kit, without an engine."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        sums = {name: np.array([array.sum(dtype=np.float64)]) for name, array in v2.tensors(payload).items()}
        return v2.response(payload, self.name, sums, {"contract": "sums/1"})


def predictor(limit: int = 1 << 30) -> FastAPI:
    app = FastAPI()
    app.include_router(protocol_router(Sums()))
    return wrap(app, {}, Keys(), Drain(), limit)


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
    return Response(OK, media_type="application/json")


def refused(status: int, text: str = "what was wrong", **headers: str) -> Response:
    return Response(b'{"error":"%s"}' % text.encode(), status, headers=headers)


def request(**parameters: Any) -> InferRequest:
    return v2.request("m", {"X": np.arange(4, dtype=np.float32)}, parameters)


@asynccontextmanager
async def client(port: int, **options: Any) -> AsyncIterator[PredictorClient]:
    made = PredictorClient(f"127.0.0.1:{port}", "m", **options)
    try:
        yield made
    finally:
        await made.close()


async def infer(port: int, headers: dict[str, str] | None = None, seconds: float = 10.0) -> InferResponse:
    async with client(port) as made:
        return await made.infer(request(), headers or {}, Deadline(seconds))


async def refusal(port: int, seconds: float = 10.0) -> ServingError:
    """The error of a call; no error of the hop may carry the predictor's address."""
    with pytest.raises(ServingError) as caught:
        await infer(port, seconds=seconds)
    assert "127.0.0.1" not in caught.value.message
    assert str(port) not in caught.value.message
    return caught.value


# --- what crosses it ---


async def test_tensors_go_and_come_as_binary(serve_app: ServeApp) -> None:
    answer = await infer(await serve_app(predictor()))
    assert v2.tensors(answer)["X"].tolist() == [6.0]
    assert answer.outputs[0]._raw_data is not None
    assert v2.parameters(answer) == {"contract": "sums/1"}


async def test_a_volume_of_221_mb_is_streamed(serve_app: ServeApp, record_property: Callable[..., None]) -> None:
    volume = np.ones((1, 240, 480, 480), np.float32)
    port = await serve_app(predictor())
    async with client(port) as made:
        await made.infer(request(), {}, Deadline(10))  # the first call imports and connects
        tracemalloc.start()
        try:
            started = time.perf_counter()
            answer = await made.infer(v2.request("m", {"VOLUME": volume}), {}, Deadline(60))
            seconds = time.perf_counter() - started
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert v2.tensors(answer)["VOLUME"].tolist() == [volume.size]
    record_property("seconds", seconds)
    # Both ends are in this process: the receiver's one buffer, and chunks on the way. The sender copies nothing.
    assert peak < 1.1 * volume.nbytes
    assert seconds < 20


FORWARDED = {
    "authorization": "Bearer key",
    "baggage": "a=b",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "v=1",
    "x-b3-traceid": "0af7651916cd43dd8448eb211c80319c",
    "x-b3-sampled": "1",
    "x-request-id": "id-1",
}


async def test_named_headers_go_along_and_no_others(serve_app: ServeApp) -> None:
    server = Scripted(ok())
    mixed = {**{name.title(): value for name, value in FORWARDED.items()}, "Cookie": "c", "X-Custom": "x"}
    await infer(await serve_app(server), {**mixed, "Content-Type": "text/plain", "Content-Length": "3", "Host": "h"})
    (seen,) = server.requests
    assert {name: seen.headers.getlist(name) for name in FORWARDED} == {k: [v] for k, v in FORWARDED.items()}
    assert not {"cookie", "x-custom"} & set(seen.headers)
    assert seen.headers["content-type"] == "application/octet-stream"
    assert int(seen.headers["content-length"]) == len(server.bodies[0])
    assert seen.headers["host"] != "h"


async def test_a_header_that_is_not_ascii_goes_along_as_it_came(serve_app: ServeApp) -> None:
    server = Scripted(ok())
    await infer(await serve_app(server), {"baggage": "name=\xfc"})  # Starlette reads headers as Latin-1
    assert server.requests[0].headers["baggage"] == "name=\xfc"


async def test_the_request_id_of_the_task_wins(serve_app: ServeApp) -> None:
    server = Scripted(ok())
    token = telemetry.REQUEST_ID.set("made-here")
    await infer(await serve_app(server), {"x-request-id": "not valid\t"})
    telemetry.REQUEST_ID.reset(token)
    assert server.requests[0].headers["x-request-id"] == "made-here"


async def test_what_is_left_of_the_deadline_goes_along(serve_app: ServeApp) -> None:
    server = Scripted(refused(503), refused(503), ok())
    await infer(await serve_app(server), seconds=9)
    left = [float(each.headers[hop.TIMEOUT_HEADER]) for each in server.requests]
    assert 9 >= left[0] > left[1] > left[2] > 0


async def test_connections_are_kept_and_bounded(serve_app: ServeApp) -> None:
    together, most = 0, 0

    async def slow(_: Request) -> Response:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.02)
        together -= 1
        return ok()

    server = Scripted(slow)
    async with client(await serve_app(server), connections=2) as made:
        calls = [made.infer(request(), {}, Deadline(10)) for _ in range(6)]
        assert len(await asyncio.gather(*calls)) == 6
        await made.infer(request(), {}, Deadline(10))
    assert (most, len(server.peers)) == (2, 2)


# --- what it repeats ---


def retries(reason: str) -> float:
    return REGISTRY.get_sample_value("sonotome_hop_retries_total", {"reason": reason}) or 0.0


async def test_503_is_repeated_with_growing_jitter(serve_app: ServeApp) -> None:
    server, before = Scripted(refused(503), refused(503), refused(503), ok()), retries("503")
    with mock.patch("serving.hop.random.uniform", wraps=lambda low, high: high / 10 + low) as jitter:
        answer = await infer(await serve_app(server))
    assert v2.tensors(answer)["RESULT"].tolist() == [7]
    assert len(server.requests) == 4
    assert len(set(server.bodies)) == 1  # the whole body each time
    assert [call.args for call in jitter.call_args_list] == [(0, 0.05), (0, 0.1), (0, 0.2)]
    assert retries("503") - before == 3


async def test_503_until_the_deadline_is_503_with_the_predictors_retry_after(serve_app: ServeApp) -> None:
    server = Scripted(refused(503, "secret reason", **{"retry-after": "17"}))
    started = time.monotonic()
    error = await refusal(await serve_app(server), seconds=0.5)
    assert time.monotonic() - started < 2
    assert (type(error), error.retry_after) == (errors.PredictorUnavailable, 17)
    assert "secret" not in error.message
    assert len(server.requests) > 1


@pytest.mark.parametrize("header", ["9" * 400, "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_is_no_sensible_number_is_a_second(serve_app: ServeApp, header: str) -> None:
    error = await refusal(await serve_app(Scripted(refused(503, **{"retry-after": header}))), seconds=0.3)
    assert error.retry_after == 1.0


async def test_a_predictor_that_starts_late_is_reached(serve_app: ServeApp) -> None:
    port, before = free_port(), retries("connect")
    call = asyncio.create_task(infer(port))
    await until(lambda: retries("connect") > before)
    await serve_app(Scripted(ok()), port)
    assert v2.tensors(await call)["RESULT"].tolist() == [7]


async def test_nobody_there_is_503_within_the_deadline() -> None:
    started = time.monotonic()
    error = await refusal(free_port(), seconds=0.3)
    assert time.monotonic() - started < 2
    assert type(error) is errors.PredictorUnavailable
    assert error.retry_after is not None


async def test_a_restarted_predictor_is_reached_at_once(serve_app: ServeApp) -> None:
    port = free_port()
    async with client(port) as made:
        for _ in range(2):
            server = await listen(Scripted(ok()), port)
            await made.infer(request(), {}, Deadline(10))
            await server.stop()


# --- what it passes on ---

PASSED_ON = {400: errors.InvalidInput, 401: errors.Unauthorized, 404: errors.NotFound, 413: errors.TooLarge,
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


@pytest.mark.parametrize("status", [500, 501, 502, 599, 204, 302])
async def test_faults_of_the_predictor_are_a_fixed_text_and_not_repeated(serve_app: ServeApp, status: int) -> None:
    server = Scripted(refused(status, "secret path /x") if status >= 300 else Response(status_code=status))
    error = await refusal(await serve_app(server))
    assert (type(error), error.message) == (errors.InternalError, errors.InternalError.MESSAGE)
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


@asynccontextmanager
async def broken_server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TCP server that reads a request's head, sends `answer` and is gone, as after kill -9."""
    calls: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readuntil(b"\r\n\r\n"))
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


# --- deadline, health ---


def test_without_a_header_the_pods_limit_is_the_deadline() -> None:
    assert Deadline.of({}, 600).seconds == 600
    assert Deadline.of({hop.TIMEOUT_HEADER: "2.5"}, 600).seconds == 2.5
    assert 0 < Deadline(5).left() <= 5


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "601", "1e9"])
def test_a_client_may_ask_for_less_and_for_nothing_else(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"x-request-timeout-seconds must be .* at most 600"):
        Deadline.of({hop.TIMEOUT_HEADER: text}, 600)


@pytest.mark.parametrize(
    ("ready", "health", "expected"),
    [(200, b'{"device":"cpu"}', {"device": "cpu"}), (503, b"{}", None), (200, b"[]", None), (200, b"<html>", None)],
)
async def test_health_is_the_predictors_own_or_unavailable(
    serve_app: ServeApp, ready: int, health: bytes, expected: dict[str, str] | None
) -> None:
    port = await serve_app(Scripted(Response(b"{}", ready), Response(health)))
    async with client(port) as made:
        if expected is None:
            with pytest.raises(errors.PredictorUnavailable, match="not ready"):
                await made.health(5)
        else:
            assert await made.health(5) == expected


async def test_health_of_nobody_is_unavailable() -> None:
    async with client(free_port()) as made:
        with pytest.raises(errors.PredictorUnavailable, match="not ready"):
            await made.health(1)
