"""V1 and V2 of the CT transformer: studies in, bounded in number and size, freed whatever happens; the predictor's words out."""

import base64
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferRequest

from serving import v2
from serving.contracts import ct
from serving.contracts.ct_volume import SHAPE
from serving.errors import InvalidInput, ServingError, TooLarge
from serving.testing import FakeReader
from tests.unit.dicom.routes.loopback import ARCHIVE, SERIES_UID, STUDY_UID, FakePredictor
from tests.unit.serving.uploads.spooling import content, named, spooled
from transformers_pre.dicom.model import CtTransformer
from transformers_pre.dicom.pipeline import Pipeline
from transformers_pre.dicom.reader import StudyReader
from transformers_pre.dicom.settings import DicomSettings

LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where studies are spooled to; no test leaves anything there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert named(tmp_path) == []
    assert spooled(tmp_path) == []


class Client(FakePredictor):
    """The hop's client, as a transformer starts and ends it."""

    def wake(self) -> None:
        self.woken = True

    async def close(self) -> None:
        self.closed = True


def made(reader: StudyReader, settings: DicomSettings) -> CtTransformer:
    client: Any = Client()
    client.reset()
    return CtTransformer(Pipeline(client, reader, request_seconds=240, max_overlays=18), client, reader, settings)


@pytest.fixture
def unstarted() -> CtTransformer:
    """The model without workers: requests are read, no more."""
    settings = DicomSettings(model_name="ct", max_upload_bytes=LIMIT, max_instances=2, decode_workers=1)
    return made(StudyReader(settings.study_limits()), settings)


@pytest.fixture
async def started() -> AsyncIterator[CtTransformer]:
    settings = DicomSettings(model_name="ct", max_upload_bytes=LIMIT, decode_workers=1)
    model = made(StudyReader(settings.study_limits()), settings)
    await model.start_up()
    yield model
    await model.shut_down()


def v1(*archives: bytes, **parameters: Any) -> dict[str, Any]:
    studies = [{"study": {"b64": base64.b64encode(data).decode()}} for data in archives]
    return {"instances": studies, "parameters": parameters}


def zipped(*archives: bytes, prompts: list[bytes] | None = None, **parameters: Any) -> InferRequest:
    arrays = {"DICOM_ZIP": v2.bytes_array(archives)}
    return v2.request("ct", arrays | ({} if prompts is None else {"PROMPTS": v2.bytes_array(prompts)}), parameters)


async def test_studies_of_v1_are_answered_as_on_predict(started: CtTransformer) -> None:
    answer, _ = await started(v1(ARCHIVE, ARCHIVE, heads=["supervised", "risk"]))
    first, second = answer["predictions"]
    assert first["series_uid"] == SERIES_UID
    assert first["supervised_probabilities"] == second["supervised_probabilities"]
    assert first["supervised_probabilities"].keys() == set(FakeReader.FINDINGS)
    assert (first["ctclip_probabilities"], first["processing_status"]) == ({}, "Success")
    json.dumps(answer)


async def test_an_archive_of_v2_gives_the_predictors_tensors_and_what_was_read(started: CtTransformer) -> None:
    answer, _ = await started(zipped(ARCHIVE, prompts=[b"Pneumothorax"], explain=True))
    arrays = v2.tensors(answer)
    assert arrays["STUDY_UID"].tolist() == [STUDY_UID.encode()]
    assert arrays["SERIES_UID"].tolist() == [SERIES_UID.encode()]
    assert json.loads(arrays["INPUT"][0])["slices"]["used"] == 24
    assert arrays["PROMPT_SCORES"].shape == (1, 1)
    described = {tensor["name"]: tensor for tensor in started.get_output_types()}
    assert all(len(described[name]["shape"]) == array.ndim for name, array in arrays.items())
    (result,) = ct.read_response(answer)
    assert result.shares is not None
    assert result.shares.values.ndim == 4
    assert result.model == {"name": "fake"}
    assert list(result.scores["prompts"].labels) == ["Pneumothorax"]


async def test_a_volume_of_v2_is_passed_on(started: CtTransformer) -> None:
    volume = np.full((1, *SHAPE), 0.5, np.float32)
    answer, _ = await started(v2.request("ct", {"VOLUME": volume}, {"contract": "ct/1", "heads": "risk"}))
    arrays = v2.tensors(answer)
    assert arrays.keys() == {"RISK", "SHAP"}
    assert arrays["RISK"][0] == pytest.approx(0.75)


