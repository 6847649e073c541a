"""Audio captioning on the cluster: `/process` through the ingress, from zero. The weights are random, captions words, no more."""

import base64
import io
import time
import wave
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.bench.report import Section
from tests.e2e import kubectl
from tests.e2e.conftest import RESTRICTED
from tests.e2e.gateway import Gateway
from tests.e2e.release import Release
from tests.e2e.service import InferenceService
from tests.e2e.target import Target
from tests.e2e.waiting import until

NAME = "audio-caption"
RATE = 16_000


@pytest.fixture(scope="module")
def captions(target: Target) -> Iterator[InferenceService]:
    """The service alone in a namespace of its own, ready."""
    with kubectl.namespace(f"{target.namespace}-caption", **RESTRICTED) as namespace:
        Release(target, namespace).install("models.whisper-base.enabled=false", f"models.{NAME}.enabled=true")
        service = InferenceService(namespace, NAME)
        service.until_ready()
        yield service


def recording(samples: np.ndarray) -> str:
    """16-bit WAV as base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((samples * 32767).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def answered(client: httpx.Client, samples: np.ndarray) -> httpx.Response:
    return client.post("/process", json={"input_data": recording(samples)})


@pytest.mark.timeout(600)
def test_process_from_zero(captions: InferenceService, target: Target, figures: Section) -> None:
    noise = 0.1 * np.clip(np.random.default_rng(0).standard_normal(3 * RATE), -3, 3)
    with Gateway(target.gateway, captions.host(), NAME).http() as client:
        # A host name that was asked for before it was there is unknown for as long as resolvers remember that.
        until("the first answer", lambda: answered(client, noise).status_code == httpx.codes.OK, 120)
        begun = time.monotonic()
        warm = answered(client, noise).json()
        seconds = time.monotonic() - begun
        assert warm["status"] == "success"
        assert warm["processed_data"]

        until("both pods gone", lambda: not captions.pods(), 240)
        begun = time.monotonic()
        cold = answered(client, noise)
        figures.row(
            f"{NAME}: /process from zero, random weights", f"{time.monotonic() - begun:.1f} s (warm {seconds:.1f} s)"
        )
        assert (cold.status_code, cold.json()) == (200, warm)

        silent = answered(client, np.zeros(RATE)).json()
        assert silent == {"status": "success", "processed_data": None, "silence": True}
        refused = client.post("/process", json={"input_data": "no recording"})
        assert (refused.status_code, refused.json()["status"]) == (400, "error")
