"""A predictor pod as a process: V1, V2 over HTTP and V2 over gRPC, by their stock clients and by requests that lie."""

from contextlib import closing
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import tritonclient.http as triton
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from serving import VERSION
from serving.errors import InternalError
from tests.gated_pod import SECRET
from tests.pods import Pod, stock_grpc_client

SECOND = np.full((1, 16000), 0.1, np.float32)


def inputs(audio: npt.NDArray[Any], *, binary: bool) -> list[Any]:
    made = triton.InferInput("AUDIO", list(audio.shape), "FP32")
    made.set_data_from_numpy(audio, binary_data=binary)
    lengths = triton.InferInput("LENGTHS", [len(audio)], "INT32")
    lengths.set_data_from_numpy(np.full(len(audio), audio.shape[1], np.int32), binary_data=binary)
    return [made, lengths]


# --- V2 over HTTP ---


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_v2_by_the_stock_http_client(pod: Pod, binary_in: bool, binary_out: bool) -> None:
    with closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("gated")
        result = client.infer(
            "gated",
            inputs(np.repeat(SECOND, 2, 0), binary=binary_in),
            outputs=[triton.InferRequestedOutput("RESULT", binary_data=binary_out)],
            request_id="id-7",
            parameters={"language": "ru", "contract": "asr/1"},
        )
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["parameters"]) == ("id-7", "gated", {"contract": "asr/1"})
    assert ("data" in answer["outputs"][0]) is not binary_out
    rows = [orjson.loads(row) for row in result.as_numpy("RESULT").tolist()]
    assert [(row["text"], row["language"]) for row in rows] == [(" one", "ru")] * 2


def test_metadata_names_the_contracts_tensors(pod: Pod) -> None:
    with closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client:
        metadata = client.get_model_metadata("gated")
    described = [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"] + metadata["outputs"]]
    assert described == [("AUDIO", "FP32", [-1, -1]), ("LENGTHS", "INT32", [-1]), ("RESULT", "BYTES", [-1])]


def test_server_metadata_names_this_server_and_what_it_serves(pod: Pod) -> None:
    with closing(triton.InferenceServerClient(pod.url.removeprefix("http://"))) as client:
        by_http = client.get_server_metadata()
    with grpc.insecure_channel(pod.grpc_url) as channel:
        by_grpc = GRPCInferenceServiceStub(channel).ServerMetadata(pb.ServerMetadataRequest())
    assert by_http == {"name": "sonotome", "version": VERSION, "extensions": ["binary_tensor_data", "parameters"]}
    assert by_http == {"name": by_grpc.name, "version": by_grpc.version, "extensions": list(by_grpc.extensions)}


def body(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "AUDIO", "shape": [1, 2], "datatype": "FP32", "data": [0, 0], **changes}]}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v2/models/other/infer", 404, "Model with name other does not exist"),
        ("/v1/models/other:predict", 404, "Model with name other does not exist"),
        ("/v2/models/gated/versions/1/infer", 404, "has no version '1'"),
        ("/v2/models/other/versions/1/infer", 404, "Model with name other does not exist"),
        ("/v2/models/gated/versions/1", 404, "has no version '1'"),
        ("/v2/models/gated/versions/1/ready", 404, "has no version '1'"),
        ("/v2/models/other/ready", 404, "Model with name other does not exist"),
        ("/v2/models/other", 404, "Model with name other does not exist"),
        ("/v2/repository/models/gated/unload", 404, "Not Found"),
        ("/v2/repository/models/gated/load", 404, "Not Found"),
        ("/v1/models/gated:explain", 405, "Method Not Allowed"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_what_is_not_served_is_404_or_405(http: httpx.Client, path: str, status: int, message: str) -> None:
    posted = path.endswith(("infer", "predict", "load", "explain"))
    answer = http.request("POST" if posted else "GET", path, json=body() if posted else None)
    assert answer.status_code == status
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/gated/infer", "POST"),
        ("POST", "/v1/models/gated:explain", "GET"),  # to KServe's route of models
        ("DELETE", "/health", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/docs/assets/swagger-ui.css", "GET, HEAD"),
        ("GET", "/v1/audio/form", "POST"),
    ],
)
def test_405_says_what_is_allowed(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"{", {}, "not JSON"),
        (b"[]", {}, "must be an object"),
        (orjson.dumps(body()), {"inference-header-content-length": "-1"}, "must be a whole number, got '-1'"),
        (orjson.dumps(body()), {"inference-header-content-length": "ten"}, "must be a whole number, got 'ten'"),
        (orjson.dumps(body()), {"inference-header-content-length": "9" * 5000}, "must be a whole number, got '999"),
        (orjson.dumps(body()), {"inference-header-content-length": "99999"}, "is 99999, the body has"),
        (orjson.dumps(body(data=[1])), {}, "'AUDIO' is not FP32 [1, 2]"),
        (orjson.dumps(body(data=[1, None])), {}, "not finite"),
        (orjson.dumps(body(shape=[2**31, 0], data=[])), {}, "at most 4096"),
        (orjson.dumps(body(datatype="FP16")), {}, "input 'AUDIO' is needed: FP32"),
        (orjson.dumps(body() | {"outputs": [{"name": "TEXT"}]}), {}, "output 'TEXT' is not there, there are: RESULT"),
        (orjson.dumps(body() | {"outputs": [{"name": "RESULT", "parameters": 1}]}), {}, "'parameters' must be"),
        (orjson.dumps(body() | {"parameters": {"contract": "asr/9"}}), {}, "this predictor speaks 'asr/1'"),
        (orjson.dumps(body() | {"parameters": {"task": 7}}), {}, "parameter 'task'"),
    ],
)
def test_v2_requests_that_lie_are_4xx_with_what_was_wrong(
    http: httpx.Client, content: bytes, headers: dict[str, str], message: str
) -> None:
    answer = http.post("/v2/models/gated/infer", content=content, headers=headers)
    assert answer.status_code == (413 if "4096" in message else 400)
    assert message in answer.json()["error"]


