"""Where the slices of one volume lie: their order, distance, gaps, tilt and which way round the patient is.

Distances come from positions, never from SliceThickness. What cannot be one even volume is refused, with the place in mm along
the stack. Not here: which images belong together (`series`), pixels.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.contracts.ct_volume import SHAPE, SPACING_MM
from serving.errors import Unprocessable
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import RenderPlan, Slice, slice_to_json
from transformers_pre.dicom.volume import axis, onto_slices, resampled_size

SAME_PLACE_MM: Final = 0.01
"""Images closer than this lie at the same place."""
TOLERANCE: Final = 0.05
TOLERANCE_MM: Final = 0.1
"""How far a step may be from the usual one: the larger of 5 % and 0.1 mm, as dicom2nifti has it."""
MAX_DRIFT_PIXELS: Final = 1.0
"""How far slices may lie off the line through their corners."""
ROUNDING_MM: Final = 5
"""Decimals of a distance that mean anything; without this, 1.4999999 mm would cost a voxel."""
SHORT_MM: Final = 200.0
"""A chest is longer; the volume then shows a part of one."""

_FILES_TOLD: Final = 10  # of a message

Floats = npt.NDArray[np.float64]
_VOLUME_AXES = (1, 2, 0)  # of the patient's axes x (towards left), y (towards back), z (towards head)
_PLANES = {2: "axial", 0: "sagittal", 1: "coronal"}


@dataclass
class Stack:
    """Slices in order, as one even volume before resampling."""

    slices: list[Slice]
    places: Floats
    """Where each slice lies, in steps from the first."""
    steps: int
    """Slices that an even stack of this length has."""
    spacing: tuple[float, float, float]
    """Between slices, rows and columns; mm."""
    shifts: list[float] | None
    """Of a tilted gantry: rows by which each slice lies further down."""
    rows: int
    """Rows of the upright stack."""
    axes: tuple[int, int, int]
    """Patient axes (0 left, 1 back, 2 head) of stack, growing row, growing column."""
    flipped: tuple[bool, bool, bool]
    """Whether they run against those."""
    tilt_degrees: float
    oblique_degrees: float
    filled_mm: list[float]
    """Places of slices that are missing and interpolated."""
    warnings: list[str] = field(default_factory=list)

    @property
    def plane(self) -> str:
        """The acquisition's: axial, sagittal or coronal."""
        return _PLANES[self.axes[0]]

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Length along stack, rows and columns."""
        counts = (self.steps, self.rows, self.slices[0].columns)
        return tuple(round(count * spacing, 2) for count, spacing in zip(counts, self.spacing, strict=True))  # type: ignore[return-value]

    @property
    def volume_axes(self) -> tuple[int, int, int]:
        """Axes of the volume that stack, rows and columns run along."""
        return tuple(_VOLUME_AXES[patient] for patient in self.axes)  # type: ignore[return-value]  # of three

    def plan(self) -> RenderPlan:
        """How it becomes the volume."""
        counts = (self.steps, self.rows, self.slices[0].columns)
        axes = self.volume_axes
        stack, row, column = (
            axis(count, self.resampled(number), SHAPE[axes[number]], flipped=self.flipped[number])
            for number, count in enumerate(counts)
        )
        return RenderPlan(
            slices=[slice_to_json(image) for image in self.slices],
            shifts=self.shifts,
            rows=self.rows,
            stack=onto_slices(stack, self.places),
            row=row,
            column=column,
            axes=axes,
            shape=SHAPE,
        )

    def resampled(self, number: int) -> int:
        """Voxels along stack (0), rows (1) or columns (2) before the crop."""
        count = (self.steps, self.rows, self.slices[0].columns)[number]
        return resampled_size(count, self.spacing[number], SPACING_MM[_VOLUME_AXES[self.axes[number]]])


def coincident(slices: Sequence[Slice]) -> list[list[int]]:
    """Numbers of images that lie at the same place, group by group.

    Raises Unprocessable for images that lie beside each other in one plane: they are neither duplicates nor a stack.
    """
    along, down, across, _ = _along(slices)
    order = np.argsort(along, kind="stable")
    breaks = np.flatnonzero(np.diff(along[order]) >= SAME_PLACE_MM) + 1
    groups = [group.tolist() for group in np.split(order, breaks) if len(group) > 1]
    for group in groups:
        apart = max(np.ptp(down[group]), np.ptp(across[group]))
        if apart > TOLERANCE_MM:
            raise Unprocessable(
                f"{len(group)} images of the series lie in one plane, {apart:.1f} mm beside each other: files "
                f"{files_of(slices[number] for number in group)} of the upload; the series may hold several fields of view",
                code="shifted_slices",
            )
    return groups


def files_of(slices: Iterable[Slice]) -> str:
    """The numbers of images' files for a message, ten at most."""
    return ", ".join(str(image.entry.number) for image in itertools.islice(slices, _FILES_TOLD))


