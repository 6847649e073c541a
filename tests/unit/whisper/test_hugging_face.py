"""A CTranslate2 folder made into a Hugging Face one: the same tensors by its names, and what transformers and vLLM read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from predictors.whisper import hugging_face, weights
from tests.unit.whisper import tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "ctranslate2"
    tiny.write_ctranslate2(folder, tiny.ctranslate2_variables(tiny.openai_state()))
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**known, "suppress_ids": [1, 2], "suppress_ids_begin": [220]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_every_tensor_has_its_name(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    hugging_face.convert(source, target)
    made, expected = load_file(target / "model.safetensors"), tiny.hugging_face_state(tiny.openai_state())
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(made[name], tensor, err_msg=name)


def test_what_the_libraries_read(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    hugging_face.convert(source, target)
    config, generation, features = (
        json.loads((target / f"{name}.json").read_text())
        for name in ("config", "generation_config", "preprocessor_config")
    )
    assert (config["model_type"], config["d_model"], config["vocab_size"]) == ("whisper", tiny.WIDTH, tiny.VOCABULARY)
    assert (config["eos_token_id"], config["decoder_start_token_id"]) == (50257, 50258)
    assert generation == {
        "alignment_heads": tiny.ALIGNMENT_HEADS,
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [220],
    }
    assert features["feature_size"] == tiny.MELS
    assert (target / "tokenizer.json").read_text() == "{}"


def test_it_is_made_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = weights.for_vllm(str(source))
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert weights.for_vllm(str(source)) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == stamp
    assert weights.for_vllm(str(made)) == made  # already one


def test_anything_else_is_refused(source: Path) -> None:
    (source / "model.bin").unlink()
    with pytest.raises(ValueError, match="no Hugging Face Whisper"):
        weights.for_vllm(str(source))
    shutil.rmtree(source)
    with pytest.raises(ValueError, match="does not exist"):
        weights.for_vllm(str(source))
