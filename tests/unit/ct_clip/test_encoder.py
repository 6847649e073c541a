"""The fast forward pass against its plain restatement, for shapes with all sizes different."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from predictors.ct_clip import checkpoint
from predictors.ct_clip.encoder import Encoder
from tests.ct_clip_reference import TINY, Sizes, encode, image_weights

SHAPES = {
    "a cube of tokens": (TINY, 4),
    "more slabs than rows": (TINY, 7),
    "one slab": (TINY, 1),
    "deep and narrow": (replace(TINY, dim=24, depth=3, heads=2, dim_head=4, patch=3, depth_patch=4, side=5), 3),
}


def made(sizes: Sizes, seed: int = 0) -> tuple[dict[str, torch.Tensor], Encoder]:
    weights = image_weights(sizes, seed)
    read = checkpoint.of_weights("weights", weights)
    encoder = Encoder(read.config)
    encoder.load_state_dict(dict(read.image))
    return weights, encoder.eval().prepare()


def volumes(sizes: Sizes, slabs: int, count: int = 1) -> torch.Tensor:
    shape = (count, slabs * sizes.depth_patch, sizes.side * sizes.patch, sizes.side * sizes.patch)
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize(("sizes", "slabs"), SHAPES.values(), ids=SHAPES)
def test_it_equals_the_plain_restatement(sizes: Sizes, slabs: int) -> None:
    weights, encoder = made(sizes)
    (volume,) = volumes(sizes, slabs)
    tokens, codes, latent = encode(weights, sizes, volume)
    assert torch.allclose(encoder.tokens(volume[None]).reshape(tokens.shape), tokens, atol=1e-4)
    found = encoder(volume[None])
    other = found.codes.flatten() != codes
    near = functional.normalize(tokens[other], dim=-1)
    ours, theirs = (encoder.directions[each[other]] for each in (found.codes.flatten(), codes))
    assert ((near * ours).sum(-1) - (near * theirs).sum(-1)).abs().lt(1e-5).all()  # two entries as near as each other
    assert other.float().mean() < 0.1
    if not other.any():
        assert torch.allclose(found.latent[0], latent, atol=1e-6)


def test_studies_of_a_batch_do_not_touch_each_other() -> None:
    _, encoder = made(TINY)
    many = volumes(TINY, 4, 3)
    together, alone = encoder(many), [encoder(each[None]) for each in many]
    assert torch.equal(together.codes, torch.cat([each.codes for each in alone]))
    assert torch.allclose(together.latent, torch.cat([each.latent for each in alone]), atol=1e-6)


def test_the_temporal_layers_take_columns_for_slabs() -> None:
    """Their convolution runs over rows that lie as (h, w), t and are taken for t, h, w: so it was trained."""
    _, encoder = made(TINY)
    (volume,) = volumes(TINY, 7)
    right = encoder.tokens(volume[None])
    layer = encoder.temporal.layers[0]
    turned = layer.position.weight.transpose(2, 4).contiguous()
    layer.position.weight.data = turned
    assert not torch.allclose(encoder.tokens(volume[None]), right, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_but_not_equal(dtype: torch.dtype) -> None:
    _, encoder = made(replace(TINY, codebook=512))
    (volume,) = volumes(TINY, 7)
    full, half = encoder(volume[None]), encoder(volume[None], dtype)
    assert half.latent.dtype == torch.float32
    assert (full.codes == half.codes).float().mean() > 0.9
    off = (encoder.tokens(volume[None]) - encoder.tokens(volume[None], dtype)).abs().max()
    assert 0 < off < 0.5  # of tokens of length sqrt(32)
