"""Folders of models: what they are, and for what is not whole, why; the engines end the process where this does not look."""

# ruff: noqa: RUF001  # Russian is written in Cyrillic
import shutil
from pathlib import Path

import pytest

from predictors.kaldi_asr.folder import examine
from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.onnx_file import metadata
from predictors.kaldi_asr.settings import KaldiSettings
from tests.unit.kaldi.test_models import CLASSIC, MODELS


@pytest.fixture
def gigaam(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "gigaam", tmp_path / "gigaam"))


@pytest.fixture
def vosk5(tmp_path: Path) -> Path:
    """In the layout of the published Vosk 5: models and language apart."""
    folder = tmp_path / "vosk5"
    for part, names in (
        ("am-onnx", ("encoder.onnx", "decoder.onnx", "joiner.onnx")),
        ("lang", ("tokens.txt", "bpe.vocab")),
    ):
        (folder / part).mkdir(parents=True)
        for name in names:
            shutil.copy(MODELS / "vosk5" / name, folder / part)
    return folder


def reason(folder: Path, **settings: object) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        engine(KaldiSettings(model_id=str(folder), **settings)).load()  # type: ignore[arg-type]
    return str(caught.value)


def test_the_layouts_are_told_apart(gigaam: Path, vosk5: Path) -> None:
    assert (examine(gigaam, "auto").kind, examine(gigaam, "auto").features) == ("nemo_ctc", 64)
    found = examine(vosk5, "auto")
    assert (found.kind, found.features, found.files["bpe_vocab"].name) == ("transducer", 80, "bpe.vocab")
    assert examine(CLASSIC, "auto").kind == "vosk"
    engine(KaldiSettings(model_id=str(vosk5))).load()


def test_the_original_services_names_choose_a_kind(gigaam: Path, vosk5: Path) -> None:
    assert KaldiSettings(model_name="Vosk5").model_kind == "transducer"
    assert "holds a model of the kind nemo_ctc" in reason(gigaam, model_name="Vosk5")
    assert "holds a model of the kind transducer" in reason(vosk5, model_name="Gigaam")


def test_of_two_precisions_the_full_one_is_taken(gigaam: Path) -> None:
    shutil.copy(gigaam / "model.onnx", gigaam / "model.int8.onnx")
    assert examine(gigaam, "auto").files["model"].name == "model.onnx"
    (gigaam / "model.onnx").unlink()
    assert examine(gigaam, "auto").files["model"].name == "model.int8.onnx"


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "joiner.onnx"])
def test_a_part_that_is_missing_is_named(vosk5: Path, name: str) -> None:
    (vosk5 / "am-onnx" / name).unlink()
    assert f"without {name.removesuffix('.onnx')}*.onnx" in reason(vosk5)


def test_folders_that_hold_no_model(tmp_path: Path, gigaam: Path) -> None:
    assert "is no folder" in reason(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no *.onnx" in reason(tmp_path / "empty")
    (gigaam / "tokens.txt").unlink()
    assert "no tokens.txt" in reason(gigaam)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [("", "no tokens"), ("а\nб\n", "no tokens"), ("а 0\nб 1\n", "no blank token"), (b"\xff\xfe 0\n", "not UTF-8")],
)
def test_tokens_that_end_the_process_are_refused(gigaam: Path, tokens: str | bytes, says: str) -> None:
    data = tokens if isinstance(tokens, bytes) else tokens.encode()
    (gigaam / "tokens.txt").write_bytes(data)
    assert says in reason(gigaam)


def with_metadata(file: Path, name: str, new: str) -> None:
    """Renames a key of a model's metadata to another of the same length."""
    data = file.read_bytes()
    assert data.count(name.encode()) >= 1
    file.write_bytes(data.replace(name.encode(), new.encode()))


def test_metadata_that_end_the_process_are_refused(gigaam: Path, vosk5: Path) -> None:
    with_metadata(gigaam / "model.onnx", "vocab_size", "vocab_sizX")
    assert "no number above 0 'vocab_size'" in reason(gigaam)
    with_metadata(vosk5 / "am-onnx/decoder.onnx", "context_size", "context_sizX")
    assert "no number above 0 'context_size'" in reason(vosk5)


@pytest.mark.parametrize("size", [0, 1, 100, 500_000])
def test_models_that_are_cut_off_are_refused(gigaam: Path, size: int) -> None:
    data = (gigaam / "model.onnx").read_bytes()
    (gigaam / "model.onnx").write_bytes(data[:size])
    assert "model.onnx is" in reason(gigaam)


def test_garbage_is_refused(gigaam: Path) -> None:
    (gigaam / "model.onnx").write_bytes(b"<html>404</html>" * 1000)
    assert "no ONNX model" in reason(gigaam)


def test_metadata_are_those_of_the_model() -> None:
    found = metadata(MODELS / "gigaam/model.onnx")
    assert (found["is_giga_am"], found["subsampling_factor"], found["language"]) == ("1", "4", "Russian")


def test_a_classic_model_that_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "am").mkdir()
    (tmp_path / "am/final.mdl").write_bytes(b"x")
    assert "without conf/mfcc.conf and graph/HCLG.fst" in reason(tmp_path)


@pytest.mark.parametrize("folder", [MODELS / "gigaam", CLASSIC])
def test_cuda_is_refused_where_there_is_none(folder: Path) -> None:
    assert reason(folder, provider="cuda").startswith("PROVIDER=CUDA: ")


def test_beams_are_for_transducers(gigaam: Path) -> None:
    assert "DECODING_METHOD=modified_beam_search is for transducers" in reason(
        gigaam, decoding_method="modified_beam_search"
    )
    with pytest.raises(ValueError, match="is for transducers, MODEL_KIND is nemo_ctc"):
        KaldiSettings(decoding_method="modified_beam_search", model_kind="nemo_ctc")
    for wrong in ({"max_active_paths": 0}, {"recognition_attempts": 2}, {"provider": "tpu"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KaldiSettings(**wrong)  # type: ignore[arg-type]
