"""What happens around every request: ids, error bodies, keys, the body limit, the count of work in flight."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, File, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import REGISTRY

from serving import errors
from serving.auth import Keys
from serving.dialects import openai_body
from serving.middleware import Drain, HealthPaths
from serving.routes import HEALTH
from serving.server import wrap
from tests.servers import ServeApp

DIALECTS = {
    "/v1/audio": openai_body,
    "/process": lambda error: {"status": "error", "message": error.message, "code": error.code},
}


def states() -> APIRouter:
    routes = APIRouter()

    @routes.get("/{name}/state")
    async def state(name: str) -> str:
        return name

    @routes.delete("/{name}/state")
    async def forget(name: str) -> None: ...

    return routes


def pod(keys: str = "", drain: Drain | None = None, limit: int = 1000, probed: tuple[str, ...] = ()) -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/audio/echo")
    @app.post("/process/echo")
    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/v1/audio/form")
    async def form(file: Annotated[UploadFile, File()]) -> dict[str, int]:
        return {"bytes": len(await file.read())}

    @app.get("/process/typed")
    @app.get("/v1/audio/typed")
    async def typed(count: int) -> int:
        return count

    @app.get("/fault/{name}")
    async def fault(name: str) -> None:
        faults: dict[str, Exception] = {"ours": errors.TooLarge("at most 7"), "late": TimeoutError()}
        raise faults.get(name, RuntimeError("secret path /x"))

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            yield "begun"
            raise RuntimeError("secret path /x")

        return StreamingResponse(stream())

    app.put("/v1/audio/echo")(echo)
    app.include_router(states(), prefix="/process")
    app.mount("/files", StaticFiles(directory=Path(__file__).parent))
    return wrap(app, DIALECTS, Keys(keys), drain or Drain(), limit, health=probed)


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://pod")


async def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async with client(app) as http:
        return await http.request(method, path, **options)


# --- the request id ---


@pytest.mark.parametrize("path", ["/health", "/echo", "/nowhere", "/fault/x"])
async def test_every_answer_has_a_request_id(path: str) -> None:
    first, second = [(await call(pod(), "GET", path)).headers["x-request-id"] for _ in range(2)]
    assert len(first) == 32
    assert first != second


async def test_the_clients_request_id_is_kept() -> None:
    answer = await call(pod(), "POST", "/echo", headers={"X-Request-Id": "a-b.c:d/e+f=7"})
    assert answer.headers.get_list("x-request-id") == ["a-b.c:d/e+f=7"]


@pytest.mark.parametrize("given", ["", "a b", 'a"b', "a" * 129, "ü", "a\tb", "{}"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(given: str) -> None:
    answer = await call(pod(), "POST", "/echo", headers={"x-request-id": given.encode()})
    assert len(answer.headers["x-request-id"]) == 32


# --- errors in the dialect of their route ---


def openai(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


TOO_BIG = "the body has 1001 bytes; at most 1000 bytes are accepted (MAX_BODY_BYTES)"
NO_KEY = "an API key is needed: send the header 'Authorization: Bearer <key>'"
DRAINING = "this pod is shutting down, send the request again"


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nowhere", 404, {"error": "Not Found"}),
        ("GET", "/v1/audio/nowhere", 404, openai("Not Found", "not_found_error", "not_found")),
        ("GET", "/process/nowhere", 404, {"status": "error", "message": "Not Found", "code": "not_found"}),
        ("GET", "/echo", 405, {"error": "Method Not Allowed"}),
        ("GET", "/v1/audio/echo", 405, openai("Method Not Allowed", "invalid_request_error", "method_not_allowed")),
        ("GET", "/fault/ours", 413, {"error": "at most 7"}),
        ("GET", "/fault/late", 504, {"error": "the deadline passed before there was an answer"}),
    ],
)
async def test_errors_of_routes(method: str, path: str, status: int, body: dict[str, Any]) -> None:
    answer = await call(pod(), method, path)
    assert (answer.status_code, answer.json()) == (status, body)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/echo", {"POST"}),
        ("GET", "/v1/audio/echo", {"POST", "PUT"}),  # two routes
        ("POST", "/process/typed", {"GET"}),
        ("POST", "/process/job/state", {"GET", "DELETE"}),  # of an included router
        ("DELETE", "/files/test_middleware.py", {"GET", "HEAD"}),  # of a mounted app
    ],
)
async def test_405_says_what_is_allowed_in_every_dialect(method: str, path: str, allowed: set[str]) -> None:
    answer = await call(pod(), method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert "Method Not Allowed" in answer.text
    assert "allow" not in (await call(pod(), method, "/nowhere")).headers


async def test_fields_that_fastapi_refuses_are_named() -> None:
    answer = await call(pod(), "GET", "/v1/audio/typed?count=many")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "count"
    custom = await call(pod(), "GET", "/process/typed")
    assert custom.json() == {"status": "error", "message": "count: Field required", "code": "invalid_input"}


@pytest.mark.parametrize(
    ("prefix", "shape"),
    [
        ("", lambda message, _: {"error": message}),
        ("/process", lambda message, code: {"status": "error", "message": message, "code": code}),
    ],
)
async def test_errors_of_the_middleware_have_the_routes_dialect_too(prefix: str, shape: Any) -> None:
    path = prefix + "/echo"
    big = await call(pod(), "POST", path, content=b"x" * 1001)
    assert (big.status_code, big.json()) == (413, shape(TOO_BIG, "body_too_large"))
    locked = await call(pod(keys="k"), "POST", path)
    assert (locked.status_code, locked.json()) == (401, shape(NO_KEY, "missing_api_key"))
    assert locked.headers["www-authenticate"] == "Bearer"
    drain = Drain()
    drain.begin()
    late = await call(pod(drain=drain), "POST", path)
    assert (late.status_code, late.json(), late.headers["retry-after"]) == (503, shape(DRAINING, "draining"), "1")


async def test_openai_clients_read_the_middlewares_errors() -> None:
    answer = await call(pod(keys="k"), "POST", "/v1/audio/echo", headers={"authorization": "Bearer wrong"})
    assert answer.json() == openai("this API key is not known", "authentication_error", "invalid_api_key")


async def test_nothing_from_inside_leaks_and_the_log_has_it_under_the_same_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "serving.middleware"):
        answer = await call(pod(), "GET", "/fault/x")
    assert (answer.status_code, answer.json()) == (500, {"error": errors.InternalError.MESSAGE})
    assert "secret" not in f"{answer.text}{answer.headers}"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "secret path /x" in str(record.exc_info[1])


async def test_a_stream_that_breaks_is_cut_not_ended(serve_app: ServeApp) -> None:
    """A client must be able to tell: an ended stream would look complete."""
    port = await serve_app(pod())
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"http://127.0.0.1:{port}/breaks")


# --- the body limit ---


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


@pytest.mark.parametrize("path", ["/echo", "/v1/audio/echo"])
async def test_a_body_without_a_length_is_counted(path: str) -> None:
    fits = await call(pod(), "POST", path, content=chunks(10))
    assert fits.json() == {"bytes": 1000}
    big = await call(pod(), "POST", path, content=chunks(11))
    assert big.status_code == 413
    assert "at most 1000 bytes are accepted" in big.text


async def test_an_upload_without_a_length_is_counted_too() -> None:
    """FastAPI reads forms itself and would make a 400 of it."""
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'

    async def upload() -> AsyncIterator[bytes]:
        yield head
        async for chunk in chunks(20):
            yield chunk

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await call(pod(), "POST", "/v1/audio/form", content=upload(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "0x10", "+5", "9" * 5000])
async def test_a_content_length_that_is_no_length_is_refused(length: str) -> None:
    """Behind a server that lets it through; uvicorn mostly does not."""
    answer = await call(pod(), "POST", "/echo", headers={"content-length": length})
    assert answer.status_code in (400, 413)


async def test_an_early_refusal_reaches_a_client_that_sends_everything_first(serve_app: ServeApp) -> None:
    port = await serve_app(pod(keys="k", limit=1 << 20))
    async with httpx.AsyncClient(trust_env=False) as http:
        for headers, status in (({}, 401), ({"authorization": "Bearer k"}, 413)):
            answer = await http.post(f"http://127.0.0.1:{port}/echo", content=bytes(40 << 20), headers=headers)
            assert answer.status_code == status
            assert answer.headers["connection"] == "close"


async def test_a_refusal_after_the_body_keeps_the_connection(serve_app: ServeApp) -> None:
    port = await serve_app(pod())
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"http://127.0.0.1:{port}/nowhere")
    assert (answer.status_code, answer.headers.get("connection")) == (404, None)


# --- health, keys, drain ---


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", True),
        ("/health", True),
        ("/metrics", True),
        ("/is_alive", False),
        ("/v2/health/ready", True),
        ("/v2/models/whisper/ready", True),
        ("/v2/models/whisper", False),
        ("/v2/models/whisper/infer", False),
        ("/v2/models/a/b/ready", False),
        ("/v2/models/whisper/versions/1/ready", False),
        ("/metrics/", False),
        ("/metrics/../v1", False),
        ("//", False),
        ("/health\n", False),
        ("/healthy", False),
        ("/docs", False),
        ("", False),
        ("/v1/models/m:predict/ready", False),
    ],
)
def test_which_paths_are_health(path: str, expected: bool) -> None:
    assert (path in HealthPaths([*HEALTH, "/metrics"])) is expected


async def test_a_pod_has_the_health_paths_that_it_names_and_no_others() -> None:
    plain, named = pod(keys="k"), pod(keys="k", probed=("/process/{name}/state",))
    for app, path, status in (
        (plain, "/process/job/state", 401),
        (named, "/process/job/state", 200),
        (named, "/process/typed", 401),
        (named, "/process/a/b/state", 401),
    ):
        assert (await call(app, "GET", path)).status_code == status, path


async def test_while_it_drains_every_answer_ends_its_connection(serve_app: ServeApp) -> None:
    """A client that kept the connection would meet the same pod again, or lose a request as it closes."""
    drain = Drain()
    port = await serve_app(pod(drain=drain))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        assert "connection" not in (await http.post("/echo")).headers
        drain.begin()
        for method, path, status in (("POST", "/echo", 503), ("GET", "/health", 200)):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.headers.get("connection")) == (status, "close")


async def test_health_needs_no_key_and_answers_while_draining() -> None:
    drain = Drain()
    drain.begin()
    assert (await call(pod(keys="k", drain=drain), "GET", "/health")).status_code == 200
    assert (await call(pod(keys="k"), "POST", "/echo", headers={"authorization": "Bearer k"})).status_code == 200


async def test_drain_waits_for_the_last_and_refuses_the_next() -> None:
    drain = Drain()
    await asyncio.wait_for(drain.wait(), 1)  # nothing is in flight
    drain.enter()
    drain.enter()
    assert REGISTRY.get_sample_value("sonotome_requests_in_flight") == 2
    drain.begin()
    waiting = asyncio.create_task(drain.wait())
    with pytest.raises(errors.Overloaded) as caught:
        drain.enter()
    assert (caught.value.code, caught.value.retry_after) == ("draining", 1)
    drain.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    drain.leave()
    await asyncio.wait_for(waiting, 1)
    assert REGISTRY.get_sample_value("sonotome_requests_in_flight") == 0


@pytest.mark.parametrize("path", ["/echo", "/fault/x", "/nowhere", "/breaks"])
async def test_work_is_counted_out_however_it_ends(path: str) -> None:
    drain = Drain()
    await call(pod(drain=drain), "GET", path)
    await asyncio.wait_for(drain.wait(), 1)


async def test_what_the_log_line_of_a_request_holds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "serving.telemetry"):
        await call(pod(), "GET", "/fault/secret-name?file=secret.wav")
        await call(pod(), "GET", "/secret.wav")
        await call(pod(), "GET", "/health")
    lines = [record for record in caplog.records if record.message == "request"]
    assert [(vars(line)["route"], vars(line)["status"]) for line in lines] == [
        ("/fault/{name}", 500),
        ("unmatched", 404),
    ]
    assert all(vars(line)["seconds"] >= 0 for line in lines)
    assert not any("secret.wav" in str(vars(record)) for record in caplog.records)
