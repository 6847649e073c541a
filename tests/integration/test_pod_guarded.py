"""A pod with keys, small limits and a collector of traces: who is let in, how much, and what is told of it."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as websocket

from serving import telemetry, v2
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions
from serving.deadline import Deadline
from serving.errors import TooLarge, Unauthorized
from serving.hop import PredictorClient
from tests.collector import Collector, collecting
from tests.conftest import StartPod
from tests.gated_pod import SECRET
from tests.pods import Pod, stock_grpc_client

MIB = 1 << 20
INFER = {"inputs": [{"name": "AUDIO", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]}
KEY = {"authorization": "Bearer key-1"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# mounted\nfile-key\n")
    return file


@pytest.fixture(scope="module")
def pod(start_shared_pod: StartPod, collector: Collector, key_file: Path) -> Pod:
    return start_shared_pod(
        "tests.gated_pod",
        "gated",
        env={"API_KEYS": "key-1,key-2", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"},
        api_keys_file=key_file,
        max_body_bytes=MIB,
        max_json_values=1000,
        max_websocket_message_bytes=1000,
        grpc_max_message_bytes=MIB,
    ).until_ready()


# --- keys ---


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/gated/infer", "/v1/models/gated:predict", "/v2/models", "/v2/models/gated", "/v1/models", "/v2",
        "/v1/models/gated", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/events", "/nowhere",
    ],
)  # fmt: skip
def test_without_a_key_every_route_is_closed(http: httpx.Client, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic key-1"}):
        answer = http.post(path, json=INFER, headers=headers) if ":" in path or "infer" in path else http.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in answer.json()["error"]


def test_the_401_has_the_dialect_of_its_route(http: httpx.Client) -> None:
    error = http.post("/v1/audio/form").json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "missing_api_key")
    assert http.get("/custom/x").json()["success"] is False


@pytest.mark.parametrize(
    "path", ["/", "/health", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/gated/ready"]
)
def test_health_and_metrics_are_open(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


@pytest.mark.parametrize("key", ["key-1", "key-2", "file-key"])
def test_each_key_opens(http: httpx.Client, key: str) -> None:
    answer = http.post("/v2/models/gated/infer", json=INFER, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200


def test_the_mounted_keys_may_be_rotated(http: httpx.Client, key_file: Path) -> None:
    before = key_file.read_text()
    key_file.write_text("# mounted\nrotated-key\n")
    try:
        statuses = [
            http.get("/v2/models", headers={"authorization": f"Bearer {key}"}).status_code
            for key in ("rotated-key", "file-key", "key-1")
        ]
    finally:
        key_file.write_text(before)
    assert statuses == [200, 401, 200]


def test_grpc_wants_a_key_too_but_for_health(pod: Pod) -> None:
    outcomes = stock_grpc_client(pod)
    assert [outcomes["live"], outcomes["ready"], outcomes["model ready"]] == [True] * 3
    assert outcomes["no key"]["status"] == outcomes["metadata"]["status"] == "UNAUTHENTICATED"
    assert "Authorization: Bearer" in outcomes["no key"]["message"]
    assert outcomes["key"]["rows"][0]["text"] == " one"


def test_a_websocket_without_a_key_is_refused_with_401(pod: Pod) -> None:
    address = f"ws://127.0.0.1:{pod.http_port}/echo/room"
    with pytest.raises(InvalidStatus) as caught:
        websocket(address)
    assert caught.value.response.status_code == 401
    assert caught.value.response.headers["x-request-id"]
    assert orjson.loads(caught.value.response.body)["error"].startswith("an API key is needed")
    with websocket(address, additional_headers=KEY) as echo:
        echo.send("last")
        assert echo.recv() == "last"


async def test_the_hop_brings_the_clients_key(pod: Pod) -> None:
    client = PredictorClient(f"127.0.0.1:{pod.http_port}", "gated")
    request = asr.write_request([AsrInput(np.zeros(16000, np.float32), AsrOptions())], "gated")
    with pytest.raises(Unauthorized, match="an API key is needed"):
        await client.infer(request, {}, Deadline(10))
    (result,) = asr.read_response(await client.infer(request, KEY, Deadline(10)))
    assert result.text == " one"
    await client.close()


# --- limits ---


def test_a_body_over_the_limit_is_413_with_the_limit(http: httpx.Client) -> None:
    assert http.post("/v2/models/gated/infer", content=b" " * MIB, headers=KEY).status_code == 400  # it was read
    for size in (MIB + 1, 30 * MIB):  # the second is more than the sockets' buffers take
        answer = http.post("/v2/models/gated/infer", content=b" " * size, headers=KEY)
        assert answer.status_code == 413
        expected = f"the body has {size} bytes; at most {MIB} bytes are accepted (MAX_BODY_BYTES)"
        assert answer.json() == {"error": expected}


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * (MIB // 4)


@pytest.mark.parametrize("path", ["/v2/models/gated/infer", "/v1/models/gated:predict"])
def test_a_body_without_a_length_is_counted(http: httpx.Client, path: str) -> None:
    assert http.post(path, content=pieces(4), headers=KEY).status_code == 400
    answer = http.post(path, content=pieces(30), headers=KEY)
    assert answer.status_code == 413
    assert f"at most {MIB} bytes" in answer.json()["error"]


def test_an_upload_over_the_limit_is_413_in_the_routes_dialect(http: httpx.Client) -> None:
    answer = http.post("/v1/audio/form", files={"file": ("a.wav", bytes(2 * MIB))}, headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_the_hop_passes_the_predictors_limit_on(pod: Pod) -> None:
    client = PredictorClient(f"127.0.0.1:{pod.http_port}", "gated")
    long = asr.write_request([AsrInput(np.zeros(8 * MIB, np.float32), AsrOptions())], "gated")
    with pytest.raises(TooLarge, match=rf"at most {MIB} bytes are accepted"):
        await client.infer(long, KEY, Deadline(20))
    await client.close()


def test_a_grpc_message_over_the_limit_says_so(pod: Pod) -> None:
    request = pb.ModelInferRequest(model_name="gated", raw_input_contents=[bytes(2 * MIB)])
    with grpc.insecure_channel(pod.grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=tuple(KEY.items()))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MIB) in caught.value.details()


def test_typed_values_over_grpc_have_the_limit_of_json(pod: Pod) -> None:
    """Each becomes a Python object."""
    request = pb.ModelInferRequest(model_name="gated")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, 1000]).contents.fp32_contents.extend([0] * 1000)
    with grpc.insecure_channel(pod.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(request, metadata=tuple(KEY.items())).outputs[0].name == "RESULT"
        request.inputs[0].contents.fp32_contents.append(0)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, metadata=tuple(KEY.items()))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1001 values in 'contents'; at most 1000 are accepted (MAX_JSON_VALUES)" in caught.value.details()


def test_a_websocket_message_over_the_limit_ends_the_connection(pod: Pod) -> None:
    with websocket(f"ws://127.0.0.1:{pod.http_port}/echo/room", additional_headers=KEY) as echo:
        echo.send("x" * 1000)
        assert len(echo.recv()) == 1000
        echo.send("x" * 1001)
        with pytest.raises(ConnectionClosedError) as caught:
            echo.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


# --- traces ---


async def test_the_predictors_span_belongs_to_the_hops_trace(
    pod: Pod, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "tracer", TracerProvider().get_tracer("transformer"))
    client = PredictorClient(f"127.0.0.1:{pod.http_port}", "gated")
    request = v2.request("gated", {"AUDIO": np.zeros((1, 16000), np.float32)}, {"prompt": "secret prompt"})
    with telemetry.span("transformer", trace.SpanKind.SERVER) as span:
        await client.infer(request, KEY, Deadline(10))
        context = span.get_span_context()
    await client.close()
    found = collector.until(context.trace_id, "POST /v2/models/{model_name}/infer")
    assert int.from_bytes(found.parent_span_id, "big") not in (0, context.span_id)  # the hop's span lies between
    attributes = {each.key: each.value for each in found.attributes}
    assert attributes["http.route"].string_value == "/v2/models/{model_name}/infer"
    assert attributes["http.response.status_code"].int_value == 200
    assert collector.services == {"gated"}
    assert "secret" not in str(collector.spans)


def test_a_grpc_call_has_a_span_too(pod: Pod, collector: Collector) -> None:
    trace_id = 0x0AF7651916CD43DD8448EB211C80319C
    request = pb.ModelMetadataRequest(name="gated")
    with grpc.insecure_channel(pod.grpc_url) as channel:
        GRPCInferenceServiceStub(channel).ModelMetadata(request, metadata=(parent(trace_id), *KEY.items()))
    assert collector.until(trace_id, "grpc ModelMetadata").parent_span_id.hex() == "b7ad6b7169203331"


def parent(trace_id: int) -> tuple[str, str]:
    return "traceparent", f"00-{trace_id:032x}-b7ad6b7169203331-01"


def all_spans_of(pod: Pod, collector: Collector, trace_id: int) -> list[Any]:
    """The spans of a trace that is over. They are sent in the order of their ends: after a later one there is no other."""
    later = random.getrandbits(127)
    assert httpx.get(f"{pod.url}/v2", headers=[parent(later), *KEY.items()], trust_env=False).status_code == 200
    collector.until(later, "GET /v2")
    return collector.of(trace_id)


VERSION_ROUTE = "/v2/models/{model_name}/versions/{version}"
UNSET, ERROR = Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2?token=secret-token&X-Goog-Signature=secret", ("GET /v2", 200, UNSET)),
        ("/secret-path.wav?file=secret-file.wav", ("GET unmatched", 404, UNSET)),
        ("/v2/models/gated/versions/secret?file=secret-file.wav", ("GET " + VERSION_ROUTE, 404, UNSET)),
        ("/v1/audio/fault?file=secret-file.wav", ("GET /v1/audio/fault", 500, ERROR)),
    ],
)
def test_a_request_has_one_span_without_anything_a_client_chose(
    pod: Pod, http: httpx.Client, collector: Collector, path: str, expected: tuple[str, int, int]
) -> None:
    trace_id = random.getrandbits(127)
    http.get(path, headers=[parent(trace_id), *KEY.items()])
    (span,) = all_spans_of(pod, collector, trace_id)
    attributes = {each.key: each.value for each in span.attributes}
    assert (span.name, attributes["http.response.status_code"].int_value, span.status.code) == expected
    assert span.kind == Span.SPAN_KIND_SERVER
    assert set(attributes) == {"http.route", "http.response.status_code"}
    assert "secret" not in str(span)


def test_probes_have_no_spans(pod: Pod, http: httpx.Client, collector: Collector) -> None:
    trace_id = random.getrandbits(127)
    for path in ("/", "/health", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/gated/ready"):
        assert http.get(path, headers=[parent(trace_id)]).status_code == 200
    with grpc.insecure_channel(pod.grpc_url) as channel:
        assert GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), metadata=[parent(trace_id)]).ready
    assert all_spans_of(pod, collector, trace_id) == []


@pytest.mark.parametrize(
    ("model", "prompt", "expected"),
    [("gated", "explode", ("INTERNAL", ERROR)), ("other", "", ("NOT_FOUND", UNSET)), ("gated", "", ("OK", UNSET))],
)
def test_a_grpc_span_has_failed_only_when_the_server_did(
    pod: Pod, collector: Collector, model: str, prompt: str, expected: tuple[str, int]
) -> None:
    trace_id = random.getrandbits(127)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, 2])
    request.parameters["prompt"].string_param = prompt
    with grpc.insecure_channel(pod.grpc_url) as channel, contextlib.suppress(grpc.RpcError):
        GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=[parent(trace_id), *KEY.items()])
    (span,) = all_spans_of(pod, collector, trace_id)
    attributes = {each.key: each.value.int_value for each in span.attributes}
    assert attributes == {"rpc.grpc.status_code": grpc.StatusCode[expected[0]].value[0]}
    assert (span.name, span.kind, span.status.code) == ("grpc ModelInfer", Span.SPAN_KIND_SERVER, expected[1])


# --- and nothing of it in the log ---


def test_the_log_is_json_without_keys_or_addresses_of_callers(pod: Pod) -> None:
    assert pod.records_but_grpcs()
    told = pod.text().replace(SECRET, "")  # a fault's cause: ours, and in the log alone
    for word in ("key-1", "key-2", "file-key", "Bearer", "secret", "/echo/room"):
        assert word not in told, word
