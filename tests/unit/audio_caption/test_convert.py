"""From published layouts to the CPU engine's: the same file as CTranslate2's own converter makes, and what is refused."""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import torch

from predictors.audio_caption import checkpoint, convert, weights
from predictors.audio_caption.tokens import PREFIXES, Tokens
from tests.unit.audio_caption import tiny


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_the_file_is_that_of_ctranslate2s_own_converter(dtype: str, hugging_face: Path, tmp_path: Path) -> None:
    theirs_from = shutil.copytree(hugging_face, tmp_path / "hf")
    config = {"tokenizer_class": "WhisperTokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
              "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}  # fmt: skip
    (theirs_from / "tokenizer_config.json").write_text(json.dumps(config))
    converter = ctranslate2.converters.TransformersConverter(str(theirs_from))
    converter.convert(str(tmp_path / "theirs"), quantization=dtype)
    (tmp_path / "ours").mkdir()
    convert.convert(hugging_face, tmp_path / "ours", dtype=dtype)
    assert (tmp_path / "ours/model.bin").read_bytes() == (tmp_path / "theirs/model.bin").read_bytes()


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_both_layouts_make_the_same_file(dtype: str, hugging_face: Path, of_2023: Path, tmp_path: Path) -> None:
    for name, source in (("new", hugging_face), ("old", of_2023)):
        (tmp_path / name).mkdir()
        convert.convert(source, tmp_path / name, dtype=dtype)
    assert (tmp_path / "new/model.bin").read_bytes() == (tmp_path / "old/model.bin").read_bytes()


def test_both_layouts_hold_the_same_tensors(hugging_face: Path, of_2023: Path) -> None:
    new, old = checkpoint.tensors(hugging_face), checkpoint.tensors(of_2023)
    assert set(new) <= set(old)  # the older one has the tied projection by name too
    assert all(np.array_equal(new[name], old[name]) for name in new)


def test_both_tokenizers_are_the_same(hugging_face: Path, of_2023: Path) -> None:
    new, old = Tokens.of(hugging_face), Tokens.of(of_2023)
    assert [new.prompt(style) for style in PREFIXES] == [old.prompt(style) for style in PREFIXES]
    said = new.tokenizer.encode(" A dog barks, twice: 狗!", add_special_tokens=False).ids
    assert said == old.tokenizer.encode(" A dog barks, twice: 狗!", add_special_tokens=False).ids
    assert new.text([*said, new.end, 7]) == old.text([*said, old.end, 7]) == "A dog barks, twice: 狗!"


def test_the_prefixes_are_the_published_ones(of_2023: Path) -> None:
    """As the fine-tuning's code has them: text, with a token of its own for the space at the end."""
    tokens = Tokens.of(of_2023)
    start = [50258, 50259, 50359, 50363]
    assert tokens.prompt("clotho") == [*start, 3474, 900, 78, 12331, 31974, 25, 220]
    assert tokens.prompt("audiocaps") == [*start, 46069, 496, 1878, 12331, 31974, 25, 220]
    assert tokens.prompt("audioset") == [*start, 3751, 2717, 302, 12331, 21009, 25, 220]


class Code:
    """What runs a command when it is read as a pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("print('it ran')",)


def test_a_pickle_that_holds_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / checkpoint.PICKLED, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Code()}))
    with pytest.raises(ValueError, match=r"by torch 1\.6 or later: it asks for builtins\.eval"):
        checkpoint.tensors(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / checkpoint.PICKLED).write_bytes(b"junk")
    with pytest.raises(ValueError, match="is no checkpoint of tensors"):
        checkpoint.tensors(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"archive/other": b""}, "it has no data.pkl"),
        ({"archive/data.pkl": pickle.dumps([1])}, "it holds a list, not tensors by their names"),
    ],
)
def test_an_archive_without_tensors_is_refused(tmp_path: Path, entries: dict[str, bytes], message: str) -> None:
    with zipfile.ZipFile(tmp_path / checkpoint.PICKLED, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=f"is no checkpoint of tensors by torch 1.6 or later: {message}"):
        checkpoint.tensors(tmp_path)


def test_tensors_without_their_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "whole.bin")
    whole = zipfile.ZipFile(tmp_path / "whole.bin")
    with whole, zipfile.ZipFile(tmp_path / checkpoint.PICKLED, "w") as part:
        for name in whole.namelist():
            if "/data/" not in name:
                part.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"is no checkpoint of tensors.*data/0"):
        checkpoint.tensors(tmp_path)


def test_tensors_that_share_their_numbers_are_read_once(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    torch.save({"first": whole[:6].reshape(2, 3), "last": whole[6:]}, tmp_path / checkpoint.PICKLED)
    found = checkpoint.tensors(tmp_path)
    assert found["first"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["last"].tolist() == [6, 7, 8, 9, 10, 11]
    starts = [each.__array_interface__["data"][0] for each in (found["first"], found["last"])]
    assert starts[1] - starts[0] == 6 * 4


def test_a_checkpoint_with_a_tensor_missing_is_refused(of_2023: Path, tmp_path: Path) -> None:
    part = shutil.copytree(of_2023, tmp_path / "part")
    state = torch.load(part / checkpoint.PICKLED, weights_only=True)
    del state["model.decoder.layers.1.fc2.weight"]
    torch.save(state, part / checkpoint.PICKLED)
    (tmp_path / "target").mkdir()
    with pytest.raises(ValueError, match=r"is no whole Whisper, it has no tensor .*decoder\.layers\.1\.fc2\.weight"):
        convert.convert(part, tmp_path / "target", dtype="int8")


def test_another_model_is_refused(hugging_face: Path, tmp_path: Path) -> None:
    other = shutil.copytree(hugging_face, tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"is no Whisper, its config\.json says model_type='bert'"):
        weights.for_ctranslate2(str(other), "int8")


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("/no/such/folder", "MODEL_ID=/no/such/folder is no folder"),
        (".", r"MODEL_ID=\. is neither a CTranslate2 Whisper"),
    ],
)
def test_what_is_no_model_is_refused(model_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights.for_ctranslate2(model_id, "int8")


def test_prepared_weights_are_used_as_they_are(of_2023: Path, tmp_path: Path) -> None:
    target = tmp_path / "prepared"
    command = [sys.executable, "-m", "predictors.audio_caption.prepare", str(of_2023), str(target), "--dtype", "int8"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert {"model.bin", "config.json", "vocab.json", "merges.txt"} <= {file.name for file in target.iterdir()}
    assert weights.for_ctranslate2(str(target), "int8") == target
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.strip()) == (1, f"{target} exists already")


def test_prepare_leaves_nothing_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    command = [
        sys.executable,
        "-m",
        "predictors.audio_caption.prepare",
        str(tmp_path / "source"),
        str(tmp_path / "target"),
    ]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "is no Hugging Face Whisper" in failed.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_captions_need_a_multilingual_tokenizer(hugging_face: Path, tmp_path: Path) -> None:
    other = shutil.copytree(hugging_face, tmp_path / "other")
    tokenizer = json.loads(tiny.whisper_tokenizer().read_text())
    tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] != "<|en|>"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"is no multilingual Whisper's, it has no <\|en\|>"):
        Tokens.of(other)