def stack(slices: Sequence[Slice], limits: StudyLimits) -> Stack:
    """One even stack out of slices at different places, within the limits of its sides, angles and gaps.

    Raises:
        Unprocessable: gaps, uneven steps, slices beside each other, a direction that is none, or a size that is no patient's.
    """
    along, down, across, directions = _along(slices)
    order = np.argsort(along, kind="stable")
    along, down, across = along[order], down[order], across[order]
    ordered = [slices[number] for number in order]
    row_mm, column_mm = ordered[0].spacing or (1.0, 1.0)
    warnings: list[str] = []
    places, steps, step, filled = _even(along, warnings, limits.max_missing_share)
    axes, flipped, oblique = _to_patient(directions)
    if oblique > limits.max_oblique_degrees:
        raise Unprocessable(
            f"the images are turned by {oblique:.0f} degrees against the body's axes, at most {limits.max_oblique_degrees:g} "
            "are read (MAX_OBLIQUE_DEGREES)",
            code="oblique_series",
        )
    tilt = _tilt(along, down, across, row_mm, column_mm)
    if abs(tilt) > limits.max_tilt_degrees:
        raise Unprocessable(
            f"the slices are shifted within their planes as by a gantry tilted by {abs(tilt):.0f} degrees, at most "
            f"{limits.max_tilt_degrees:g} are read (MAX_TILT_DEGREES)",
            code="tilted_series",
        )
    shifts, rows = None, ordered[0].rows
    if tilt:
        offsets = np.round((down - down.min()) / row_mm, 6)
        shifts, rows = offsets.tolist(), rows + math.ceil(offsets.max())
        warnings.append(
            f"the gantry was tilted by {abs(tilt):.1f} degrees: the slices are put straight above each other, and the volume "
            f"stays turned by these {abs(tilt):.1f} degrees against the body"
        )
    if oblique > max(5.0, abs(tilt) + 1.0):
        warnings.append(f"the images are turned by {oblique:.1f} degrees against the body's axes, and not turned back")
    found = Stack(
        ordered,
        places,
        steps,
        (step, row_mm, column_mm),
        shifts,
        rows,
        axes,
        flipped,
        tilt,
        oblique,
        filled,
        warnings,
    )
    _check_extent(found, limits.max_extent_mm)
    length = found.extent_mm[axes.index(2)]
    if length < SHORT_MM:
        warnings.append(f"the images cover {length:g} mm of the body's length, a chest is longer than {SHORT_MM:g} mm")
    return found


def _check_extent(found: Stack, max_extent_mm: float) -> None:
    """Raises Unprocessable for a stack that is longer than a patient, or too thin for a single voxel."""
    for number, (name, length) in enumerate(zip(("slices", "rows", "columns"), found.extent_mm, strict=True)):
        if length > max_extent_mm:
            raise Unprocessable(
                f"the images cover {length:g} mm along their {name}, at most {max_extent_mm:g} mm are read (MAX_EXTENT_MM)",
                code="extent_too_large",
            )
        if not found.resampled(number):
            raise Unprocessable(
                f"the images cover {length:g} mm along their {name}, less than a voxel of the volume",
                code="extent_too_small",
            )


def _along(slices: Sequence[Slice]) -> tuple[Floats, Floats, Floats, Floats]:
    """Places along the normal, down the rows and across the columns (mm), and those three directions."""
    across, down = np.asarray(slices[0].orientation, float).reshape(2, 3)
    if abs(np.linalg.norm(across) - 1) > 0.01 or abs(np.linalg.norm(down) - 1) > 0.01 or abs(across @ down) > 0.01:
        raise Unprocessable(
            "the images have no valid orientation: the directions of ImageOrientationPatient are no perpendicular unit vectors",
            code="bad_orientation",
        )
    across, down = across / np.linalg.norm(across), down / np.linalg.norm(down)
    normal = np.cross(across, down)
    positions = np.asarray([image.position for image in slices], float)
    return positions @ normal, positions @ down, positions @ across, np.stack([normal, down, across])


