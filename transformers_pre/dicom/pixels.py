"""Stored values to Hounsfield units: unused bits, sign, padding, slope and intercept of each image.

Runs in a worker process. CT has no presentation in it: MONOCHROME1 and windows are for screens, and change nothing here.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from transformers_pre.dicom.records import Slice

LOWEST_HU, HIGHEST_HU = -1000.0, 1000.0
"""What CT-CLIP sees: clipped before resampling, as its own inference does."""
UNIT_HU = 1000.0
"""Volumes hold HU / 1000."""

Samples = npt.NDArray[Any]
Plane = npt.NDArray[np.float32]


def stored_values(cells: Samples, image: Slice) -> Samples:
    """The values out of their cells: BitsStored of them, up to HighBit, with their sign."""
    above, unused = image.allocated - 1 - image.high_bit, image.allocated - image.stored
    if not unused:
        return cells
    shift = 8 * cells.dtype.itemsize - image.allocated  # a codec may have made larger cells
    return (cells << (above + shift)) >> (unused + shift)


def hounsfield(cells: Samples, image: Slice, out: Plane) -> None:
    """Writes HU / 1000, clipped to [-1, 1], into `out` [rows, columns]; padding becomes -1, air.

    Args:
        cells: [rows, columns] as they are stored.
        image: what its header says.
        out: receives it.
    """
    values = stored_values(cells, image)
    np.multiply(values, np.float32(image.slope / UNIT_HU), out=out, casting="unsafe", dtype=np.float32)
    out += np.float32(image.intercept / UNIT_HU)
    np.clip(out, np.float32(LOWEST_HU / UNIT_HU), np.float32(HIGHEST_HU / UNIT_HU), out=out)
    if image.padding is not None and _shows(image):
        low, high = image.padding
        # The padding value may need bits that no image has (-2000 in 12 bits), and is then stored in the whole cell.
        out[((cells >= low) & (cells <= high)) | ((values >= low) & (values <= high))] = LOWEST_HU / UNIT_HU


def _shows(image: Slice) -> bool:
    """Whether padding would be taken for something denser than air."""
    low, high = image.padding or (0, 0)
    return max(value * image.slope + image.intercept for value in (low, high)) > LOWEST_HU
