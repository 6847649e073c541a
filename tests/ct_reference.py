"""CT-CLIP's own preprocessing, restated in float64 with torch's `interpolate`: what every volume is compared with."""

import numpy as np
import numpy.typing as npt
import torch

SHAPE = (240, 480, 480)
SPACING_MM = (1.5, 0.75, 0.75)


def volume(hu: npt.NDArray[np.float64], spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """The volume [240, 480, 480] of HU [slices from feet to head, rows, columns], spacing (slices, rows, columns) in mm."""
    array = np.clip(np.asarray(hu, np.float64), -1000, 1000).transpose(0, 2, 1)
    spacings = (spacing[0], spacing[2], spacing[1])
    size = [int(count * (have / want)) for count, have, want in zip(array.shape, spacings, SPACING_MM, strict=True)]
    tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
    resampled = (
        torch.nn.functional.interpolate(tensor, size=size, mode="trilinear", align_corners=False)[0, 0].numpy() / 1000
    )
    out = np.full(SHAPE, -1.0)
    source, target = [], []
    for have, want in zip(resampled.shape, SHAPE, strict=True):
        kept, start, before = min(have, want), max((have - want) // 2, 0), max((want - have) // 2, 0)
        source.append(slice(start, start + kept))
        target.append(slice(before, before + kept))
    out[tuple(target)] = resampled[tuple(source)]
    return out
