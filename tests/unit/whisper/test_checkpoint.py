"""Tensors keep their numbers on the way into openai-whisper's checkpoint, and only under the names it loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from predictors.whisper import checkpoint
from tests.unit.whisper import tiny


def converted(source: Path, target: Path) -> dict[str, Any]:
    target.mkdir()
    checkpoint.convert(source, target)
    loaded: dict[str, Any] = torch.load(target / checkpoint.MODEL, weights_only=True)
    return loaded


def check(loaded: dict[str, Any], state: dict[str, tiny.Array]) -> None:
    assert loaded["dims"] == tiny.DIMENSIONS
    assert loaded["model_state_dict"].keys() == state.keys()
    for name, tensor in loaded["model_state_dict"].items():
        np.testing.assert_array_equal(tensor.numpy(), state[name], err_msg=name)
    Whisper(ModelDimensions(**loaded["dims"])).load_state_dict(loaded["model_state_dict"])


def test_from_ctranslate2(tmp_path: Path) -> None:
    state = tiny.openai_state()
    tiny.write_ctranslate2(tmp_path / "source", tiny.ctranslate2_variables(state))
    check(converted(tmp_path / "source", tmp_path / "target"), state)
    assert json.loads((tmp_path / "target" / checkpoint.HEADS).read_text()) == tiny.ALIGNMENT_HEADS


def test_from_hugging_face(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    state = tiny.openai_state()
    tensors = tiny.hugging_face_state(state)
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    source = tmp_path / "source"
    source.mkdir()
    names = sorted(tensors)
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = source / f"model-0000{part}-of-00002.safetensors"
        numpy_files.save_file({name: np.ascontiguousarray(tensors[name]) for name in chosen}, file)
    heads = {"encoder_attention_heads": tiny.HEADS, "decoder_attention_heads": tiny.HEADS}
    (source / "config.json").write_text(json.dumps(heads))
    (source / "generation_config.json").write_text(json.dumps({"alignment_heads": tiny.ALIGNMENT_HEADS}))
    check(converted(source, tmp_path / "target"), state)
    assert json.loads((tmp_path / "target" / checkpoint.HEADS).read_text()) == tiny.ALIGNMENT_HEADS


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    variables = tiny.ctranslate2_variables(tiny.openai_state())
    variables["encoder/layer_0/ffn/linear_0/weight"] = np.zeros((32, 8), np.int8)
    tiny.write_ctranslate2(tmp_path / "source", variables)
    with pytest.raises(ValueError, match="quantised"):
        converted(tmp_path / "source", tmp_path / "target")


def test_alignment_heads_are_those_that_openai_whisper_unpacks() -> None:
    model = Whisper(ModelDimensions(**{**tiny.DIMENSIONS, "n_text_layer": 2}))
    model.set_alignment_heads(checkpoint.pack_heads([[0, 1], [1, 0]], layers=2, heads_per_layer=tiny.HEADS))
    assert model.alignment_heads.indices().T.tolist() == [[0, 1], [1, 0]]


LATER_HALF = [[2, 0], [2, 1], [3, 0], [3, 1]]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([[0, 1], [3, 0]], [[0, 1], [3, 0]]),
        ([], LATER_HALF),
        (None, LATER_HALF),
        ([[0, 1], [4, 0]], LATER_HALF),  # four layers
        ([[0, 1], [3, 2]], LATER_HALF),  # of two heads
        ([[0, 1], [-1, 0]], LATER_HALF),
    ],
)
def test_heads_that_a_decoder_has_not_are_another_models(said: Any, found: list[list[int]]) -> None:
    assert checkpoint.alignment_heads(said, 4, 2) == found


def test_the_size_of_a_ctranslate2_decoder(tmp_path: Path) -> None:
    tiny.write_ctranslate2(tmp_path, tiny.ctranslate2_variables(tiny.openai_state()))
    assert checkpoint.decoder_size(tmp_path / "model.bin") == (1, tiny.HEADS)
