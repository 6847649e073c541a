"""The release as its clients meet it: every protocol by its stock client through the ingress gateway."""

import base64
import io
import time

import httpx
import numpy as np
import openai
import pytest
import soundfile
import tritonclient.http as triton

from tests.bench.report import Section
from tests.bench.speech import RATE
from tests.e2e.conftest import Deployed
from tests.integration.clips import call_samples, words

SILENCE_SECONDS = 120


@pytest.fixture(scope="module")
def text(deployed: Deployed, call: bytes, hello: bytes, figures: Section) -> str:
    """What the call says, by the openai client."""
    with deployed.gateway.openai() as client:
        client.audio.transcriptions.create(file=("hello.wav", hello), model="whisper")  # should the pods have gone
        begun = time.monotonic()
        found = client.audio.transcriptions.create(file=("call.wav", call), model="whisper").text
        figures.row("30 s of a telephone call by the openai client", f"{time.monotonic() - begun:.1f} s")
    return found


def test_the_openai_client(text: str) -> None:
    assert len(words(text)) > 60
    assert "Diane" in text


def test_events(deployed: Deployed, call: bytes, text: str) -> None:
    with deployed.gateway.openai() as client:
        *deltas, done = client.audio.transcriptions.create(file=("call.wav", call), model="whisper", stream=True)
    assert len(deltas) > 1
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == text


def test_v1(deployed: Deployed, call: bytes, text: str) -> None:
    body = {"instances": [{"audio": {"b64": base64.b64encode(call).decode()}}]}
    with deployed.gateway.http() as client:
        answer = client.post(f"/v1/models/{deployed.service.name}:predict", json=body)
    assert [each["text"] for each in answer.json()["predictions"]] == [text]


def test_v2_with_a_large_binary_tensor(deployed: Deployed, figures: Section) -> None:
    samples = np.concatenate([call_samples(), np.zeros(SILENCE_SECONDS * RATE, np.float32)])
    exact = io.BytesIO()
    soundfile.write(exact, samples, RATE, format="WAV", subtype="FLOAT")
    with deployed.gateway.openai() as client:
        expected = client.audio.transcriptions.create(file=("long.wav", exact.getvalue()), model="whisper").text
    assert samples.nbytes > 8 << 20
    tensor = triton.InferInput("AUDIO", [1, len(samples)], "FP32")
    tensor.set_data_from_numpy(samples[None])
    with deployed.gateway.triton() as client:
        begun = time.monotonic()
        answer = client.infer(deployed.service.name, [tensor], headers=deployed.gateway.headers)
        megabytes = f"{samples.nbytes / 1e6:.1f} MB"
        figures.row(f"the same and silence as a V2 tensor of {megabytes}", f"{time.monotonic() - begun:.1f} s")
    assert [text.decode() for text in answer.as_numpy("TEXT")] == [expected]


def test_a_refusal_comes_through_as_it_was_said(deployed: Deployed) -> None:
    limit = httpx.get(
        f"{deployed.gateway.url}/v1/limits", headers=deployed.gateway.headers, trust_env=False, timeout=60
    ).json()["max_upload_bytes"]
    with deployed.gateway.openai() as client, pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(file=("long.wav", bytes(limit + 1)), model="whisper")
    assert caught.value.status_code == 413
    assert f"{limit} bytes" in caught.value.message
    assert "MAX_UPLOAD_BYTES" in caught.value.message


def test_a_predictor_has_no_public_address(deployed: Deployed) -> None:
    host = deployed.service.part("predictor")["status"]["url"].removeprefix("http://")
    for name in (host, deployed.gateway.host.replace("-transformer.", "-predictor.")):
        refused = httpx.get(deployed.gateway.url, headers={"Host": name}, trust_env=False, timeout=60)
        assert refused.status_code == 404, name
