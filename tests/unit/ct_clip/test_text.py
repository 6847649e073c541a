"""The text encoder against its plain restatement; padding and length do not matter."""

from pathlib import Path

import pytest
import torch

from predictors.ct_clip import checkpoint, text
from predictors.ct_clip.text import TextEncoder
from tests.ct_clip_reference import TINY, image_weights, read_text, text_weights

WEIGHTS = image_weights(TINY) | text_weights(TINY)
PROMPTS = ["Lung nodule is present.", "Interlobular septal thickening is not present."]


def encoder() -> TextEncoder:
    return TextEncoder.of("weights", checkpoint.of_weights("weights", WEIGHTS).text, TINY.text_heads)


def test_it_equals_the_plain_restatement(folder: Path) -> None:
    made = text.tokenizer(folder, TINY.positions)
    ids, mask = text.encoded(made, PROMPTS)
    found = encoder()(ids, mask)
    assert mask.sum(1).tolist() != [ids.shape[1]] * 2  # the first is padded
    for latent, row, seen in zip(found, ids, mask, strict=True):
        assert torch.allclose(latent, read_text(WEIGHTS, TINY, row[seen.bool()].tolist()), atol=1e-5)


def test_a_long_prompt_is_cut(folder: Path) -> None:
    ids, _ = text.encoded(text.tokenizer(folder, TINY.positions), ["nodule " * 500])
    assert ids.shape == (1, TINY.positions)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    weights = dict(checkpoint.of_weights("weights", WEIGHTS).text)
    del weights["encoder.layer.1.output.LayerNorm.bias"]
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.LayerNorm\.bias"):
        TextEncoder.of("weights", weights, TINY.text_heads)
    with pytest.raises(ValueError, match="5 heads of attention do not divide its width of 24"):
        TextEncoder.of("weights", checkpoint.of_weights("weights", WEIGHTS).text, 5)
    with pytest.raises(ValueError, match=r"neither tokenizer\.json nor vocab\.txt"):
        text.tokenizer(tmp_path, 8)
