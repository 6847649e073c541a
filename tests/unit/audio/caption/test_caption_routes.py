"""The captioning service's own routes, V1, V2, and what is refused how."""

from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferResponse

from serving import v2
from serving.errors import Overloaded
from tests.unit.audio.caption.conftest import LIMIT, Pod, b64, silence, sound
from transformers_pre.audio.caption.settings import CaptionSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")
TWO = "a sound of 2 seconds"


async def process(pod: Pod, data: Any, **fields: Any) -> httpx.Response:
    return await pod.http.post("/process", json={"input_data": data, **fields})


@pytest.mark.parametrize(
    "data",
    [
        b64(sound(2)),
        "data:audio/wav;base64," + b64(sound(2)),
        "DATA:;base64," + b64(sound(2)),
        {"data": b64(sound(2)), "format": "wav"},
        {"data": "data:audio/mpeg;base64," + b64(sound(2)), "format": "mp3"},
        f"\n {b64(sound(2))} \n",
    ],
    ids=["base64", "data URL", "data URL without type", "object", "object with a data URL", "white space around"],
)
async def test_process_answers_as_the_original_service(pod: Pod, data: Any) -> None:
    answer = await process(pod, data)
    assert (answer.status_code, answer.json()) == (200, {"status": "success", "processed_data": TWO})


async def test_process_of_silence_says_so(pod: Pod) -> None:
    answer = await process(pod, b64(silence(2)))
    assert answer.json() == {"status": "success", "processed_data": None, "silence": True}
    assert pod.predictor.asked == []  # nobody was asked to make a scene up


async def test_process_takes_the_fields_of_the_form(pod: Pod) -> None:
    answer = await process(pod, b64(sound(40)), style="audioset", summary="joined", max_tokens=9)
    assert {options.style for options in pod.predictor.asked} == {"audioset"}
    assert {options.max_tokens for options in pod.predictor.asked} == {9}
    assert answer.json()["processed_data"].count("a sound of") == 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "input_data must be base64, a data: URL in base64, or an http(s) link"),
        ({"input_data": 7}, 400, "input_data must be base64"),
        ({"input_data": {"format": "wav"}}, 400, "input_data.data must be base64"),
        ({"input_data": "data:audio/wav,raw"}, 400, "input_data is a data: URL without ;base64"),
        ({"input_data": "ftp://somewhere/a.wav"}, 400, "input_data is not base64"),
        ({"input_data": "http://127.0.0.1/a.wav"}, 400, "the link's host does not exist, or is not public"),
        ({"input_data": b64(b"no recording at all")}, 415, "the file is no audio"),
        ({"input_data": b64(bytes(LIMIT + 1))}, 413, "MAX_UPLOAD_BYTES"),
        ({"input_data": b64(sound(101))}, 413, "MAX_AUDIO_SECONDS"),
        (
            {"input_data": b64(sound(1)), "num_captions": 11},
            400,
            "num_captions: Input should be less than or equal to 10",
        ),
        ({"input_data": b64(sound(1)), "summary": "all"}, 400, "summary: Input should be 'best' or 'joined'"),
        ([], 400, "the body must be a JSON object"),
    ],
)
async def test_process_refuses_in_its_own_shape(pod: Pod, body: Any, status: int, message: str) -> None:
    refused = await pod.http.post("/process", json=body)
    assert refused.status_code == status, refused.text
    assert set(refused.json()) == {"status", "message"}
    assert refused.json()["status"] == "error"
    assert message in refused.json()["message"]


@pytest.mark.parametrize("path", ["/process", "/v1/chat/completions"])
async def test_json_takes_its_share_of_the_memory_for_bodies(pod: Pod, path: str) -> None:
    with pod.bodies.share() as take:
        take(CaptionSettings().max_bodies_bytes)
        refused = await pod.http.post(path, json={})
    assert refused.status_code == 503
    assert "MAX_BODIES_BYTES" in refused.text
    assert (await pod.http.post(path, json={})).status_code == 400


