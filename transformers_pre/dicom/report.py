"""The `input` report of an answer: what was used of an upload, what was left out and why, and what became of it.

Numbers and words of our own alone: nothing in it is copied from a file.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from serving.contracts.ct_volume import SHAPE, SPACING_MM
from serving.errors import Unprocessable
from transformers_pre.dicom.geometry import Stack
from transformers_pre.dicom.records import Kernel
from transformers_pre.dicom.series import Choice
from transformers_pre.dicom.syntaxes import READ


class Dropped(TypedDict):
    """Files or images that are not in the volume."""

    reason: str
    count: int


class SeriesReport(TypedDict):
    """Which series was taken."""

    found: int
    """CT series in the upload."""
    chosen_by: str
    """"only series", "kernel", "number of slices" or "request"."""
    kernel: Kernel


class SlicesReport(TypedDict):
    """Which images were taken."""

    received: int
    """Images and other files in the upload."""
    used: int
    dropped: list[Dropped]
    interpolated_at_mm: list[float]
    """Places along the stack of slices that were missing."""
    transfer_syntaxes: list[str]


class GeometryReport(TypedDict):
    """How they lie. Lengths in mm along slices, rows and columns."""

    plane: str
    matrix: list[int]
    """Rows and columns."""
    spacing_mm: list[float]
    coverage_mm: list[float]
    turned: bool
    """Whether the images lay another way round than an axial scan of a patient on the back, head first."""
    tilt_degrees: float
    oblique_degrees: float


class VolumeReport(TypedDict):
    """What became of them. Axes of the volume: z, column, row."""

    shape: list[int]
    spacing_mm: list[float]
    resampled: list[int]
    """Voxels before the crop."""
    cropped_mm: list[float]
    """What the volume does not show of the images."""
    padded_mm: list[float]
    """What it has of air around them."""


class InputReport(TypedDict):
    """Every decision."""

    series: SeriesReport
    slices: SlicesReport
    geometry: GeometryReport
    volume: VolumeReport
    warnings: list[str]


def describe(choice: Choice, stack: Stack, *, received: int) -> InputReport:
    """The report of a volume.

    Args:
        choice: what was taken of the upload.
        stack: how it lies.
        received: images and other files in the upload.
    """
    resampled = [0, 0, 0]
    for number, target in enumerate(stack.volume_axes):
        resampled[target] = stack.resampled(number)
    excess = [(voxels - size) * spacing for voxels, size, spacing in zip(resampled, SHAPE, SPACING_MM, strict=True)]
    first = stack.slices[0]
    return InputReport(
        series=SeriesReport(found=choice.series, chosen_by=choice.chosen_by, kernel=choice.kernel),
        slices=SlicesReport(
            received=received,
            used=len(stack.slices),
            dropped=[Dropped(reason=reason, count=count) for reason, count in sorted(choice.dropped.items())],
            interpolated_at_mm=stack.filled_mm,
            transfer_syntaxes=sorted({READ[image.syntax] for image in stack.slices}),
        ),
        geometry=GeometryReport(
            plane=stack.plane,
            matrix=[first.rows, first.columns],
            spacing_mm=[round(value, 5) for value in stack.spacing],
            coverage_mm=list(stack.extent_mm),
            turned=stack.plane != "axial" or any(stack.flipped),
            tilt_degrees=round(stack.tilt_degrees, 2),
            oblique_degrees=round(stack.oblique_degrees, 2),
        ),
        volume=VolumeReport(
            shape=list(SHAPE),
            spacing_mm=list(SPACING_MM),
            resampled=resampled,
            cropped_mm=[round(max(value, 0.0), 2) for value in excess],
            padded_mm=[round(max(-value, 0.0), 2) for value in excess],
        ),
        warnings=[*choice.warnings, *stack.warnings, *_of_crop(excess), *_of_values(stack)],
    )


def _of_crop(excess: Sequence[float]) -> list[str]:
    """What the volume does not show, axis by axis (z, column, row); `excess` is mm by which the images are longer than it."""
    directions = ("from feet to head", "from right to left", "from front to back")
    return [
        f"the images are longer than the volume {direction}: {cut:.1f} mm are cut off, half at each end"
        for direction, cut in zip(directions, excess, strict=True)
        if cut > 0
    ]


def _of_values(stack: Stack) -> list[str]:
    counts = Counter[str]()
    for image in stack.slices:
        counts["lossy"] += image.lossy
        counts["unscaled"] += not image.rescaled
    found = []
    if counts["lossy"]:
        found.append(f"{counts['lossy']} images were compressed with loss")
    if 0 < counts["unscaled"] < len(stack.slices):
        raise Unprocessable(
            f"{counts['unscaled']} of {len(stack.slices)} images have no slope and intercept, the others have: "
            "their values are not of one scale",
            code="mixed_rescale",
        )
    if counts["unscaled"]:
        found.append(
            f"{counts['unscaled']} images have no slope and intercept: their values are taken for Hounsfield units"
        )
    return found
