"""POST /predict: the original service's keys, every way to send a study, and what is asked of the predictor."""

import base64
import gzip

import imagecodecs
import pytest

from serving.testing import FakeReader
from tests.ct_series import dicom, enhanced, tarred
from tests.unit.dicom.routes.loopback import ARCHIVE, FILES, IMAGES, KEYS, SERIES_UID, STUDY_UID, CtLoopback

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_answer_has_the_original_services_keys(pod: CtLoopback) -> None:
    answer = await pod.answer()
    added = {"zero_shot_probabilities", "classfine_probabilities", "input", "model"}
    assert answer.keys() == KEYS | added
    assert (answer["study_uid"], answer["series_uid"]) == (STUDY_UID, SERIES_UID)
    probability = answer["probability_of_pathology"]
    assert 0 < probability < FakeReader.THRESHOLD
    assert answer["pathology"] == 0
    assert answer["most_dangerous_pathology_type"] == "Lung nodule"
    assert (
        answer["supervised_probabilities"].keys() == answer["ctclip_probabilities"].keys() == set(FakeReader.FINDINGS)
    )
    assert answer["supervised_probabilities"]["Lung nodule"] == pytest.approx(probability)
    assert list(answer["top_shap_features"]) == list(FakeReader.FINDINGS)
    assert 0 < answer["time_of_processing"] < 240
    assert answer["model"] == {"name": "fake"}
    assert answer["input"]["slices"] == {
        "received": 24,
        "used": 24,
        "dropped": [],
        "interpolated_at_mm": [],
        "transfer_syntaxes": ["Explicit VR Little Endian"],
    }
    assert answer["input"]["geometry"]["coverage_mm"] == [72.0, 80.0, 96.0]
    assert await pod.leftovers() == 0


WAYS = {
    "tar.gz": [gzip.compress(tarred(FILES))],
    "files one by one": FILES,
    "one multi-frame file": [dicom(enhanced(IMAGES))],
}


@pytest.mark.parametrize("files", WAYS.values(), ids=WAYS)
async def test_every_wrapping_gives_the_same_reading(pod: CtLoopback, files: list[bytes]) -> None:
    expected = (await pod.answer())["probability_of_pathology"]
    answer = await pod.answer(*files)
    assert answer["probability_of_pathology"] == pytest.approx(expected, abs=1e-7)
    assert answer["input"]["slices"]["used"] == 24
    assert await pod.leftovers() == 0


async def test_what_is_to_be_read_is_told_to_the_predictor(pod: CtLoopback) -> None:
    answer = await pod.answer(heads=["prompts,risk", "zero_shot"], prompts=["Pneumothorax", "Rib fracture, healed"])
    (asked,) = pod.fake.asked
    assert asked.options.wanted == {"prompts", "risk", "zero_shot"}
    assert asked.prompts == ("Pneumothorax", "Rib fracture, healed")
    assert answer["prompts_probabilities"].keys() == {"Pneumothorax", "Rib fracture, healed"}
    assert answer["supervised_probabilities"] == {}
    assert answer["ctclip_probabilities"] == answer["zero_shot_probabilities"]  # there is no VocabFine in it
    assert "classfine_probabilities" not in answer


async def test_without_risk_nothing_is_said_of_it(pod: CtLoopback) -> None:
    answer = await pod.answer(heads="supervised")
    assert answer["supervised_probabilities"]
    assert [answer[key] for key in ("probability_of_pathology", "pathology", "most_dangerous_pathology_type")] == [
        None
    ] * 3
    assert answer["top_shap_features"] == {}


async def test_a_series_may_be_asked_for(pod: CtLoopback) -> None:
    answer = await pod.answer(series_uid=SERIES_UID)
    assert answer["input"]["series"]["chosen_by"] == "request"
    refused = await pod.post(series_uid="1.2.3")
    assert await pod.refusal(refused) == (400, "no_such_series")


async def test_headers_of_the_request_reach_the_hop(pod: CtLoopback) -> None:
    response = await pod.http.post("/predict", files={"file": ARCHIVE}, headers={"traceparent": "00-1-2-01"})
    assert response.status_code == 200
    assert pod.fake.headers["traceparent"] == "00-1-2-01"


async def test_an_explanation_is_pictures(pod: CtLoopback) -> None:
    assert "explanations" not in await pod.answer()
    answer = await pod.answer(explain="true")
    assert pod.fake.asked[-1].options.explain
    (explained,) = answer["explanations"]  # EXPLAIN_FINDINGS is 1 here
    assert explained["finding"] in FakeReader.FINDINGS
    picture = imagecodecs.png_decode(base64.b64decode(explained["png"]))
    assert picture.shape == (480, 960, 3)
    assert picture.max() > 0
    assert 0 < explained["axial_mm"] < 360
    assert 0 < explained["coronal_mm"] < 360


async def test_the_route_is_described(pod: CtLoopback) -> None:
    described = (await pod.http.get("/openapi.json")).json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    form = described["multipart/form-data"]["schema"]
    assert form["properties"].keys() == {"file", "heads", "prompts", "explain", "series_uid"}
    assert form["required"] == ["file"]
    linked = described["application/json"]["schema"]["properties"]
    assert linked.keys() == {"url", "dicomweb", "heads", "prompts", "explain", "series_uid"}


async def test_limits_are_told(pod: CtLoopback) -> None:
    told = (await pod.http.get("/v1/limits")).json()
    for name, value in told.items():
        if name not in ("max_prompts", "max_prompt_characters", "transfer_syntaxes"):
            assert value == getattr(pod.settings, name), name
    assert told["max_prompts"] == 256
    assert told["transfer_syntaxes"]["1.2.840.10008.1.2.4.90"] == "JPEG 2000 Lossless"