async def test_a_v1_request_goes_on_to_be_served_after_a_refusal(started: CtTransformer) -> None:
    with pytest.raises(InvalidInput, match="neither a ZIP"):
        await started(v1(b"no archive" * 99))
    answer, _ = await started(v1(ARCHIVE, heads="risk"))
    assert len(answer["predictions"]) == 1


async def refusal(model: CtTransformer, payload: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await model.preprocess(payload)
    return caught.value


REFUSED: dict[str, tuple[Any, int, str]] = {
    "no studies": (v1(), 400, "holds nothing, 1 to 2 items"),
    "three studies": (v1(b"a", b"b", b"c"), 413, r"3 items, 1 to 2 are accepted \(MAX_INSTANCES\)"),
    "no study": ({"instances": [{"text": "x"}]}, 400, r"instances\[0\] must be"),
    "a text": ({"instances": ["x"]}, 400, r"instances\[0\] must be"),
    "no base64": ({"instances": [{"study": {"b64": "@@@@"}}]}, 400, r"instances\[0\]\.study\.b64 is not base64"),
    "too large": (v1(bytes(LIMIT + 1)), 413, r"larger than 1048576 bytes.*\(MAX_UPLOAD_BYTES\)"),
    "a private link": ({"instances": [{"url": "http://127.0.0.1/"}]}, 400, "not public"),
    "parameters": ({"instances": [{"b64": "QUJD"}], "parameters": [1]}, 400, "'parameters' must be an object"),
    "heads of V1": (v1(b"x", heads=["lungs"]), 400, "'lungs' is no head"),
    "nothing in V2": (v2.request("ct", {"X": np.zeros(1)}), 400, "an input 'DICOM_ZIP'"),
    "two archives": (zipped(b"a", b"b"), 400, "a ZIP of one study"),
    "numbers": (v2.request("ct", {"DICOM_ZIP": np.zeros(1)}), 400, "an input 'DICOM_ZIP'"),
    "an empty archive": (zipped(b""), 400, "0 bytes"),
    "heads of V2": (zipped(b"a", heads="lungs"), 400, "'lungs' is no head"),
    "series": (zipped(b"a", series_uid="x"), 400, "a UID is numbers"),
    "prompts of V2": (zipped(b"a", prompts=[b"\xff"]), 400, "must be UTF-8"),
    "both": (
        v2.request("ct", {"DICOM_ZIP": v2.bytes_array([b"a"]), "VOLUME": np.zeros((1, 2, 2, 2), np.float32)}),
        400,
        "not both",
    ),
    "Hounsfield units": (v2.request("ct", {"VOLUME": np.full((1, 2, 2, 2), 40, np.float32)}), 400, "HU / 1000"),
}


@pytest.mark.parametrize(("payload", "status", "message"), REFUSED.values(), ids=REFUSED)
async def test_requests_that_are_refused(
    unstarted: CtTransformer, folder: Path, payload: Any, status: int, message: str
) -> None:
    error = await refusal(unstarted, payload)
    assert error.http_status == status
    with pytest.raises(ServingError, match=message):
        raise error
    assert spooled(folder) == []


async def test_of_a_request_that_is_refused_nothing_stays_open(unstarted: CtTransformer, folder: Path) -> None:
    body = v1(ARCHIVE)
    body["instances"].append("no study")
    assert isinstance(await refusal(unstarted, body), InvalidInput)
    assert spooled(folder) == []


async def test_archives_are_spooled_as_they_are(unstarted: CtTransformer) -> None:
    for payload in (v1(ARCHIVE), zipped(ARCHIVE)):
        _, (job,), resources, _ = await unstarted.preprocess(payload)
        with resources:
            assert content(job.source) == ARCHIVE
            assert job.parts is None


async def test_more_prompts_than_are_accepted(unstarted: CtTransformer) -> None:
    assert isinstance(await refusal(unstarted, zipped(b"a", prompts=[b"x"] * 257)), TooLarge)
    assert isinstance(await refusal(unstarted, v1(b"a", prompts=["x"] * 257)), TooLarge)