def _even(along: Floats, warnings: list[str], missing_share: float) -> tuple[Floats, int, float, list[float]]:
    """Places in steps, steps, the length of one, and where slices are missing. Raises Unprocessable."""
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    slack = max(TOLERANCE * usual, TOLERANCE_MM)
    multiples = np.maximum(np.rint(gaps / usual), 1)
    if np.all(np.abs(gaps - multiples * usual) <= multiples * slack):
        _check_gaps(along, multiples, usual, missing_share)
        places = np.concatenate([[0.0], np.cumsum(multiples)])
        steps = int(places[-1]) + 1
        step = round(float(along[-1] - along[0]) / (steps - 1), ROUNDING_MM)
        filled = [float((along[number] + along[number + 1]) / 2) for number in np.flatnonzero(multiples > 1)]
        if filled:
            warnings.append(f"{len(filled)} missing slices are interpolated from their neighbours")
        measured = (along - along[0]) / step
        if np.abs(measured - places).max() * step > slack:  # small differences add up
            warnings.append(
                f"the slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: resampled from where they lie"
            )
            places = measured
        return places, steps, step, [round(place, 2) for place in filled]
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide):
        raise _gap(along, int(wide[np.argmax(gaps[wide])]), usual)
    if gaps.min() < usual / 2:
        at = float(along[int(np.argmin(gaps))])
        raise Unprocessable(
            f"the slices are not evenly spaced: {gaps.min():.2f} mm apart at {at:.1f} mm, {usual:.2f} mm elsewhere; the "
            "series may hold several phases or reconstructions",
            code="uneven_slices",
        )
    steps = len(along)
    step = round(float(along[-1] - along[0]) / (steps - 1), ROUNDING_MM)
    warnings.append(f"the slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: resampled from where they lie")
    return (along - along[0]) / step, steps, step, []


def _check_gaps(along: Floats, multiples: Floats, usual: float, share: float) -> None:
    """Raises Unprocessable unless every slice that is missing has two neighbours that are not."""
    missing = np.flatnonzero(multiples > 1)
    large = np.flatnonzero(multiples > 2)
    if len(large):
        raise _gap(along, int(large[np.argmax(multiples[large])]), usual)
    allowed = max(1.0, share * len(along)) if share else 0.0
    if np.any(np.diff(missing) == 1) or len(missing) > allowed:
        raise Unprocessable(
            f"{len(missing)} slices are missing, too many or too close together to be interpolated: at most {share:g} of them "
            f"(MAX_MISSING_SHARE), each between others; the first is missing at {along[missing[0]] + usual:.1f} mm",
            code="missing_slices",
        )


def _gap(along: Floats, number: int, usual: float) -> Unprocessable:
    return Unprocessable(
        f"slices are missing between {along[number]:.1f} and {along[number + 1]:.1f} mm: the others are {usual:.2f} mm apart, "
        "and only single slices are interpolated",
        code="missing_slices",
    )


def _to_patient(directions: Floats) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], float]:
    """Axes of the patient that stack, rows and columns run along, whether backwards, and the largest angle to one."""
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(directions[range(3), list(order)])))
    cosines = directions[range(3), list(axes)]
    oblique = math.degrees(math.acos(min(1.0, float(np.abs(cosines).min()))))
    return axes, tuple(bool(cosine < 0) for cosine in cosines), oblique  # type: ignore[return-value]  # of three each


def _tilt(along: Floats, down: Floats, across: Floats, row_mm: float, column_mm: float) -> float:
    """The gantry's tilt in degrees, 0 where slices lie straight above each other. Raises Unprocessable."""
    length = along[-1] - along[0]
    drift = (down[-1] - down[0]) / length
    line = down[0] + drift * (along - along[0])
    if np.abs(down - line).max() > MAX_DRIFT_PIXELS * row_mm or np.ptp(across) > MAX_DRIFT_PIXELS * column_mm:
        raise Unprocessable(
            "the slices do not lie above each other: they are shifted within their planes, and not as a tilted gantry does it",
            code="shifted_slices",
        )
    if np.ptp(down) <= MAX_DRIFT_PIXELS * row_mm / 2:
        return 0.0
    return math.degrees(math.atan(drift))
