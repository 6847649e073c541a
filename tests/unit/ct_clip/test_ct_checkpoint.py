"""Published files are read without running them, and only whole."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from predictors.ct_clip import checkpoint
from tests import ct_clip_files
from tests.ct_clip_reference import TINY, checkpoints, image_weights, text_weights

Weights = dict[str, Any]


def test_every_published_layout_is_read(folder: Path) -> None:
    found = {name: checkpoint.read(folder / f"{name}.pt") for name in ("ctclip", "classfine", "supervised")}
    assert len({each.config for each in found.values()}) == 1
    assert found["ctclip"].config.grid == (TINY.side, TINY.side)
    assert found["ctclip"].temperature == pytest.approx(1.2)
    assert {name: sorted(each.head) for name, each in found.items()} == {
        "ctclip": [],
        "classfine": ["classifier.bias", "classifier.weight"],
        "supervised": ["classifier.bias", "classifier.weight", "norm.bias", "norm.weight"],
    }
    assert found["supervised"].labels == ct_clip_files.FINDINGS


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    weights = image_weights(TINY) | text_weights(TINY)
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "ctclip.safetensors")
    assert checkpoint.read(tmp_path / "ctclip.safetensors").config.dim == TINY.dim


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def renamed(name: str, other: str) -> Callable[[Weights], Weights]:
    return lambda weights: {other if key == name else key: value for key, value in weights.items()}


NORM = "visual_transformer.enc_spatial_transformer.layers.1.1.norm.gamma"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without(NORM), "lacks 1: spatial.layers.1.attention.norm.weight"),
        (without("temperature"), "lacks: temperature"),
        (without("to_visual_latent.weight"), "it lacks: to_latent.weight"),
        (renamed(NORM, f"{NORM}2"), "has 1 that are not known: spatial.layers.1.attention.norm.weight2"),
        (lambda weights: weights | {"visual_transformer.adapter.weight": torch.ones(1)}, "visual_transformer.adapter.weight"),
        (lambda weights: {f"ct_clip.{key}" if "spatial" in key else key: weights[key] for key in weights}, "no published layout"),
        (lambda weights: {"weights": 3}, "holds no weights by name"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_by_name(
    tmp_path: Path, change: Callable[[Weights], Weights], told: str
) -> None:
    torch.save(change(image_weights(TINY) | text_weights(TINY)), tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt") as caught:
        checkpoint.read(tmp_path / "odd.pt")
    assert told in str(caught.value)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    weights: Weights = dict(checkpoints(TINY, ct_clip_files.FINDINGS)["ctclip.pt"])
    torch.save(weights | {"bomb": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("bomb.pt", "plain.pkl"):
        with pytest.raises(ValueError, match="without running code in it"):
            checkpoint.read(tmp_path / name)
    assert not (tmp_path / "ran").exists()
