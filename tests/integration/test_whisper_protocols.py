"""The Whisper service by KServe's protocols (V1, V2 over HTTP and gRPC) and by the Whisper medium service's own routes."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest
import soxr
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.bench.speech import RATE
from tests.integration.clips import COUNTING, FOX, FRENCH, HELLO, SPANISH, clip, said, samples, stereo, words
from tests.services import Service

PREDICT = "/v1/models/whisper:predict"
SECONDS = {HELLO: 1.143375, FOX: 2.888625, FRENCH: 2.7536875}


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def v2(service: Service) -> Iterator[triton.InferenceServerClient]:
    with closing(triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=120)) as client:
        yield client


def b64(audio: bytes) -> dict[str, Any]:
    return {"audio": {"b64": base64.b64encode(audio).decode()}}


def tensor(name: str, array: Any, kind: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def files(*audio: bytes) -> triton.InferInput:
    return tensor("AUDIO_FILE", np.array(audio, np.object_), "BYTES")


def texts(answer: triton.InferResult) -> list[str]:
    return [each.decode() for each in answer.as_numpy("TEXT")]


# --- V1 ---


def test_v1_with_several_recordings(http: httpx.Client) -> None:
    body = {"instances": [b64(clip(HELLO)), b64(clip(FRENCH))], "parameters": {"timestamps": "word"}}
    english, french = http.post(PREDICT, json=body).json()["predictions"]
    assert set(english) == {"text", "language", "duration", "segments"}
    assert (words(english["text"]), english["language"]) == (["hello", "world"], "en")
    assert ("whisky" in words(french["text"]), french["language"]) == (True, "fr")
    for found, name in ((english, HELLO), (french, FRENCH)):
        assert found["duration"] == pytest.approx(SECONDS[name])
        assert "".join(segment["text"] for segment in found["segments"]) == found["text"]
        listed = [word for segment in found["segments"] for word in segment["words"]]
        assert "".join(word["word"] for word in listed).strip() == found["text"]
        assert all(0 <= word["start"] <= word["end"] <= found["duration"] for word in listed)


def test_v1_base64_may_be_broken_into_lines(http: httpx.Client) -> None:
    lines = base64.encodebytes(clip(HELLO)).decode()
    (found,) = http.post(PREDICT, json={"instances": [{"audio": {"b64": lines}}]}).json()["predictions"]
    assert words(found["text"]) == ["hello", "world"]


def test_v1_parameters_are_the_contracts(http: httpx.Client) -> None:
    spanish = {"language": "es", "task": "translate", "no_such_parameter": 1}
    (translated,) = http.post(PREDICT, json={"instances": [b64(clip(SPANISH))], "parameters": spanish}).json()[
        "predictions"
    ]
    assert "and" in words(translated["text"])
    both = stereo(samples(FOX), samples(COUNTING))
    split = {"channels": "split", "language": "en"}
    (apart,) = http.post(PREDICT, json={"instances": [b64(both)], "parameters": split}).json()["predictions"]
    assert {segment["channel"] for segment in apart["segments"]} == {0, 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": []}, "the request holds nothing, 1 to 64 items are accepted"),
        ({"instances": [{"audio": {"b64": "@@@@"}}]}, "instances[0].audio.b64 is not base64"),
        ({"instances": ["x"]}, "instances[0] must be {'audio': {'b64': …}} or {'url': …}"),
        ({"instances": [b64(b"x")], "parameters": [1]}, "parameters must be an object"),
        ({"instances": [b64(b"x")], "parameters": {"beam_size": "many"}}, "beam_size: Input should be a valid integer"),
        (
            {"instances": [b64(clip(HELLO))], "parameters": {"language": "xh"}},
            "language 'xh' is not known to this model",
        ),
        ({}, "the body must be an object with a list 'instances'"),
    ],
)
def test_v1_refusals_are_kserves(http: httpx.Client, body: dict[str, Any], message: str) -> None:
    refused = http.post(PREDICT, json=body)
    assert refused.status_code == 400
    assert list(refused.json()) == ["error"]
    assert refused.json()["error"].startswith(message)


def test_v1_takes_a_bounded_number_of_recordings(http: httpx.Client) -> None:
    most = http.get("/v1/limits").json()["max_instances"]
    refused = http.post(PREDICT, json={"instances": [b64(clip(HELLO))] * (most + 1)})
    assert refused.status_code == 413
    told = f"the request holds {most + 1} items, 1 to {most} are accepted (MAX_INSTANCES)"
    assert refused.json() == {"error": told}


# --- V2 ---


def test_v2_describes_itself(v2: triton.InferenceServerClient) -> None:
    assert v2.is_server_live()
    assert v2.is_server_ready()
    assert v2.is_model_ready("whisper")
    told = v2.get_model_metadata("whisper")
    assert {each["name"]: each["datatype"] for each in told["inputs"]} == {
        "AUDIO_FILE": "BYTES",
        "AUDIO": "FP32",
        "LENGTHS": "INT32",
    }
    assert [each["name"] for each in told["outputs"]] == ["TEXT", "LANGUAGE", "DURATION", "SEGMENTS"]


def test_v2_with_files(v2: triton.InferenceServerClient) -> None:
    answer = v2.infer(
        "whisper", [files(clip(HELLO), clip(FRENCH))], request_id="id-3", parameters={"timestamps": "word"}
    )
    assert answer.get_response()["id"] == "id-3"
    english, french = texts(answer)
    assert (words(english), "whisky" in words(french)) == (["hello", "world"], True)
    assert answer.as_numpy("LANGUAGE").tolist() == [b"en", b"fr"]
    assert answer.as_numpy("DURATION").tolist() == pytest.approx([SECONDS[HELLO], SECONDS[FRENCH]])
    segments = [json.loads(each) for each in answer.as_numpy("SEGMENTS")]
    assert ["".join(segment["text"] for segment in each) for each in segments] == [english, french]
    assert all(segment["words"] for each in segments for segment in each)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_v2_with_samples_of_any_rate(v2: triton.InferenceServerClient, rate: int) -> None:
    waves = [soxr.resample(samples(name), RATE, rate) for name in (HELLO, FOX)]
    audio = np.zeros((2, max(map(len, waves))), np.float32)
    for row, wave in zip(audio, waves, strict=True):
        row[: len(wave)] = wave
    lengths = np.array([len(wave) for wave in waves], np.int32)
    answer = v2.infer(
        "whisper",
        [tensor("AUDIO", audio, "FP32"), tensor("LENGTHS", lengths, "INT32")],
        parameters={"sample_rate": rate},
        outputs=[triton.InferRequestedOutput("TEXT"), triton.InferRequestedOutput("DURATION")],
    )
    assert [words(text) for text in texts(answer)] == [["hello", "world"], words(said(FOX))]
    assert answer.as_numpy("DURATION").tolist() == pytest.approx([SECONDS[HELLO], SECONDS[FOX]], abs=1e-3)
    assert answer.as_numpy("SEGMENTS") is None  # it was not asked for


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ([files(b"no recording")], {}, "the file is no audio that is read here"),
        (
            [tensor("AUDIO", np.full((1, 9), np.nan, np.float32), "FP32")],
            {},
            "'AUDIO' holds values that are not finite",
        ),
        ([tensor("LENGTHS", np.ones(1, np.int32), "INT32")], {}, "an input 'AUDIO_FILE' (BYTES [N]) or 'AUDIO'"),
        (
            [
                tensor("AUDIO", np.zeros((1, 9), np.float32), "FP32"),
                tensor("LENGTHS", np.full(1, 10, np.int32), "INT32"),
            ],
            {},
            "'LENGTHS' must lie in 0..9",
        ),
        ([tensor("AUDIO", np.zeros((0, 9), np.float32), "FP32")], {}, "the request holds nothing"),
        ([tensor("AUDIO", np.zeros((1, 9), np.float32), "FP32")], {"sample_rate": 10}, "sample_rate must be 4000 to"),
        ([files(clip(HELLO))], {"language": "xx"}, "language: send an ISO-639-1 code"),
        ([files(clip(HELLO))], {"language": "xh"}, "language 'xh' is not known to this model"),
    ],
)
def test_v2_refusals(
    v2: triton.InferenceServerClient, inputs: list[triton.InferInput], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        v2.infer("whisper", inputs, parameters=parameters)
    assert caught.value.message().startswith(message)
    assert caught.value.status() == ("415" if "no audio" in message else "400")


def test_v2_over_grpc(service: Service) -> None:
    command = [sys.executable, "-m", "tests.integration.speech_grpc", service.transformer.grpc_url]
    outcomes = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    assert outcomes["ready"] is True
    english, french = outcomes["files"]["texts"]
    assert (words(english), "whisky" in words(french)) == (["hello", "world"], True)
    assert outcomes["files"]["languages"] == ["en", "fr"]
    assert words(outcomes["samples"]["texts"][0]) == words(said(FOX))
    assert outcomes["samples"]["durations"] == pytest.approx([SECONDS[FOX]], abs=1e-3)
    assert outcomes["junk"]["status"] == outcomes["no such language"]["status"] == "INVALID_ARGUMENT"
    assert outcomes["no such language"]["message"].startswith("language: send an ISO-639-1 code")


# --- the Whisper medium service's routes, and what a pod tells of itself ---


def test_transcribe(http: httpx.Client) -> None:
    form = {"language": "auto", "temperature": "0", "beam_size": "2", "best_of": "1"}
    answer = http.post("/transcribe", files={"file": clip(FRENCH)}, data=form).json()
    assert list(answer) == ["success", "text", "language", "segments_count"]
    assert (answer["success"], answer["language"], answer["segments_count"]) == (True, "fr", 1)
    simple = http.post("/transcribe_simple", files={"file": clip(FRENCH)}, data={"language": "fr"}).json()
    assert list(simple) == ["text"]
    assert {"portez", "fume"} <= set(words(simple["text"])) & set(words(answer["text"]))


def test_transcribe_refuses_in_its_own_shape(http: httpx.Client) -> None:
    for path in ("/transcribe", "/transcribe_simple"):
        refused = http.post(path, files={"file": clip(HELLO)}, data={"language": "xh"})
        assert (refused.status_code, refused.json()["success"]) == (400, False)
        assert refused.json()["error"].startswith("language 'xh' is not known to this model")


def test_health_and_limits(http: httpx.Client) -> None:
    for path in ("/", "/health"):
        assert http.get(path).json() == {"status": "ok", "device": "cpu", "model_loaded": True}
    limits = http.get("/v1/limits").json()
    assert (limits["max_upload_bytes"], limits["window_seconds"]) == (25 << 20, 30.0)
    assert {name for name, value in limits.items() if value is None} == {"stream_max_seconds", "stream_session_seconds"}
    assert all(value > 0 for value in limits.values() if value is not None)


def test_v1_and_openai_share_the_list_of_models(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["models"] == ["whisper"]
    assert [each["id"] for each in listed["data"]] == ["whisper"]
    one = http.get("/v1/models/whisper").json()
    assert (one["name"], one["ready"], one["object"]) == ("whisper", True, "model")
    missing = http.get("/v1/models/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert isinstance(http.post("/v1/models/nobody:predict", json={"instances": []}).json()["error"], str)


def test_the_docs_describe_every_route_and_need_no_other_host(http: httpx.Client) -> None:
    page = http.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    paths = http.get("/openapi.json").json()["paths"]
    expected = {"/v1/audio/transcriptions", "/v1/audio/translations", "/transcribe", "/transcribe_simple", "/v1/limits"}
    assert expected | {"/v1/models", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer"} <= set(paths)
