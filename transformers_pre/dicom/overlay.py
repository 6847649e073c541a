"""Pictures of an explanation: where in the volume a finding's logit comes from, over the slices where most of it does.

Red speaks for the finding, blue against it, as strong as the token's share is next to the finding's largest one. Arithmetic on
arrays and a PNG writer of its own: the standard library has zlib, and that is all that a plain PNG takes.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.contracts.ct import Shares
from serving.contracts.ct_volume import SPACING_MM

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

WINDOW: Final = (-1.0, 0.4)
"""HU / 1000 from black to white: lung and soft tissue in one picture."""
STRENGTH: Final = 0.6
"""Share of colour where the share is largest."""
_RED, _BLUE = np.array([255, 40, 0], np.float32), np.array([0, 80, 255], np.float32)


@dataclass(frozen=True)
class Overlay:
    """A finding's picture."""

    finding: str
    logit: float
    """How much more the volume looks like the finding than like its absence: the sum of all shares."""
    axial_mm: float
    """Where the axial slice lies, above the volume's lower end."""
    coronal_mm: float
    """Where the coronal slice lies, behind the volume's front."""
    png: bytes
    """The axial slice beside the coronal one, as radiologists look at them: the patient's left on the right."""


def draw(volume: Floats, shares: Shares, count: int) -> tuple[Overlay, ...]:
    """Pictures of the `count` findings with the highest logits, highest first.

    Args:
        volume: [D, H, W] in [-1, 1]: z from feet to head, column towards the left, row towards the back.
        shares: of each finding, [k, t, h, w], over the same axes.
        count: most pictures.
    """
    logits = shares.values.sum(axis=(1, 2, 3), dtype=np.float64)
    order = np.argsort(-logits, kind="stable")[:count]
    return tuple(_overlay(volume, shares.labels[index], shares.values[index]) for index in order)


def _overlay(volume: Floats, finding: str, tokens: Floats) -> Overlay:
    peak = np.unravel_index(int(tokens.argmax()), tokens.shape)
    # The middle of the token that adds most, in voxels.
    z, _, row = (
        int((at + 0.5) * voxels / parts) for at, voxels, parts in zip(peak, volume.shape, tokens.shape, strict=True)
    )
    scale = float(np.abs(tokens).max()) or 1.0
    by_row = _resized(tokens, 2, volume.shape[2])
    by_z = _resized(tokens, 0, volume.shape[0])
    axial = _resized(by_z[z], 0, volume.shape[1])
    coronal = _resized(by_row[..., row], 1, volume.shape[1])
    # Voxels are twice as high as wide: each line of the coronal slice is drawn twice.
    lines = round(SPACING_MM[0] / SPACING_MM[1])
    pictures = [
        _coloured(volume[z].T, _resized(axial, 1, volume.shape[2]).T / scale),
        _coloured(volume[:, :, row][::-1], _resized(coronal, 0, volume.shape[0])[::-1] / scale).repeat(lines, axis=0),
    ]
    height = max(len(picture) for picture in pictures)
    framed = [np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))) for picture in pictures]
    return Overlay(
        finding=finding,
        logit=float(tokens.sum(dtype=np.float64)),
        axial_mm=z * SPACING_MM[0],
        coronal_mm=row * SPACING_MM[2],
        png=png(np.concatenate(framed, axis=1)),
    )


def _resized(values: Floats, axis: int, size: int) -> Floats:
    """Linear between the middles of the values along an axis, the outermost ones held to the edge."""
    count = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(at.astype(int), max(count - 2, 0))
    weight = (at - low).astype(np.float32).reshape([-1 if axis == each else 1 for each in range(values.ndim)])
    first, second = values.take(low, axis), values.take(np.minimum(low + 1, count - 1), axis)
    blended: Floats = first * (1 - weight) + second * weight
    return blended


def _coloured(plane: Floats, shares: Floats) -> Pixels:
    """A slice [y, x] in grey, its shares [-1, 1] over it: [y, x, 3]."""
    grey = np.clip((plane - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)[..., None] * np.float32(255)
    alpha = np.abs(shares)[..., None] * np.float32(STRENGTH)
    colour = np.where(shares[..., None] > 0, _RED, _BLUE)
    blended: Pixels = np.rint(grey * (1 - alpha) + colour * alpha).astype(np.uint8)
    return blended


def png(pixels: Pixels) -> bytes:
    """Pixels [y, x, 3] as a PNG (RFC 2083): 8 bits, RGB, each line the difference to the one above."""
    height, width, _ = pixels.shape
    above = np.concatenate([np.zeros_like(pixels[:1]), pixels[:-1]])
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), (pixels - above).reshape(height, -1)], axis=1)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
