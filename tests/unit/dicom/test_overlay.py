"""Pictures of an explanation: where they look, how they are coloured, and that any PNG reader takes them."""

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from serving.contracts.ct import Shares
from transformers_pre.dicom import overlay
from transformers_pre.dicom.overlay import Overlay, draw, png

SHAPE = (24, 48, 48)  # a tenth of a volume: z, column, row


def shares(*tokens: tuple[tuple[int, int, int], float]) -> npt.NDArray[np.float32]:
    """Shares [6, 8, 8] that are 0 but at these tokens."""
    made = np.zeros((6, 8, 8), np.float32)
    for at, value in tokens:
        made[at] = value
    return made


def picture(made: Overlay) -> npt.NDArray[np.int64]:
    """[y, x, RGB], the axial slice on the left."""
    return np.asarray(imagecodecs.png_decode(made.png), np.int64)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (480, 960)])
def test_a_png_is_read_back_as_it_was(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(pixels)), pixels)


def test_findings_come_by_their_logits() -> None:
    values = np.stack([shares(((0, 0, 0), value)) for value in (0.5, -2.0, 3.0, 0.5)])
    made = draw(np.zeros(SHAPE, np.float32), Shares.of(["a", "b", "c", "d"], values), 3)
    assert [(each.finding, each.logit) for each in made] == [("c", 3.0), ("a", 0.5), ("d", 0.5)]


def test_it_looks_where_most_of_the_finding_is() -> None:
    """Token (4, 1, 6) lies at voxels z 16-19, columns 6-11 and rows 36-41; an image's y are rows, its x columns."""
    volume = np.full(SHAPE, -1.0, np.float32)  # black
    (made,) = draw(volume, Shares.of(["a"], shares(((4, 1, 6), 2.0))[None]), 1)
    assert (made.axial_mm, made.coronal_mm) == (18 * 1.5, 39 * 0.75)
    axial, coronal = np.split(picture(made), 2, axis=1)
    assert axial.shape == coronal.shape == (48, 48, 3)
    assert reddest(axial) == pytest.approx((38.5, 8.5), abs=1)
    # Lines of the coronal slice go from head to feet, two a voxel.
    assert reddest(coronal) == pytest.approx((2 * (23 - 17.5) + 0.5, 8.5), abs=2)


def reddest(pixels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The middle of what is most red."""
    red = pixels[..., 0]
    ys, xs = np.nonzero(red >= 0.9 * red.max())
    return float(ys.mean()), float(xs.mean())


def test_red_speaks_for_it_and_blue_against() -> None:
    tokens = shares(((3, 1, 4), 1.0), ((3, 6, 4), -1.0))
    (made,) = draw(np.full(SHAPE, -1.0, np.float32), Shares.of(["a"], tokens[None]), 1)
    pixels = picture(made)[:, :48]
    strongest = round(255 * overlay.STRENGTH)
    assert pixels[27, 8, 0] >= 0.7 * strongest > pixels[27, 8, 2]
    assert pixels[27, 39, 2] >= 0.7 * strongest > pixels[27, 39, 0]
    assert pixels[0, 0].tolist() == [0, 0, 0]


def test_without_shares_it_is_the_slice_itself() -> None:
    rng = np.random.default_rng(0)
    volume = rng.uniform(-1, 1, SHAPE).astype(np.float32)
    (made,) = draw(volume, Shares.of(["a"], shares()[None]), 1)
    axial, coronal = np.split(picture(made), 2, axis=1)
    low, high = overlay.WINDOW
    grey = np.rint(np.clip((volume - low) / (high - low), 0, 1) * 255)
    z, row = round(made.axial_mm / 1.5), round(made.coronal_mm / 0.75)
    np.testing.assert_allclose(axial[..., 0], grey[z].T, atol=1)
    np.testing.assert_allclose(coronal[::2, :, 1], grey[::-1, :, row], atol=1)
    np.testing.assert_array_equal(coronal[::2], coronal[1::2])


def test_one_token_is_a_grid_too() -> None:
    (made,) = draw(np.zeros(SHAPE, np.float32), Shares.of(["a"], np.ones((1, 1, 1, 1), np.float32)), 1)
    assert len(np.unique(picture(made).reshape(-1, 3), axis=0)) == 1
