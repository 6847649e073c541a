"""How a pod comes and goes: live but not ready while it loads, one clear line when it cannot start, drained at the end."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as websocket

from tests.conftest import StartPod
from tests.gated_pod import SECRET
from tests.pods import Pod, free_port

INFER = {"inputs": [{"name": "AUDIO", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]}
GATE = INFER | {"parameters": {"prompt": "gate"}}


def nothing_is_left_of(pod: Pod) -> bool:
    """Whether no process of the pod's group is left: it started the group."""
    try:
        os.killpg(pod.process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def grpc_infer(pod: Pod, prompt: str = "") -> Any:
    request = pb.ModelInferRequest(model_name=pod.model_name, raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, 2])
    request.parameters["prompt"].string_param = prompt
    with grpc.insecure_channel(pod.grpc_url) as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)


def grpc_ready(pod: Pod) -> tuple[bool, bool]:
    with grpc.insecure_channel(pod.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        server = stub.ServerReady(pb.ServerReadyRequest(), wait_for_ready=True, timeout=30).ready
        return server, stub.ModelReady(pb.ModelReadyRequest(name=pod.model_name)).ready


# --- starting ---


def test_while_it_loads_a_pod_is_live_but_not_ready_and_stops_when_told(start_pod: StartPod) -> None:
    pod = start_pod("tests.gated_pod", "gated", load="gate").until_open()
    for path in ("/v2/health/ready", "/v2/models/gated/ready", "/v1/models/gated"):
        assert (path, pod.status(path)) == (path, 503)
    assert pod.status("/metrics") == 200
    health = httpx.get(f"{pod.url}/health", trust_env=False)
    assert (health.status_code, health.json()["status"], health.json()["model_loaded"]) == (200, "starting", False)
    for path, body in (("/v2/models/gated/infer", INFER), ("/v1/models/gated:predict", {"instances": []})):
        refused = httpx.post(pod.url + path, json=body, trust_env=False)
        assert (refused.status_code, refused.json()) == (503, {"error": "the model is not ready"})
        assert refused.headers["retry-after"] == "1"
    assert grpc_ready(pod) == (False, False)
    with pytest.raises(grpc.RpcError) as caught:
        grpc_infer(pod)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    started = time.monotonic()
    pod.send(signal.SIGTERM)
    assert pod.wait() == 0
    assert time.monotonic() - started < 5  # though the load has not ended, and never would
    assert nothing_is_left_of(pod)


def test_a_transformer_wakes_its_predictor_as_it_starts(start_pod: StartPod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as predictor:
        predictor.settimeout(60)
        start_pod("transformers_pre.audio", "speech", predictor_host=f"127.0.0.1:{predictor.getsockname()[1]}")
        connection, _ = predictor.accept()  # nobody has asked the transformer for anything
        with connection:
            assert connection.recv(4096).startswith(b"GET /v2/health/live ")


@pytest.fixture(scope="module")
def failures() -> Iterator[dict[str, Pod]]:
    """Pods that cannot start, begun together: each costs seconds of imports."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags: dict[str, dict[str, Any]] = {
            "bad weights": {"load": "value_error"},
            "fault in load": {"load": "os_error"},
            "fault in warm-up": {"warm_up": "explode"},
            "REST port taken": {"http_port": port, "load": "gate"},
            "gRPC port taken": {"grpc_port": port},
            "bad setting": {"env": {"MAX_BATCH_SIZE": "many"}},
            "two workers": {"workers": 2},
            "no key file": {"api_keys_file": "/nowhere"},
        }
        pods = {name: stack.enter_context(Pod("tests.gated_pod", "gated", **each)) for name, each in flags.items()}
        for pod in pods.values():
            pod.wait(120)
        yield pods


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("bad weights", "cannot start: the weights are of another model"),
        ("REST port taken", "cannot start: port {port} cannot be opened"),
        ("gRPC port taken", "cannot start: Failed to bind to address 127.0.0.1:{port}"),
    ],
)
def test_what_an_operator_can_mend_is_one_line_without_a_traceback(
    failures: dict[str, Pod], case: str, line: str
) -> None:
    pod = failures[case]
    assert pod.process.returncode == 1
    assert "Traceback" not in pod.text()
    (critical,) = [record for record in pod.records_but_grpcs() if record["level"] == "CRITICAL"]
    assert critical["message"].startswith(line.format(port=pod.http_port if "REST" in case else pod.grpc_port))
    assert nothing_is_left_of(pod)


@pytest.mark.parametrize("case", ["fault in load", "fault in warm-up"])
def test_a_fault_of_ours_at_the_start_ends_the_pod_and_is_logged_whole(failures: dict[str, Pod], case: str) -> None:
    pod = failures[case]
    assert pod.process.returncode == 1
    tracebacks = [record["exception"] for record in pod.records() if "exception" in record]  # as JSON, not as text
    assert any(traceback.endswith(SECRET) for traceback in tracebacks)
    assert "ready" not in [record["message"] for record in pod.records()]


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("bad setting", "MAX_BATCH_SIZE: Input should be a valid integer, unable to parse string as an integer (got"),
        ("two workers", "--workers must be 1: scale with replicas"),
        ("no key file", "API_KEYS_FILE cannot be read: No such file or directory"),
    ],
)
def test_a_bad_setting_is_one_line(failures: dict[str, Pod], case: str, line: str) -> None:
    pod = failures[case]
    assert pod.process.returncode == 1
    (only,) = pod.lines
    assert only.startswith(line)


# --- ending ---


def upload(pod: Pod, body: bytes) -> socket.socket:
    """A request whose body has been sent but for its last byte."""
    made = socket.create_connection(("127.0.0.1", pod.http_port), timeout=30)
    head = (
        f"POST /v2/models/gated/infer HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    made.sendall(head.encode() + body[:-1])
    return made


def in_background(pool: ThreadPoolExecutor, pod: Pod) -> Future[httpx.Response]:
    return pool.submit(httpx.post, f"{pod.url}/v2/models/gated/infer", json=GATE, timeout=60, trust_env=False)


def test_sigterm_drains_what_is_in_flight_and_refuses_what_is_new(start_pod: StartPod) -> None:
    pod = start_pod("tests.gated_pod", "gated", grace_seconds=60).until_ready()
    http = httpx.Client(base_url=pod.url, trust_env=False, timeout=60)
    address = f"ws://127.0.0.1:{pod.http_port}/echo/room"
    with ThreadPoolExecutor(2) as pool, http, http.stream("GET", "/events") as events, websocket(address) as echo:
        lines = events.iter_lines()
        assert next(lines) == "data: first"
        computing, by_grpc = in_background(pool, pod), pool.submit(grpc_infer, pod, "gate")
        half_sent = upload(pod, orjson.dumps(INFER))
        pod.until_in_flight(5)

        pod.send(signal.SIGTERM)
        pod.until(lambda: pod.status("/v2/health/ready") == 503, "draining")
        assert pod.status("/v2/models/gated/ready") == 503
        assert pod.status("/v2/health/live") == 200
        assert httpx.get(f"{pod.url}/health", trust_env=False).json()["status"] == "draining"
        assert grpc_ready(pod) == (False, False)

        refused = httpx.post(f"{pod.url}/v2/models/gated/infer", json=INFER, trust_env=False)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json() == {"error": "this pod is shutting down, send the request again"}
        dialect = httpx.get(f"{pod.url}/v1/audio/fault", trust_env=False)
        assert (dialect.status_code, dialect.json()["error"]["code"]) == (503, "draining")
        with pytest.raises(InvalidStatus) as handshake:
            websocket(address)
        assert handshake.value.response.status_code == 503
        assert handshake.value.response.headers["retry-after"] == "1"
        with pytest.raises(grpc.RpcError) as call:
            grpc_infer(pod)
        assert call.value.code() is grpc.StatusCode.UNAVAILABLE

        echo.send("still here")
        assert echo.recv() == "still here"
        pod.send(signal.SIGUSR1)
        assert [line for line in lines if line] == ["data: last"]
        assert computing.result().status_code == 200
        assert by_grpc.result().outputs[0].name == "RESULT"
        with half_sent:
            half_sent.sendall(b"}")
            assert half_sent.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        pod.until_in_flight(1)  # the WebSocket alone keeps the pod
        echo.send("last")
        assert echo.recv() == "last"
    assert pod.wait() == 0
    assert pod.records()[-1]["message"] == "stopped"
    errors = [record["message"] for record in pod.records() if record["level"] in ("ERROR", "CRITICAL")]
    assert errors == ["ASGI callable returned without completing handshake."]  # uvicorn's, of a refused WebSocket
    assert nothing_is_left_of(pod)


def test_what_outlasts_the_grace_is_cut_off(start_pod: StartPod) -> None:
    pod = start_pod("tests.gated_pod", "gated", grace_seconds=0.5).until_ready()
    address = f"ws://127.0.0.1:{pod.http_port}/echo/room"
    with ThreadPoolExecutor(1) as pool, websocket(address), httpx.stream("GET", f"{pod.url}/events", trust_env=False):
        computing = in_background(pool, pod)
        pod.until_in_flight(3)
        started = time.monotonic()
        pod.send(signal.SIGTERM)
        assert pod.wait() == 0
        assert 0.5 <= time.monotonic() - started < 10
        assert computing.exception() is not None or computing.result().status_code >= 500
    messages = [record["message"] for record in pod.records()]
    assert "work was cut off after GRACE_SECONDS" in messages
    assert nothing_is_left_of(pod)


def test_an_idle_pod_stops_at_once_on_sigint_though_its_traces_cannot_be_sent(start_pod: StartPod) -> None:
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    pod = start_pod("serving.testing", "fake", env=nobody).until_ready()
    assert httpx.post(f"{pod.url}/v2/models/fake/infer", json=INFER, trust_env=False).status_code == 200
    started = time.monotonic()
    pod.send(signal.SIGINT)
    assert pod.wait() == 0
    assert time.monotonic() - started < 5
    assert nothing_is_left_of(pod)