async def test_json_has_given_its_share_back_when_the_predictor_is_asked(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recording is on disk by then."""
    answered = pod.predictor.infer

    async def with_all_of_the_memory(*asked: Any) -> InferResponse:
        with pod.bodies.share() as take:
            take(CaptionSettings().max_bodies_bytes)
            return await answered(*asked)

    monkeypatch.setattr(pod.predictor, "infer", with_all_of_the_memory)
    assert (await process(pod, b64(sound(2)))).status_code == 200


async def test_what_the_predictor_says_comes_through(pod: Pod) -> None:
    pod.predictor.error = Overloaded("the queue is full, 8 wait", retry_after=3)
    refused = await process(pod, b64(sound(1)))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
    assert refused.json() == {"status": "error", "message": "the queue is full, 8 wait"}


async def test_caption_tells_scores_and_times(pod: Pod) -> None:
    files, data = {"file": ("a.wav", sound(40))}, {"num_captions": "2", "style": "audiocaps", "beam_size": "3"}
    answer = (await pod.http.post("/caption", files=files, data=data)).json()
    assert (answer["silence"], answer["style"], answer["duration"]) == (False, "audiocaps", 40.0)
    first, last = answer["windows"]
    assert (first["start"], last["end"]) == (0.0, 40.0)
    assert first["end"] == last["start"] <= 30.0
    assert [len(window["captions"]) for window in (first, last)] == [2, 2]
    assert [caption["score"] for caption in answer["captions"]] == [1.0, 0.5]
    assert answer["caption"] == answer["captions"][0]["text"]
    assert [options.beam_size for options in pod.predictor.asked] == [3, 3]
    assert sum(pod.predictor.seconds) == pytest.approx(40.0)


async def test_caption_of_silence(pod: Pod) -> None:
    answer = (await pod.http.post("/caption", files={"file": ("a.wav", silence(3))})).json()
    assert (answer["caption"], answer["silence"], answer["style"], answer["captions"]) == (None, True, None, [])
    assert answer["windows"] == [{"start": 0.0, "end": 3.0, "silence": True, "captions": []}]


async def test_caption_refuses_what_is_no_form(pod: Pod) -> None:
    refused = await pod.http.post("/caption", json={})
    assert (refused.status_code, refused.json()["status"]) == (400, "error")


async def test_v1(pod: Pod) -> None:
    body = {
        "instances": [{"audio": {"b64": b64(sound(2))}}, {"audio": {"b64": b64(silence(1))}}],
        "parameters": {"num_captions": 2},
    }
    heard, silent = (await pod.http.post("/v1/models/sounds:predict", json=body)).json()["predictions"]
    assert [caption["text"] for caption in heard["captions"]] == [TWO, f"{TWO} again"]
    assert (silent["caption"], silent["silence"], silent["duration"]) == (None, True, 1.0)
    assert set(heard) == {"caption", "score", "silence", "style", "duration", "captions", "windows"}


async def test_v2_with_samples_of_another_rate(pod: Pod) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((1, 2 * 8000)).astype(np.float32)
    request = v2.request("sounds", {"AUDIO": samples}, {"sample_rate": 8000})
    parts, length = v2.encode(request)
    answer = await pod.http.post(
        "/v2/models/sounds/infer", content=b"".join(parts), headers={v2.JSON_LENGTH: str(length)}
    )
    found = v2.tensors(v2.decode_response(answer.content, int(answer.headers[v2.JSON_LENGTH])))
    assert found["CAPTION"].tolist() == [TWO.encode()]
    assert (found["SILENCE"].tolist(), found["DURATION"].tolist(), found["SCORE"].tolist()) == ([False], [2.0], [1.0])


async def test_limits_are_told(pod: Pod) -> None:
    limits = (await pod.http.get("/v1/limits")).json()
    assert (limits["max_upload_bytes"], limits["window_seconds"], limits["silence_dbfs"]) == (LIMIT, 30.0, -60.0)
    assert (limits["max_num_captions"], limits["max_caption_tokens"], limits["max_beam_size"]) == (10, 200, 20)
    assert not any(name.startswith("stream_") for name in limits)


async def test_the_routes_are_described(pod: Pod) -> None:
    paths = (await pod.http.get("/openapi.json")).json()["paths"]
    assert {"/process", "/caption", "/v1/chat/completions", "/v1/models", "/v1/limits"} <= set(paths)
    schema = paths["/process"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["input_data"]
    assert {"style", "num_captions", "summary"} <= set(schema["properties"])