def test_a_compressed_body_is_415_and_not_called_bad_json(pod: Pod) -> None:
    client = triton.InferenceServerClient(pod.url.removeprefix("http://"))
    with closing(client), pytest.raises(InferenceServerException) as caught:
        client.infer("gated", inputs(SECOND, binary=True), request_compression_algorithm="gzip")
    assert (caught.value.status(), caught.value.message()) == (
        "415",
        "the body's content-encoding is 'gzip'; send it without one",
    )


def test_more_windows_than_the_queue_holds_is_413_with_the_limit(http: httpx.Client) -> None:
    answer = http.post("/v2/models/gated/infer", json=body(shape=[9, 1], data=[0] * 9))
    assert answer.status_code == 413
    assert "at most 8 fit the queue (MAX_QUEUE)" in answer.json()["error"]


def test_one_windows_refusal_is_the_requests(http: httpx.Client) -> None:
    answer = http.post("/v2/models/gated/infer", json=body(shape=[2, 1], data=[0, 1]))
    assert (answer.status_code, answer.json()) == (422, {"error": "this window is too loud for a fake"})


# --- V1 ---


def test_v1(http: httpx.Client) -> None:
    sent = {"instances": [{"audio": SECOND[0].tolist()}, {"audio": []}], "parameters": {"language": "de"}}
    predictions = http.post("/v1/models/gated:predict", json=sent).json()["predictions"]
    assert [(each["text"], each["language"]) for each in predictions] == [(" one", "de"), ("", "de")]
    assert http.post("/v1/models/gated:predict", json={"instances": []}).json() == {"predictions": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is not JSON"),
        (b"[]", "the body must be a JSON object"),
        (b'{"instances": {}}', "an object with a list 'instances'"),
        (b'{"instances": [1]}', "instances[0].audio must be mono samples"),
        (b'{"instances": [], "parameters": []}', "'parameters' must be an object"),
        (b'{"instances": [], "parameters": {"beam_size": 99}}', "parameter 'beam_size'"),
    ],
)
def test_v1_requests_that_lie_are_400(http: httpx.Client, content: bytes, message: str) -> None:
    answer = http.post("/v1/models/gated:predict", content=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


# --- V2 over gRPC ---


@pytest.fixture(scope="module")
def stock(pod: Pod) -> dict[str, Any]:
    """What `tests.triton_grpc` got."""
    return stock_grpc_client(pod)


def test_v2_by_the_stock_grpc_client(stock: dict[str, Any]) -> None:
    assert [stock["live"], stock["ready"], stock["model ready"]] == [True] * 3
    assert [tensor["name"] for tensor in stock["metadata"]["inputs"]] == ["AUDIO", "LENGTHS"]
    answer = stock["answer"]
    assert (answer["id"], answer["parameters"]) == ("id-8", {"contract": {"string_param": "asr/1"}})
    assert [(row["text"], row["language"]) for row in answer["rows"]] == [(" one", "ru")]


def test_grpc_messages_beyond_8_mib_pass(stock: dict[str, Any]) -> None:
    assert len(stock["12 MiB"]["rows"][0]["text"].split()) == 197  # seconds, each with a word


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        ("other model", "NOT_FOUND", "Model with name other does not exist"),
        ("version", "NOT_FOUND", "has no version '2'"),
        ("version's readiness", "NOT_FOUND", "has no version '7'"),
        ("version's metadata", "NOT_FOUND", "has no version '7'"),
        ("bad parameter", "INVALID_ARGUMENT", "parameter 'beam_size'"),
        ("refused window", "FAILED_PRECONDITION", "this window is too loud for a fake"),
        ("fault", "INTERNAL", InternalError.MESSAGE),
        ("unload", "UNIMPLEMENTED", "not served"),
        ("load", "UNIMPLEMENTED", "not served"),
    ],
)
def test_grpc_errors_have_the_trees_status_and_message(
    stock: dict[str, Any], case: str, status: str, message: str
) -> None:
    assert stock[case]["status"] == status
    assert message in stock[case]["message"]
    assert stock["still there"]["rows"][0]["text"] == " one"


