"""Bundles: what a published file becomes, and what is refused."""

import importlib
import pickle
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from predictors.ct_clip import bundle, checkpoint, heads, prepare, text
from tests.ct_clip_files import FINDINGS
from tests.ct_clip_reference import TINY
from tests.unit.ct_clip.conftest import one_thread


def test_a_bundle_gives_what_the_file_had(folder: Path) -> None:
    source = checkpoint.read(folder / "ctclip.pt")
    read = bundle.read(folder / "models" / "ctclip.safetensors")
    assert (read.head, read.version, read.config, read.labels) == (
        "zero_shot",
        "test ctclip",
        source.config,
        heads.PATHOLOGIES,
    )
    assert read.source_sha256 == bundle.sha256(folder / "ctclip.pt")
    assert read.temperature == source.temperature
    assert {name: value.tolist() for name, value in read.image.items()} == {
        name: value.tolist() for name, value in source.image.items()
    }
    made = text.tokenizer(folder, TINY.positions)
    encoder = text.TextEncoder.of("", source.text, TINY.text_heads)
    assert read.texts is not None
    with one_thread():  # as the bundle was made
        anew = encoder(*text.encoded(made, heads.texts(heads.PATHOLOGIES)))
    assert torch.equal(read.texts.flatten(0, 1), anew)
    assert read.text is None  # unless it is asked for
    assert bundle.read(folder / "models" / "supervised.safetensors").labels == FINDINGS


def test_half_of_the_size_is_nearly_the_same(folder: Path, tmp_path: Path) -> None:
    made = prepare.prepare(folder / "classfine.pt", "classfine", version="1", half=True)
    bundle.write(made, tmp_path / "half.safetensors")
    whole = folder / "models" / "classfine.safetensors"
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * whole.stat().st_size
    first, second = (bundle.read(file).image for file in (whole, tmp_path / "half.safetensors"))
    assert all(value.dtype == torch.float32 for value in second.values())
    assert all(torch.allclose(first[name], second[name], atol=1e-2) for name in first)


@pytest.mark.parametrize(
    ("file", "options", "told"),
    [
        ("ctclip", {"head": "zero_shot"}, "needs --tokenizer"),
        ("ctclip", {"head": "supervised"}, "no trained layer"),
        ("classfine", {"head": "zero_shot"}, "has a trained layer"),
        ("classfine", {"head": "supervised"}, "ClassFine's layout"),
        ("supervised", {"head": "classfine"}, "supervised layout"),
        ("classfine", {"head": "classfine", "findings": ["a", "b"]}, "2 findings for a layer of 18"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(folder: Path, file: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prepare.prepare(folder / f"{file}.pt", version="1", **options)


@pytest.mark.parametrize(("labels", "told"), [(" \n", "names no findings"), ("a\nb\na\n", "findings twice: a")])
def test_a_file_of_findings_has_each_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str, told: str
) -> None:
    (tmp_path / "labels.txt").write_text(labels)
    arguments = ["prepare", str(folder / "classfine.pt"), "--head", "classfine", "--version", "1"]
    named = ["--findings", str(tmp_path / "labels.txt"), "--out", str(tmp_path / "made.safetensors")]
    monkeypatch.setattr(sys, "argv", [*arguments, *named])
    with pytest.raises(SystemExit, match=told):
        prepare.main()
    assert not (tmp_path / "made.safetensors").exists()


def test_other_files_are_no_bundles(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    for name, told in (
        ("x", r"no bundle of this version .* python -m predictors\.ct_clip\.prepare"),
        ("y", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=told):
            bundle.read(tmp_path / f"{name}.safetensors")


def test_a_pickled_model_wants_the_word_for_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lightgbm  # after torch

    booster = lightgbm.Booster(model_file=str(folder / "models" / "lightgbm.txt"))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(booster))
    arguments = ["prepare", "--lightgbm", str(tmp_path / "model.pkl"), "--out", str(tmp_path / "model.txt")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="a pickle can hold any code; --allow-pickle runs it"):
        prepare.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--allow-pickle"])
    prepare.main()
    assert "sha256" in capsys.readouterr().out
    row = np.full((1, booster.num_feature()), 0.7)
    again = lightgbm.Booster(model_file=str(tmp_path / "model.txt"))
    assert again.predict(row)[0] == pytest.approx(booster.predict(row)[0], abs=1e-12)


class OfAnotherLibrary:
    """Pickled as something of a module that is not there, as scikit-learn and joblib are not in the image."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("joblib_that_is_not_here.numpy_pickle",)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (pickle.dumps(OfAnotherLibrary()), "ModuleNotFoundError: No module named 'joblib_that_is_not_here'"),
        (pickle.dumps([1.0] * 100)[:50], "pickle data was truncated|Ran out of input"),
        (zlib.compress(pickle.dumps({})), "UnpicklingError"),
        (b"", "EOFError: Ran out of input"),
        (b"tree\nversion=v4\n", "Error"),
    ],
    ids=["another library", "cut off", "compressed by joblib", "empty", "text"],
)
def test_a_pickle_that_cannot_be_read_says_how_to_export_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, told: str
) -> None:
    (tmp_path / "model.pkl").write_bytes(data)
    arguments = ["--lightgbm", str(tmp_path / "model.pkl"), "--allow-pickle", "--out", str(tmp_path / "model.txt")]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    with pytest.raises(SystemExit, match=told) as stopped:
        prepare.main()
    message = str(stopped.value)
    assert message.startswith("error: model.pkl cannot be unpickled here")
    assert "export it with model.booster_.save_model('lightgbm.txt')" in message
    assert "\n" not in message
    assert not (tmp_path / "model.txt").exists()


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "ctclip",
            {"texts": torch.ones(18, 2, 15)},
            r"texts is [18, 2, 15], [18, 2, 16] is wanted by a zero_shot head",
        ),
        ("ctclip", {"texts": None}, "texts is missing"),
        (
            "ctclip",
            {"labels": ("a", "b")},
            "texts is [18, 2, 16], [2, 2, 16] is wanted by a zero_shot head of 2 findings",
        ),
        ("classfine", {"labels": ("a",)}, "head.classifier.weight is [18, 16], [1, 16] is wanted"),
        ("classfine", {"layer": {"classifier.weight": torch.ones(18, 16)}}, "head.classifier.bias is missing"),
        ("classfine", {"head": "supervised"}, "head.norm.weight is missing, [16] is wanted by a supervised head"),
        ("classfine", {"image": {}}, "is missing, ["),
        ("supervised", {"head": "classfine"}, "head.norm.bias belongs to no classfine head"),
    ],
)
def test_a_bundle_that_does_not_fit_together_is_refused(
    folder: Path, tmp_path: Path, name: str, change: dict[str, Any], told: str
) -> None:
    whole = bundle.read(folder / "models" / f"{name}.safetensors")
    bundle.write(replace(whole, **change), tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"^odd\.safetensors does not fit together: ") as caught:
        bundle.read(tmp_path / "odd.safetensors")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
