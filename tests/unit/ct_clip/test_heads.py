"""Heads by their definitions, and shares of tokens that sum to what they explain."""

import math

import pytest
import torch
from torch.nn import functional

from predictors.ct_clip import heads
from tests.ct_clip_reference import TINY
from tests.unit.ct_clip.test_encoder import made, volumes

RANDOM = torch.Generator().manual_seed(2)
IMAGES = functional.normalize(torch.randn(3, 8, generator=RANDOM), dim=-1)
PROMPTS = functional.normalize(torch.randn(5, 2, 8, generator=RANDOM), dim=-1)


def test_prompts_come_in_pairs() -> None:
    assert heads.texts(["Lung nodule"]) == ["Lung nodule is present.", "Lung nodule is not present."]
    assert len(set(heads.PATHOLOGIES)) == 18


def test_a_finding_is_as_probable_as_its_first_prompt_is_nearer() -> None:
    found = heads.by_texts(IMAGES, PROMPTS, 1.5)
    for image, row in zip(IMAGES, found, strict=True):
        for (present, absent), probability in zip(PROMPTS, row, strict=True):
            apart = math.exp(1.5) * float((present - absent) @ image)
            assert float(probability) == pytest.approx(1 / (1 + math.exp(-apart)), abs=1e-6)


def test_trained_layers() -> None:
    layer = {
        "classifier.weight": torch.randn(4, 8, generator=RANDOM),
        "classifier.bias": torch.randn(4, generator=RANDOM),
    }
    fine = heads.classfine(IMAGES, layer)
    assert torch.allclose(
        fine, torch.sigmoid(IMAGES.clamp(min=0) @ layer["classifier.weight"].T + layer["classifier.bias"])
    )
    norm = {"norm.weight": torch.full((8,), 2.0), "norm.bias": torch.ones(8)}
    centred = IMAGES - IMAGES.mean(-1, keepdim=True)
    normed = 2 * centred / (IMAGES.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() + 1
    wanted = torch.sigmoid(normed @ layer["classifier.weight"].T + layer["classifier.bias"])
    assert torch.allclose(heads.supervised(IMAGES, layer | norm), wanted, atol=1e-5)


@torch.no_grad()
def test_the_tokens_shares_sum_to_the_difference_of_the_logits() -> None:
    _, encoder = made(TINY)
    encoding = encoder(volumes(TINY, 7))
    prompts = functional.normalize(torch.randn(5, 2, TINY.latent, generator=RANDOM), dim=-1)
    found = heads.shares(encoder.codebook[encoding.codes[0]], encoder.to_latent.weight, prompts, 0.7)
    assert found.shape == (5, 7, TINY.side, TINY.side)
    logits = heads.logits(encoding.latent, prompts, 0.7)[0]
    assert torch.allclose(found.sum((1, 2, 3)), logits[:, 0] - logits[:, 1], atol=1e-5)
