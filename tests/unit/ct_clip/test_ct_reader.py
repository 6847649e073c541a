"""The engine over a small model's bundles: one forward a checkpoint, honest absences, what is asked for and no more."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from predictors.ct_clip import heads
from predictors.ct_clip.encoder import Encoder
from predictors.ct_clip.reader import CtReader
from predictors.ct_clip.settings import CtClipSettings
from serving.contracts.ct import CtInput, CtOptions, CtResult, Floats
from serving.errors import InvalidInput
from tests.ct_clip_files import FINDINGS
from tests.ct_clip_reference import TINY

VOLUME = np.random.default_rng(3).uniform(-1, 1, (8, 20, 20)).astype(np.float32)


def made(folder: Path, **settings: object) -> CtReader:
    reader = CtReader(CtClipSettings(model_id=str(folder), num_threads=1, **settings))
    reader.load()
    return reader


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[CtReader]:
    """All heads."""
    loaded = made(folder / "models", keep_text_encoder=True)
    yield loaded
    loaded.close()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Volumes of each image forward that is run."""
    seen: list[int] = []
    tokens = Encoder.tokens

    def counted(self: Encoder, volumes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        seen.append(len(volumes))
        return tokens(self, volumes, dtype)

    monkeypatch.setattr(Encoder, "tokens", counted)
    return seen


def read(reader: CtReader, volume: Floats = VOLUME, prompts: tuple[str, ...] = (), **options: object) -> CtResult:
    (result,) = reader.run([CtInput(volume, CtOptions(**options), prompts)])
    assert isinstance(result, CtResult), result
    return result


def test_every_head_answers_from_one_forward_a_checkpoint(reader: CtReader, forwards: list[int]) -> None:
    result = read(reader)
    assert forwards == [1, 1, 1]
    assert {head: tuple(scores.labels) for head, scores in result.scores.items()} == {
        "zero_shot": heads.PATHOLOGIES,
        "classfine": heads.PATHOLOGIES,
        "supervised": FINDINGS,
    }
    assert all(((scores.values > 0) & (scores.values < 1)).all() for scores in result.scores.values())
    assert result.risk is not None
    assert result.model["absent"] == ["vocabfine"]
    assert result.model["risk"]["threshold"] == 0.4
    assert all(len(result.model[head]["sha256"]) == 64 for head in ("zero_shot", "classfine", "supervised", "risk"))


def test_only_what_is_asked_for_is_computed(reader: CtReader, forwards: list[int]) -> None:
    result = read(reader, heads="classfine")
    assert (set(result.scores), result.risk, forwards) == ({"classfine"}, None, [1])


def test_the_risk_alone(reader: CtReader, forwards: list[int]) -> None:
    result = read(reader, heads="risk")
    assert (dict(result.scores), forwards) == ({}, [1, 1])
    assert result.risk is not None
    assert result.risk.pathology == (result.risk.probability >= 0.4)


def test_a_batch_gives_what_its_studies_give_alone(reader: CtReader, forwards: list[int]) -> None:
    volumes = [VOLUME, -VOLUME, VOLUME[::-1].copy()]
    together = reader.run([CtInput(each, CtOptions(heads="zero_shot")) for each in volumes])
    assert forwards == [3]
    for volume, result in zip(volumes, together, strict=True):
        assert isinstance(result, CtResult)
        alone = read(reader, volume, heads="zero_shot").scores["zero_shot"].values
        assert np.allclose(result.scores["zero_shot"].values, alone, atol=1e-6)


def test_prompts_of_the_clients_own(reader: CtReader) -> None:
    result = read(reader, prompts=("Lung nodule", "Cardiomegaly"), heads="zero_shot,prompts")
    known = result.scores["zero_shot"].as_dict()
    assert result.scores["prompts"].as_dict() == pytest.approx(
        {name: known[name] for name in ("Lung nodule", "Cardiomegaly")}, abs=1e-6
    )


def test_the_shares_explain_the_zero_shot_findings(reader: CtReader) -> None:
    result = read(reader, explain=True)
    assert result.shares is not None
    assert tuple(result.shares.labels) == heads.PATHOLOGIES
    assert result.shares.values.shape == (18, 4, TINY.side, TINY.side)
    probabilities = 1 / (1 + np.exp(-result.shares.values.sum((1, 2, 3))))
    assert np.allclose(probabilities, result.scores["zero_shot"].values, atol=1e-5)


@pytest.mark.parametrize(
    ("item", "param", "told"),
    [
        (CtInput(VOLUME[:7], CtOptions()), "VOLUME", "[a multiple of 2, 20, 20] is accepted"),
        (CtInput(VOLUME[:0], CtOptions()), "VOLUME", "is accepted"),
        (CtInput(VOLUME[:, :10], CtOptions()), "VOLUME", "is accepted"),
        (CtInput(VOLUME, CtOptions(heads="vocabfine")), "heads", "vocabfine have no weights here"),
    ],
)
def test_what_does_not_fit_fails_alone(reader: CtReader, item: CtInput, param: str, told: str) -> None:
    refused, answered = reader.run([item, CtInput(VOLUME, CtOptions(heads="classfine"))])
    assert isinstance(refused, InvalidInput)
    assert refused.param == param
    assert told in refused.message
    assert isinstance(answered, CtResult)


def test_heads_without_weights_are_absent(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "models" / "supervised.safetensors", tmp_path)
    result = read(made(tmp_path))
    assert set(result.scores) == {"supervised"}
    assert (result.risk, result.model["absent"]) == (None, ["classfine", "risk", "vocabfine", "zero_shot"])
    (refused,) = made(tmp_path).run([CtInput(VOLUME, CtOptions(), ("Lung nodule",))])
    assert isinstance(refused, InvalidInput)
    assert "KEEP_TEXT_ENCODER" in refused.message


def test_a_start_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no bundle in MODEL_ID=.*python -m predictors\.ct_clip\.prepare"):
        made(tmp_path)
    with pytest.raises(ValueError, match="SUPERVISED_MODEL_PATH: there is no"):
        made(tmp_path, supervised_model_path=tmp_path / "x.safetensors")
    shutil.copy(folder / "models" / "lightgbm.txt", tmp_path)
    shutil.copy(folder / "models" / "classfine.safetensors", tmp_path)
    with pytest.raises(ValueError, match="wants the supervised bundle"):
        made(tmp_path)
    with pytest.raises(ValueError, match="DTYPE=float16 is for GPUs"):
        made(folder / "models", device="cpu", dtype="half")
    (tmp_path / "lightgbm.txt").unlink()
    with pytest.raises(ValueError, match="no bundle was prepared with --keep-text-encoder"):
        made(tmp_path, keep_text_encoder=True)
