"""The hop against real servers on loopback: what it sends, what it repeats, and how long it waits."""

import asyncio
import contextlib
import gc
import time
import tracemalloc
import weakref
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from serving import errors, hop, telemetry, v2
from serving.deadline import HEADER, Deadline
from tests.hops import Scripted, client, infer, ok, predictor, refusal, refused, request
from tests.pods import free_port
from tests.servers import ServeApp, listen, until

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


@pytest.mark.parametrize(
    "answers", [[ok()], [refused(422)], [refused(503), ok()]], ids=["answered", "refused", "repeated"]
)
async def test_what_was_sent_is_let_go_of(serve_app: ServeApp, answers: list[Response]) -> None:
    """At once, not when Python's collector comes round: eight volumes are 1.8 GB."""
    tensor = np.ones(1 << 20, np.float32)
    sent = weakref.ref(tensor)
    gc.disable()
    try:
        async with client(await serve_app(Scripted(*answers))) as made:
            with contextlib.suppress(errors.Unprocessable):
                await made.infer(v2.request("m", {"X": tensor}), {}, Deadline(10))
            del tensor
            assert sent() is None
    finally:
        gc.enable()


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
    left = [float(each.headers[HEADER]) for each in server.requests]
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


async def test_a_connection_that_was_idle_too_long_is_not_used_again(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "IDLE_SECONDS", 0.0)
    server = Scripted(ok())
    async with client(await serve_app(server)) as made:
        for _ in range(3):
            await made.infer(request(), {}, Deadline(10))
    assert len(server.peers) == 3


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
    # Pauses of 0.05 to 0.8 s: nearly half a second is left for the last try, on a busy machine too.
    with mock.patch("serving.hop.random.uniform", side_effect=lambda _low, high: high):
        error = await refusal(await serve_app(server), seconds=2.0)
    assert time.monotonic() - started < 4
    assert (type(error), error.retry_after) == (errors.PredictorUnavailable, 17)
    assert "secret" not in error.message
    assert len(server.requests) > 1


@pytest.mark.parametrize("header", ["9" * 400, "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_is_no_sensible_number_is_a_second(serve_app: ServeApp, header: str) -> None:
    error = await refusal(await serve_app(Scripted(refused(503, **{"retry-after": header}))), seconds=1.0)
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


# --- deadline, health ---


def test_without_a_header_the_pods_limit_is_the_deadline() -> None:
    assert Deadline.of({}, 600).seconds == 600
    assert Deadline.of({HEADER: "2.5"}, 600).seconds == 2.5
    assert 0 < Deadline(5).left() <= 5


def test_more_than_the_pods_limit_is_the_limit() -> None:
    deadline = Deadline.of({HEADER: "899.999"}, 600)
    assert deadline.seconds == 600
    assert str(deadline.exceeded()) == "the request took longer than its 600 s (REQUEST_TIMEOUT_SECONDS)"


async def test_a_transformer_may_be_more_patient_than_its_predictor(serve_app: ServeApp) -> None:
    answer = await infer(await serve_app(predictor()), seconds=10_000.0)
    assert v2.tensors(answer)["X"].tolist() == [6]  # 0 + 1 + 2 + 3


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(
        errors.InvalidInput, match=r"x-request-timeout-seconds must be .* above 0; 600 .* count at most"
    ):
        Deadline.of({HEADER: text}, 600)


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
