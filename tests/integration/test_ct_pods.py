"""Chest CT through two real processes: every protocol, steady memory with studies in a queue, and nobody named anywhere.

The predictor is the kit's own with the contract's fake for an engine; reading, routes, hop and server are real.
"""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton

from serving.contracts.ct_volume import SHAPE
from tests.collector import Collector, collecting
from tests.ct_privacy import FAULTS, MARKER, marked, private
from tests.ct_series import dicom, scan, zipped
from tests.pods import wait_for
from tests.services import Service, chest_ct
from tests.unit.serving.uploads.spooling import named, spooled

IMAGES = scan()
ARCHIVE = zipped(dicom(image) for image in IMAGES)
VOLUME_MB = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2] / 1e6
QUEUED = 8


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pods' /tmp."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def service(collector: Collector, scratch: Path) -> Iterator[Service]:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", "TMPDIR": str(scratch)}
    with chest_ct(env=env, decode_workers=2, study_volumes=2, study_queue=QUEUED, hop_retry_seconds=2) as running:
        yield running


def post(service: Service, archive: bytes = ARCHIVE, **more: Any) -> httpx.Response:
    options = {"timeout": 280, "trust_env": False, **more}
    return httpx.post(f"{service.url}/predict", files={"file": (f"{MARKER}.zip", archive)}, **options)


def test_every_protocol_tells_the_same(service: Service) -> None:
    answer = post(service)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["processing_status"], found["pathology"]) == ("Success", 0)
    assert found["input"]["slices"]["used"] == 24

    body = {"instances": [{"study": {"b64": base64.b64encode(ARCHIVE).decode()}}]}
    v1 = httpx.post(f"{service.url}/v1/models/ct:predict", json=body, timeout=280, trust_env=False).json()
    prediction = v1["predictions"][0]
    assert {**prediction, "time_of_processing": 0} == {**found, "time_of_processing": 0}

    client = triton.InferenceServerClient(
        service.url.removeprefix("http://"), network_timeout=280, connection_timeout=280
    )
    tensor = triton.InferInput("DICOM_ZIP", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([ARCHIVE], np.object_))
    result = client.infer("ct", [tensor])
    assert result.as_numpy("RISK")[0] == pytest.approx(found["probability_of_pathology"])
    assert json.loads(result.as_numpy("INPUT")[0]) == found["input"]
    assert result.as_numpy("STUDY_UID")[0].decode() == found["study_uid"]

    passed = triton.InferInput("VOLUME", [1, *SHAPE], "FP32")
    passed.set_data_from_numpy(np.full((1, *SHAPE), -1, np.float32))
    assert client.infer("ct", [passed]).as_numpy("RISK")[0] == 0
    client.close()


def test_health_and_limits(service: Service) -> None:
    health = httpx.get(f"{service.url}/health", trust_env=False).json()
    assert health == {"status": "ok", "device": "fake", "model_loaded": True}
    assert httpx.get(f"{service.url}/", trust_env=False).json() == health
    limits = httpx.get(f"{service.url}/v1/limits", trust_env=False).json()
    assert (limits["max_upload_bytes"], limits["study_queue"]) == (500 << 20, QUEUED)


def memory_mb(service: Service) -> float:
    """What the transformer and its workers hold, shared memory counted once."""
    process = psutil.Process(service.transformer.process.pid)
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total / 1e6


def test_studies_in_a_queue_take_no_more_memory_than_two(service: Service) -> None:
    """All are sent at once. What waits lies on disk: two volumes are held at most, and in the end none."""
    assert post(service).status_code == 200
    idle = memory_mb(service)
    peaks = []
    with ThreadPoolExecutor(QUEUED) as clients:
        for _ in range(2):
            answers = [clients.submit(post, service) for _ in range(QUEUED)]
            peaks.append(0.0)
            while not all(answer.done() for answer in answers):
                peaks[-1] = max(peaks[-1], memory_mb(service))
                time.sleep(0.05)  # sampling holds up whoever is sampled
            assert [answer.result().status_code for answer in answers] == [200] * QUEUED
    assert VOLUME_MB * 0.5 < max(peaks) - idle < 2 * VOLUME_MB + 100
    wait_for("the memory is free", lambda: memory_mb(service) < idle + 40, 30)


def test_a_client_that_leaves_frees_everything(service: Service, scratch: Path) -> None:
    pod = service.transformer

    async def leave() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            files = {"file": ("a.zip", ARCHIVE)}
            sending = asyncio.create_task(client.post(f"{service.url}/predict", files=files))
            await asyncio.to_thread(wait_for, "at work", lambda: spooled(scratch, pod.process.pid), 60)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    idle = memory_mb(service)
    asyncio.run(leave())
    pod.until_in_flight(0)
    assert spooled(scratch, pod.process.pid) == []
    wait_for("the memory is free", lambda: memory_mb(service) < idle + 40, 30)
    assert post(service).status_code == 200


@pytest.mark.parametrize("fault", FAULTS)
def test_nobody_is_named(service: Service, collector: Collector, scratch: Path, fault: str) -> None:
    """Markers in every tag, in the file's names and in the form; the answer alone has the two UIDs that it is of."""
    images = [marked(image) for image in scan()]
    FAULTS[fault](images)
    archive = zipped((dicom(image) for image in images), names=f"{MARKER}/{{:04d}}.dcm")
    assert private(str(images[0]), images)  # the search finds what there is
    trace_id = random.getrandbits(128)
    answer = post(service, archive, headers={"traceparent": f"00-{trace_id:032x}-b7ad6b7169203331-01"})
    body = answer.json()
    assert answer.status_code in (200, 400, 422)
    own = {key: body.pop(key) for key in ("study_uid", "series_uid")}
    if answer.status_code == 200:
        assert own["study_uid"] in {str(image.StudyInstanceUID) for image in images}
    collector.until(trace_id, "POST /predict")
    pods = (service.transformer, service.predictor)
    metrics = [httpx.get(f"{pod.url}/metrics", trust_env=False).text for pod in pods]
    everything = [json.dumps(body), str(answer.headers), collector.text(), *metrics, *(pod.text() for pod in pods)]
    assert [private(text, images) for text in everything] == [[]] * len(everything)
    assert "POST /predict" in collector.text()
    assert any('route="/predict"' in text for text in metrics)
    assert named(scratch) == []


def test_without_its_predictor_it_says_so(service: Service) -> None:
    """The last test: it stops the predictor."""
    service.predictor.stop()
    answer = post(service, headers={"x-request-timeout-seconds": "100"}, timeout=200)
    assert (answer.status_code, answer.json()["code"]) == (503, "predictor_unavailable")
    assert answer.json()["processing_status"] == "Failure"
    assert int(answer.headers["retry-after"]) >= 1
