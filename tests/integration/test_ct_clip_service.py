"""CT-CLIP as two real processes, with random weights of a small size: the answer is the one that the parts give by themselves."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest

from predictors.ct_clip.heads import PATHOLOGIES
from predictors.ct_clip.reader import CtReader
from predictors.ct_clip.settings import CtClipSettings
from serving.contracts.ct import CtInput, CtOptions, CtResult
from tests import ct_clip_files
from tests.ct_series import dicom, scan, stored, zipped
from tests.services import Service, chest_ct
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.reader import Study, StudyReader

ARCHIVE = zipped(dicom(image) for image in scan())
PROMPT = "Pneumothorax"
SAME = 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct_clip_files.prepared(tmp_path_factory.mktemp("ct_clip"), ct_clip_files.SERVED, keep_text=True)


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    env = {"MODEL_ID": str(models), "KEEP_TEXT_ENCODER": "true", "NUM_THREADS": "2", "DEVICE": "cpu"}
    with chest_ct("predictors.ct_clip", env) as running:
        yield running


@pytest.fixture(scope="module")
def answer(service: Service) -> dict[str, Any]:
    fields = {"explain": "true", "prompts": PROMPT}
    response = httpx.post(f"{service.url}/predict", files={"file": ARCHIVE}, data=fields, timeout=280, trust_env=False)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def volume() -> Study:
    async with StudyReader(StudyLimits()) as reader:
        with stored(ARCHIVE) as file:
            return await reader.read(file)


async def test_the_answer_is_what_reader_and_engine_say_by_themselves(models: Path, answer: dict[str, Any]) -> None:
    engine = CtReader(CtClipSettings(model_id=str(models), keep_text_encoder=True, num_threads=2, device="cpu"))
    engine.load()
    (expected,) = engine.run([CtInput((await volume()).volume, CtOptions(), (PROMPT,))])
    engine.close()
    assert isinstance(expected, CtResult)
    assert expected.risk is not None
    for key, head in (
        ("supervised_probabilities", "supervised"),
        ("ctclip_probabilities", "zero_shot"),
        ("classfine_probabilities", "classfine"),
        ("prompts_probabilities", "prompts"),
    ):
        scores = expected.scores[head]
        assert list(answer[key]) == list(scores.labels)
        np.testing.assert_allclose(list(answer[key].values()), scores.values, atol=SAME)
    assert answer["probability_of_pathology"] == pytest.approx(expected.risk.probability, abs=SAME)
    assert answer["pathology"] == int(expected.risk.pathology)
    assert answer["most_dangerous_pathology_type"] == (expected.risk.most_dangerous or None)
    assert len(answer["top_shap_features"]) == 10
    assert answer["model"] == expected.model


async def test_pictures_are_of_the_findings_that_the_texts_are_compared_with(answer: dict[str, Any]) -> None:
    explained = answer["explanations"]
    assert {each["finding"] for each in explained} == set(PATHOLOGIES)
    logits = np.array([each["logit"] for each in explained])
    assert (np.diff(logits) <= 0).all()
    probabilities = [answer["zero_shot_probabilities"][each["finding"]] for each in explained]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, atol=1e-4)
    assert imagecodecs.png_decode(base64.b64decode(explained[0]["png"])).shape == (480, 960, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"heads": "vocabfine"}, "heads vocabfine have no weights here"), ({"heads": "lungs"}, "'lungs' is no head")],
)
def test_a_head_without_weights_is_refused_by_name(service: Service, fields: dict[str, str], message: str) -> None:
    refused = httpx.post(f"{service.url}/predict", files={"file": ARCHIVE}, data=fields, timeout=280, trust_env=False)
    assert (refused.status_code, refused.json()["processing_status"]) == (400, "Failure")
    assert message in refused.json()["error"]


def test_the_device_is_told(service: Service) -> None:
    told = httpx.get(f"{service.url}/health", trust_env=False).json()
    assert told == {"status": "ok", "device": "cpu", "model_loaded": True}
