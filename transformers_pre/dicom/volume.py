"""Linear resampling of a stack of slices into the volume that CT-CLIP takes, plane by plane in float32.

It equals torch's `interpolate(mode="trilinear", align_corners=False)` to the sizes of CT-CLIP's own inference, followed by its
central crop and padding; only what the volume keeps is computed, and no more than two slices are in memory. Not here: where
slices come from, and which way round they lie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from transformers_pre.dicom.pixels import LOWEST_HU, UNIT_HU, Plane
from transformers_pre.dicom.records import Axis, RenderPlan

AIR: Final = LOWEST_HU / UNIT_HU
"""What lies outside of the images."""

_BLOCK = 64  # rows that are worked on at a time: a few hundred kB

Load = Callable[[int, Plane], None]
"""Writes slice i of the stack, HU / 1000, into a plane [rows, columns]."""


def resampled_size(count: int, spacing: float, target: float) -> int:
    """Voxels of an axis after resampling, rounded down with CT-CLIP's own floating-point arithmetic (640 x 0.6/0.75 = 511)."""
    return int(count * (spacing / target))


def axis(count: int, resampled: int, size: int, *, flipped: bool = False) -> Axis:
    """Resampling of `count` samples to `resampled`, cropped or padded centrally to `size`.

    Sample i of the result lies at (i + 0.5) * count / resampled - 0.5, and never before the first (align_corners=False).
    """
    begin = max((resampled - size) // 2, 0)
    kept = min(resampled, size)
    position = np.maximum((np.arange(begin, begin + kept) + 0.5) * (count / resampled) - 0.5, 0.0)
    low = np.minimum(np.floor(position).astype(np.int64), count - 1)
    high = np.minimum(low + 1, count - 1)
    weight = position - low
    if flipped:
        low, high = count - 1 - low, count - 1 - high
    return Axis(first=(size - kept) // 2, low=low.tolist(), high=high.tolist(), weight=weight.tolist())


def onto_slices(stack: Axis, places: npt.NDArray[np.float64]) -> Axis:
    """The same outputs between slices that lie at `places` (ascending, in steps of the even stack), not at each step.

    Where a step has no slice, its neighbours stand for it.
    """
    low, weight = np.asarray(stack["low"]), np.asarray(stack["weight"])
    position = low + (np.asarray(stack["high"]) - low) * weight
    after = np.clip(np.searchsorted(places, position, side="right"), 1, len(places) - 1)
    before = after - 1
    share = np.clip((position - places[before]) / (places[after] - places[before]), 0.0, 1.0)
    return Axis(first=stack["first"], low=before.tolist(), high=after.tolist(), weight=share.tolist())


class Renderer:
    """Makes the planes of a volume out of slices, in bounded memory: two slices and a few planes.

    Args:
        plan: weights and axes; its slices are the caller's.
        rows: of each slice.
        columns: of each slice.
        load: reads a slice.
    """

    def __init__(self, plan: RenderPlan, rows: int, columns: int, load: Load):
        self._plan = plan
        self._load = load
        self._held: list[tuple[int, Plane]] = [(-1, np.empty((plan["rows"], columns), np.float32)) for _ in range(2)]
        self._slice = np.empty((rows, columns), np.float32) if plan["shifts"] else None
        self._blocks = _blocks(plan["row"])
        height = max(block.stop - block.start for block in self._blocks)
        self._between = np.empty((height, columns), np.float32)
        self._row = _Lerp(_BLOCK, columns)
        self._column = _Lerp(len(plan["column"]["low"]), _BLOCK)
        self._turned = np.empty((columns, _BLOCK), np.float32)
        self._across = _Weights.of(plan["column"])

    def render(self, volume: npt.NDArray[np.float32], begin: int, end: int) -> None:
        """Fills planes [begin, end) of the volume, counted along the axis of the stack."""
        stack, row, column = self._plan["axes"]
        planes = np.moveaxis(volume, (stack, column, row), (0, 1, 2))
        axis_of_stack = self._plan["stack"]
        first, count = axis_of_stack["first"], len(axis_of_stack["low"])
        inner = (
            slice(self._plan["column"]["first"], self._plan["column"]["first"] + len(self._plan["column"]["low"])),
            slice(self._plan["row"]["first"], self._plan["row"]["first"] + len(self._plan["row"]["low"])),
        )
        for number in range(begin, end):
            at = number - first
            if 0 <= at < count:
                self._plane(at, planes[number][inner])
                _pad(planes[number], *inner)
            else:
                planes[number] = AIR

    def _plane(self, at: int, out: npt.NDArray[np.float32]) -> None:
        """Plane `at` of those that the images give, [columns, rows]; block by block, so that all of it stays in the cache."""
        stack = self._plan["stack"]
        low, high, weight = stack["low"][at], stack["high"][at], np.float32(stack["weight"][at])
        one = self._get(low, keep=high)
        other = self._get(high, keep=low) if weight else one
        for block in self._blocks:
            rows = one[block.start : block.stop]
            if weight:
                between = self._between[: len(rows)]
                np.subtract(other[block.start : block.stop], rows, out=between)
                between *= weight
                between += rows
                rows = between
            size = len(block.weights.weight)
            turned = self._turned[:, :size]
            np.copyto(turned, self._row(rows, block.weights).T)
            self._column(turned, self._across, out[:, block.first : block.first + size])

    def _get(self, number: int, *, keep: int) -> Plane:
        """Slice `number`, in the place of one that is not `keep`."""
        for held, plane in self._held:
            if held == number:
                return plane
        at = 1 if self._held[0][0] == keep else 0
        plane = self._held[at][1]
        self._held[at] = (-1, plane)
        if self._slice is None:
            self._load(number, plane)
        else:
            self._load(number, self._slice)
            _shift(self._slice, (self._plan["shifts"] or [])[number], plane)
        self._held[at] = (number, plane)
        return plane


@dataclass(frozen=True)
class _Weights:
    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: Plane
    """[n, 1]"""

    @classmethod
    def of(cls, axis: Axis) -> Self:
        weight = np.asarray(axis["weight"], np.float32)[:, None]
        return cls(np.asarray(axis["low"], np.intp), np.asarray(axis["high"], np.intp), weight)


@dataclass(frozen=True)
class _Block:
    """Some rows of a plane, and those that they are made of."""

    first: int
    start: int
    stop: int
    weights: _Weights
    """Counted from `start`."""


def _blocks(row: Axis) -> list[_Block]:
    whole = _Weights.of(row)
    found = []
    for first in range(0, len(whole.low), _BLOCK):
        part = slice(first, first + _BLOCK)
        low, high = whole.low[part], whole.high[part]
        start, stop = int(min(low.min(), high.min())), int(max(low.max(), high.max())) + 1
        found.append(_Block(first, start, stop, _Weights(low - start, high - start, whole.weight[part])))
    return found


class _Lerp:
    """Linear interpolation along the first axis of planes; at most `size` samples of at most `width` values."""

    def __init__(self, size: int, width: int):
        self._one = np.empty(size * width, np.float32)
        self._other = np.empty_like(self._one)

    def __call__(self, plane: Plane, weights: _Weights, out: Plane | None = None) -> Plane:
        """The samples; in memory of its own, which the next call uses again, unless `out` is given."""
        shape = len(weights.weight), plane.shape[1]
        one, other = (buffer[: shape[0] * shape[1]].reshape(shape) for buffer in (self._one, self._other))
        np.take(plane, weights.low, axis=0, out=one, mode="clip")
        np.take(plane, weights.high, axis=0, out=other, mode="clip")
        np.subtract(other, one, out=other)
        np.multiply(other, weights.weight, out=other)
        return np.add(one, other, out=one if out is None else out)


def _pad(plane: npt.NDArray[np.float32], inner: slice, other: slice) -> None:
    """Puts air around a part of a plane."""
    plane[: inner.start] = AIR
    plane[inner.stop :] = AIR
    plane[inner, : other.start] = AIR
    plane[inner, other.stop :] = AIR


def _shift(plane: Plane, rows: float, out: Plane) -> None:
    """Writes `plane`, moved down by a number of rows, into the taller `out`, with air around it."""
    whole = int(np.floor(rows))
    part = np.float32(rows - whole)
    out[:] = AIR
    height = len(plane)
    out[whole : whole + height] = plane
    if part:  # row r of `out` lies between rows r - whole - 1 and r - whole of the slice
        inner = out[whole + 1 : whole + height]
        inner += part * (plane[:-1] - plane[1:])
        out[whole] += part * (AIR - plane[0])
        out[whole + height] = AIR + part * (plane[-1] - AIR)