@pytest.mark.parametrize(
    ("shape", "datatype", "raw", "message"),
    [
        ([1, 3], "FP32", b"\0" * 8, "is not FP32 [1, 3]"),
        ([-1, 2], "FP32", b"\0" * 8, "needs a 'shape'"),
        ([1, 2], "FP8", b"\0" * 16, "invalid"),
        ([2**31, 0], "FP32", b"", "at most 4096"),
    ],
)
def test_grpc_tensors_that_lie_are_refused(pod: Pod, shape: list[int], datatype: str, raw: bytes, message: str) -> None:
    request = pb.ModelInferRequest(model_name="gated", raw_input_contents=[raw])
    request.inputs.add(name="AUDIO", datatype=datatype, shape=shape)
    with grpc.insecure_channel(pod.grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request)
    expected = grpc.StatusCode.RESOURCE_EXHAUSTED if "4096" in message else grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.code() is expected
    assert message in caught.value.details()


def test_grpc_tensors_may_be_typed_lists(pod: Pod) -> None:
    request = pb.ModelInferRequest(model_name="gated")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([0, 0, 0, 0])
    with grpc.insecure_channel(pod.grpc_url) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.outputs[0].name == "RESULT"


def test_a_grpc_call_has_a_request_id_that_the_log_has_too(pod: Pod) -> None:
    request = pb.ModelInferRequest(model_name="gated", raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, 2])
    request.parameters["prompt"].string_param = "explode"
    with grpc.insecure_channel(pod.grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request)
    sent = dict(caught.value.initial_metadata())["x-request-id"]
    assert pod.until_logged(message="the engine failed", request_ids=[sent])["exception"].endswith(SECRET)


@pytest.mark.parametrize(("model", "status"), [("gated", "OK"), ("other", "NOT_FOUND")])
def test_a_grpc_call_is_counted_and_has_a_log_line(pod: Pod, model: str, status: str) -> None:
    labels = {"route": "grpc ModelMetadata", "status": status}
    before = pod.metric("sonotome_requests_total", **labels)
    metadata = [("x-request-id", f"noted-{model}")]
    with grpc.insecure_channel(pod.grpc_url) as channel:
        call = GRPCInferenceServiceStub(channel).ModelMetadata.future(
            pb.ModelMetadataRequest(name=model), metadata=metadata
        )
        assert call.code().name == status
    assert pod.until_logged(message="request", request_id=f"noted-{model}", **labels)["seconds"] >= 0
    assert pod.metric("sonotome_requests_total", **labels) == before + 1


def test_grpc_probes_have_no_log_line(pod: Pod) -> None:
    with grpc.insecure_channel(pod.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), metadata=[("x-request-id", "probe")]).live
        stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=[("x-request-id", "after-probe")])
    pod.until_logged(message="request", request_id="after-probe")
    assert not [record for record in pod.records() if record.get("request_id") == "probe"]
