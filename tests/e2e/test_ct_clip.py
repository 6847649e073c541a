"""Chest CT on the cluster: a study through the ingress, a new threshold by canary, from zero. The weights are random."""

import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

from predictors.ct_clip import demo_weights
from predictors.ct_clip.reader import CtReader
from predictors.ct_clip.settings import CtClipSettings
from serving.contracts.ct import CtInput, CtOptions, CtResult
from tests.bench.report import Section
from tests.ct_series import dicom, scan, stored, zipped
from tests.e2e import kubectl
from tests.e2e.conftest import RESTRICTED
from tests.e2e.gateway import Gateway, Outcome
from tests.e2e.load import Load
from tests.e2e.release import Release
from tests.e2e.service import InferenceService
from tests.e2e.target import Target
from tests.e2e.waiting import until
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.reader import StudyReader

NAME = "ct-clip"
SECONDS = 300.0
"""For a study, its upload included: what the original service's proxy gave it."""
SMALL = zipped(dicom(image) for image in scan())
SAME = 1e-5
THRESHOLD = f"models.{NAME}.predictor.env.OPTIMAL_THRESHOLD"
WINDOW = f"models.{NAME}.predictor.scaling.window"
PERCENT = f"models.{NAME}.canary.trafficPercent"
CALLS = 24
"""Of which at least one goes to each of two revisions of 50 %, but for one time in eight million."""


@dataclass(frozen=True)
class Reading:
    release: Release
    service: InferenceService
    gateway: Gateway


@pytest.fixture(scope="module")
def reading(target: Target) -> Iterator[Reading]:
    """The service alone in a namespace of its own, answering."""
    with kubectl.namespace(f"{target.namespace}-ct", **RESTRICTED) as namespace:
        release = Release(target, namespace)
        release.install("models.whisper-base.enabled=false", f"models.{NAME}.enabled=true")
        service = InferenceService(namespace, NAME)
        service.until_ready(SECONDS)
        gateway = Gateway(target.gateway, service.host(), NAME)
        with gateway.http(SECONDS) as client:
            # A host name that was asked for before it was there is unknown for as long as resolvers remember that.
            until("the first answer", lambda: gateway.read(client, SMALL).status == httpx.codes.OK, 120)
        yield Reading(release, service, gateway)


def answered(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == 200, outcome.body
    found: dict[str, Any] = json.loads(outcome.body)
    assert found["processing_status"] == "Success"
    return found


async def in_this_process(archive: bytes) -> CtResult:
    """What reader and engine say without any service."""
    async with StudyReader(StudyLimits()) as reader:
        with stored(archive) as file:
            study = await reader.read(file)
    engine = CtReader(CtClipSettings(model_id=demo_weights.NAME, device="cpu"))
    engine.load()
    (result,) = engine.run([CtInput(study.volume, CtOptions())])
    engine.close()
    assert isinstance(result, CtResult)
    return result


@pytest.mark.timeout(900)
async def test_a_study_of_200_mb_is_answered_as_in_one_process(reading: Reading, figures: Section) -> None:
    images = scan(count=400, rows=512, columns=512, spacing=(0.7, 0.7), step=0.8)
    archive = zipped((dicom(image) for image in images), compression=zipfile.ZIP_STORED)
    assert len(archive) > 200e6
    expected = await in_this_process(archive)
    assert expected.risk is not None
    with reading.gateway.http(SECONDS) as client:
        outcome = reading.gateway.read(client, archive)
    answer = answered(outcome)
    figures.row(f"{NAME}: a ZIP of {len(archive) / 1e6:.0f} MB, random weights", f"{outcome.seconds:.1f} s")
    for key, head in (
        ("supervised_probabilities", "supervised"),
        ("ctclip_probabilities", "zero_shot"),
        ("classfine_probabilities", "classfine"),
    ):
        assert list(answer[key]) == list(expected.scores[head].labels)
        np.testing.assert_allclose(list(answer[key].values()), expected.scores[head].values, atol=SAME)
    assert answer["probability_of_pathology"] == pytest.approx(expected.risk.probability, abs=SAME)
    assert answer["input"]["slices"]["used"] == 400


@pytest.mark.timeout(900)
def test_a_new_threshold_by_canary(reading: Reading) -> None:
    release, service, gateway = reading.release, reading.service, reading.gateway
    old = service.newest("predictor")
    with Load(gateway, partial(gateway.read, study=SMALL)) as load:
        load.until_answered(1, SECONDS)
        # The window keeps the new revision there for its half of the calls.
        release.upgrade(f"{THRESHOLD}=0.9", f"{WINDOW}=60s", f"{PERCENT}=50")
        new = service.until_newer("predictor", old)
        service.until_split("predictor", {old: 50, new: 50}, SECONDS)
        halves = [answered(each) for each in load.from_now(CALLS, SECONDS)]
        assert {each["model"]["risk"]["threshold"] for each in halves} == {0.4, 0.9}

        release.upgrade(f"{PERCENT}=100")
        service.until_split("predictor", {new: 100})
        after = [answered(each) for each in load.from_now(3, 120)]
    assert {each["model"]["risk"]["threshold"] for each in after} == {0.9}
    assert not load.failed
    for each in halves + after:
        assert each["pathology"] == int(each["probability_of_pathology"] >= each["model"]["risk"]["threshold"])


@pytest.mark.timeout(600)
def test_to_zero_and_back(reading: Reading, figures: Section) -> None:
    with reading.gateway.http(SECONDS) as client:
        warm = answered(reading.gateway.read(client, SMALL))
        until("both pods gone", lambda: not reading.service.pods(), 300)
        begun = time.monotonic()
        cold = answered(reading.gateway.read(client, SMALL))
        figures.row(f"{NAME}: from zero, random weights", f"{time.monotonic() - begun:.1f} s")
    for found in (warm, cold):
        found.pop("time_of_processing")
    assert cold == warm
