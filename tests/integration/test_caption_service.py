"""The captioning service as two real processes, on both CPU engines: random weights in the published layouts, real tokenizer.

What the captions say means nothing; that the same come by every way, and what is told of them, is what is tested.
"""

import base64
import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton

from tests.bench.speech import RATE, wav
from tests.integration.clips import HELLO, clip
from tests.services import Service, captions
from tests.unit.audio_caption import tiny

FEW = {"max_tokens": 10}
PREFIXES = ("clotho", "audiocaps", "audioset >", "<|")


@pytest.fixture(scope="module", params=["ctranslate2", "torch"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The checkpoint of 2023 on each engine; both compute in float32, so both are to say the same."""
    folder = tiny.of_2023(tmp_path_factory.mktemp("weights") / "2023")
    env = {"MODEL_ID": str(folder), "BACKEND": request.param, "DTYPE": "float32", "BEAM_SIZE": "1", "NUM_THREADS": "1"}
    env["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    with captions(env, decode_workers=2, decode_queue=62) as running:
        yield running


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=120) as client:
        yield client


def sound(seconds: float, seed: int = 1) -> bytes:
    return wav(tiny.sound(seconds, seed))


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def described(http: httpx.Client, audio: bytes, **fields: Any) -> dict[str, Any]:
    answer = http.post("/caption", files={"file": audio}, data={**FEW, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_every_way_tells_the_same_caption(service: Service, http: httpx.Client) -> None:
    audio = sound(3.0)
    caption = described(http, audio)["caption"]
    assert caption
    assert not any(prefix in caption for prefix in PREFIXES)
    processed = http.post("/process", json={"input_data": b64(audio), **FEW}).json()
    assert processed == {"status": "success", "processed_data": caption}
    body = {"instances": [{"audio": {"b64": b64(audio)}}], "parameters": FEW}
    assert http.post("/v1/models/sounds:predict", json=body).json()["predictions"][0]["caption"] == caption
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
    parts: Any = [{"type": "input_audio", "input_audio": {"data": b64(audio), "format": "wav"}}]
    messages: Any = [{"role": "user", "content": parts}]
    with client:
        chat = client.chat.completions.create(model="any", messages=messages, max_tokens=10)
        chunks = client.chat.completions.create(model="any", messages=messages, max_tokens=10, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chat.choices[0].message.content == streamed == caption
    with closing(triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=120)) as v2:
        file = triton.InferInput("AUDIO_FILE", [1], "BYTES")
        file.set_data_from_numpy(np.array([audio], np.object_))
        answer = v2.infer("sounds", [file], parameters=FEW)
        assert answer.as_numpy("CAPTION")[0].decode() == caption
        assert (answer.as_numpy("SILENCE")[0], answer.as_numpy("DURATION")[0]) == (False, 3.0)
        metadata = v2.get_model_metadata("sounds")
        assert {output["name"] for output in metadata["outputs"]} >= {"CAPTION", "SCORE", "SILENCE", "WINDOWS"}


SAID: list[tuple[str, ...]] = []
"""Captions by each engine, as they are asked in turn."""


def test_both_engines_say_the_same(http: httpx.Client) -> None:
    styles = ("clotho", "audiocaps", "audioset")
    SAID.append(tuple(described(http, sound(2.0, seed), style=style)["caption"] for seed in (1, 2) for style in styles))
    assert len(set(SAID[-1])) >= 3  # it hears, and follows the style
    assert len(set(SAID)) == 1


def test_several_captions_have_scores_in_order(http: httpx.Client) -> None:
    found = described(http, sound(2.0), num_captions=3, beam_size=5)
    scores = [caption["score"] for caption in found["captions"]]
    assert len({caption["text"] for caption in found["captions"]}) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_long_audio_is_captioned_window_by_window(service: Service, http: httpx.Client) -> None:
    samples = np.concatenate([tiny.sound(26.0, 1), np.zeros(45 * RATE, np.float32), tiny.sound(20.0, 2)])
    before = service.transformer.metric("sonotome_windows_total", model_name="sounds", outcome="silent")
    found = described(http, wav(samples), summary="joined")
    windows = found["windows"]
    assert (windows[0]["start"], windows[-1]["end"], found["duration"]) == (0.0, 91.0, 91.0)
    assert all(one["end"] == other["start"] for one, other in itertools.pairwise(windows))
    assert all(window["end"] - window["start"] <= 30.0 for window in windows)
    silent = [window for window in windows if window["silence"]]
    assert silent
    assert all(window["captions"] == [] for window in silent)
    heard = [window["captions"][0] for window in windows if not window["silence"]]
    assert all(each["text"] in found["caption"] for each in heard)
    after = service.transformer.metric("sonotome_windows_total", model_name="sounds", outcome="silent")
    assert after - before == len(silent)
    best = described(http, wav(samples))
    assert (best["caption"], best["score"]) == max(
        ((each["text"], each["score"]) for each in heard), key=lambda e: e[1]
    )


def test_silence_is_told_and_not_made_up(http: httpx.Client) -> None:
    silent = wav(np.zeros(5 * RATE, np.float32))
    assert described(http, silent)["silence"] is True
    processed = http.post("/process", json={"input_data": b64(silent)}).json()
    assert processed == {"status": "success", "processed_data": None, "silence": True}


def test_what_the_predictor_refuses_reaches_the_client(http: httpx.Client) -> None:
    refused = http.post("/process", json={"input_data": b64(sound(1.0)), "style": "haiku"})
    assert refused.status_code == 400
    assert refused.json() == {
        "status": "error",
        "message": "style 'haiku' is not known to this model, it has: clotho, audiocaps, audioset",
    }


def test_a_recording_of_speech_in_another_container(http: httpx.Client) -> None:
    assert described(http, clip(HELLO))["caption"]


def test_health_limits_and_models(service: Service, http: httpx.Client) -> None:
    for path in ("/", "/health"):
        assert http.get(path).json() == {"status": "ok", "device": "cpu", "model_loaded": True}
    assert http.get("/v1/limits").json()["window_seconds"] == 30.0
    assert http.get("/v1/models").json()["models"] == ["sounds"]
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/process", "/caption", "/v1/chat/completions"} <= set(paths)
    assert "/v1/audio/transcriptions" not in paths
    licence = [record for record in service.predictor.records_but_grpcs() if "non-commercial" in record["message"]]
    assert len(licence) == 1  # said once
