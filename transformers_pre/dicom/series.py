"""Which images of an upload make one volume, and why the others do not.

One study, one series, one set of images that share plane, matrix, frame of reference and phase. Between series the lung kernel
comes before the standard one, and more slices before fewer. Not here: what distances say (`geometry`), pixels.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidInput, TooLarge, Unprocessable
from transformers_pre.dicom import body_parts
from transformers_pre.dicom.geometry import SAME_PLACE_MM
from transformers_pre.dicom.records import Kernel, Slice

Floats = npt.NDArray[np.float64]

KERNELS: tuple[Kernel, ...] = ("lung", "standard", "other")
"""In the order of preference."""


@dataclass(eq=False)
class Choice:
    """The images that may make the volume."""

    slices: list[Slice]
    dropped: Counter[str]
    """Images that were left out, by reason."""
    series: int
    """CT series in the upload."""
    chosen_by: str
    warnings: list[str] = field(default_factory=list)
    left_out: list[tuple[Slice, str]] = field(default_factory=list)
    """Images of the series itself that were left out, each with its reason."""

    @property
    def kernel(self) -> Kernel:
        """What the convolution kernel is for."""
        return self.slices[0].kernel


def choose(
    slices: Sequence[Slice],
    dropped: Counter[str],
    *,
    min_slices: int,
    series_uid: str | None = None,
    other_body_parts: bool = False,
) -> Choice:
    """The images of the best series, or of the one that was asked for, which may then be a derived one.

    Args:
        slices: all CT images of the upload.
        dropped: files that hold none, by reason; for messages, and the start of the choice's own.
        min_slices: fewest of a volume, MIN_SLICES.
        series_uid: SeriesInstanceUID of the series to take.
        other_body_parts: whether to take images that say that they show no chest, ALLOW_OTHER_BODY_PARTS.

    Raises:
        InvalidInput: the series that was asked for is not there.
        Unprocessable: no series can be used, those left over show no chest, or several studies are there.
    """
    dropped = Counter(dropped)
    by_series = _grouped(slices, lambda image: image.series)
    if series_uid is not None:
        if series_uid not in by_series:
            raise InvalidInput(
                f"none of the {len(by_series)} CT series of the upload has the SeriesInstanceUID that was asked for",
                code="no_such_series",
                param="series_uid",
            )
        candidates = [Choice(by_series[series_uid], Counter(), len(by_series), "request")]
    else:
        if len({image.study for image in slices}) > 1:
            raise Unprocessable(
                "the upload holds several studies; send one, or say which series to take by its SeriesInstanceUID (series_uid)",
                code="several_studies",
            )
        candidates = [Choice(group, Counter(), len(by_series), "only series") for group in by_series.values()]
    others = [] if other_body_parts else [each for each in candidates if _body_part(each) in body_parts.OTHER]
    candidates = [each for each in candidates if each not in others]
    usable = [choice for choice in candidates if _narrow(choice, min_slices, derived=series_uid is not None)]
    if not usable and others:
        raise _no_chest(others)
    if not usable:
        best = max(candidates, key=lambda choice: len(choice.slices), default=None)
        if best is not None:
            dropped += best.dropped
        raise too_few(len(best.slices) if best is not None else 0, dropped, min_slices)
    usable.sort(key=lambda choice: (KERNELS.index(choice.kernel), -len(choice.slices)))
    best = usable[0]
    if len(usable) > 1:
        best.chosen_by = "kernel" if best.kernel != usable[1].kernel else "number of slices"
    elsewhere = len(slices) - len(best.slices) - best.dropped.total()
    best.dropped += dropped + Counter({"another series": elsewhere})
    best.dropped = +best.dropped
    best.warnings += [*_of_ends(best), *_of_body_part(best)]
    return best


_WITHOUT_PLACE = ("a damaged header", "no pixel data", "no position, orientation or pixel spacing")
"""Reasons for which nobody knows where an image lies."""
_SAME_NORMAL: Final = 0.87
"""Cosine of the normals of images whose places along the stack can be compared: 30 degrees."""


def _of_ends(choice: Choice) -> list[str]:
    """What images that were left out mean for the stack's ends: unlike a gap, what is missing there cannot be seen."""
    found, (normal, places) = [], _places(choice.slices)
    lowest, highest = places.min(), places.max()
    reasons, before, behind = Counter[str](), 0.0, 0.0
    for image, reason in choice.left_out:
        if image.position is None or image.orientation is None:
            continue
        across, down = np.asarray(image.orientation).reshape(2, 3)
        place = float(np.dot(image.position, normal))
        outside = max(lowest - place, place - highest)
        if outside > SAME_PLACE_MM and abs(np.dot(np.cross(across, down), normal)) > _SAME_NORMAL:
            reasons[reason] += 1
            before, behind = max(before, lowest - place), max(behind, place - highest)
    if reasons:
        told = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        found.append(
            f"{reasons.total()} images of the series lie beyond the ends of the volume's slices and were left out ({told}): "
            f"{before:.1f} mm before the first slice, {behind:.1f} mm behind the last are not read"
        )
    lost = {reason: choice.dropped[reason] for reason in _WITHOUT_PLACE if choice.dropped[reason]}
    if lost:
        told = ", ".join(f"{count} x {reason}" for reason, count in sorted(lost.items()))
        found.append(
            f"{sum(lost.values())} files or images were left out whose place is not known ({told}): slices that are missing at "
            "an end of the volume cannot be seen"
        )
    return found


def _places(slices: Sequence[Slice]) -> tuple[Floats, Floats]:
    """The normal of the first image, and where each lies along it."""
    across, down = np.asarray(slices[0].orientation, float).reshape(2, 3)
    normal = np.cross(across, down)
    return normal, np.array([image.position for image in slices], float) @ normal


def check_size(slices: Sequence[Slice], max_bytes: int) -> None:
    """Raises TooLarge for images that have more bytes, decoded, than are read."""
    total = sum(image.rows * image.columns * image.allocated // 8 for image in slices)
    if total > max_bytes:
        raise TooLarge(
            f"the {len(slices)} images of the series have {total} bytes, decoded; at most {max_bytes} are read "
            "(MAX_DECODED_BYTES)",
            code="series_too_large",
        )


def too_few(found: int, dropped: Counter[str], min_slices: int) -> Unprocessable:
    """The refusal of an upload without enough images that belong together."""
    reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted((+dropped).items()))
    return Unprocessable(
        f"the upload holds no volume: its largest CT series has {found} images that can be used, at least {min_slices} are "
        f"needed (MIN_SLICES); left out: {reasons or 'none'}",
        code="too_few_slices",
    )


def _body_part(choice: Choice) -> str:
    """What most images of a series say that they show."""
    return Counter(image.body_part for image in choice.slices).most_common(1)[0][0]


def _of_body_part(choice: Choice) -> list[str]:
    part = _body_part(choice)
    return [
        f"the images say that they show the {part}, not the chest (BodyPartExamined, AnatomicRegionSequence)"
    ] * bool(part)


def _no_chest(candidates: Sequence[Choice]) -> Unprocessable:
    parts = " and ".join(f"the {part}" for part in sorted({_body_part(choice) for choice in candidates}))
    return Unprocessable(
        f"the images say that they show {parts} (BodyPartExamined, AnatomicRegionSequence), only the chest is read; "
        "ALLOW_OTHER_BODY_PARTS, a setting of the pod, reads them all the same",
        code="not_a_chest",
    )


def _narrow(choice: Choice, min_slices: int, *, derived: bool) -> bool:
    """Leaves what can be one volume; whether that is enough."""
    if not derived:
        _keep(choice, lambda image: not image.derived, "a derived image")
    else:
        _keep_largest(choice, lambda image: image.derived, "a derived image")
        if any(image.derived for image in choice.slices):
            choice.warnings.append("the images are derived ones, taken because their series was asked for")
    _keep(
        choice,
        lambda image: None not in (image.position, image.orientation, image.spacing),
        "no position, orientation or pixel spacing",
    )
    for what, reason in _SAME:
        _keep_largest(choice, what, reason, min_slices=min_slices)
    if _acquisitions_overlap(choice.slices):
        _keep_largest(choice, lambda image: image.acquisition, "another acquisition", min_slices=min_slices)
    return len(choice.slices) >= min_slices


ORIENTATION_TOLERANCE: Final = 0.005
"""How far a component of an image's directions may be from its group's: 0.3 degrees."""
SPACING_TOLERANCE_MM: Final = 0.0005
"""How far a pixel spacing may be from its group's; over 512 pixels a quarter of a millimetre."""
_MOST_GROUPS: Final = 16
"""Groups of measured values that are told apart; images of further ones are left out as those of all but the largest are."""


@dataclass(frozen=True)
class _Measured:
    """A property of measured numbers: alike are those that are near, on whichever sides of a rounding they fall."""

    values: Callable[[Slice], Sequence[float] | None]
    tolerance: float


_What = Callable[[Slice], Hashable] | _Measured
_SAME: list[tuple[_What, str]] = [
    (_Measured(lambda image: image.orientation, ORIENTATION_TOLERANCE), "another orientation"),
    (lambda image: (image.rows, image.columns), "another matrix size"),
    (_Measured(lambda image: image.spacing, SPACING_TOLERANCE_MM), "another pixel spacing"),
    (lambda image: image.frame_of_reference, "another frame of reference"),
    (lambda image: image.phase, "another phase"),
    (lambda image: image.kernel, "another kernel"),
]
"""What images of one volume have in common, and the reason for one that differs."""


def _near(slices: Sequence[Slice], what: _Measured) -> list[list[Slice]]:
    """Groups of images whose values are within the tolerance of the group's middle, which is where most of them are."""
    values = np.array([what.values(image) for image in slices], float)
    left, groups = np.arange(len(slices)), list[list[Slice]]()
    while len(left) and len(groups) < _MOST_GROUPS:
        cells = np.rint(values[left] / what.tolerance)
        _, first, cell, counts = np.unique(cells, axis=0, return_index=True, return_inverse=True, return_counts=True)
        fullest = np.lexsort((first, -counts))[0]  # of equal ones the first
        middle = np.median(values[left][cell.ravel() == fullest], axis=0)
        near = (np.abs(values[left] - middle) <= what.tolerance).all(axis=1)
        groups.append([slices[number] for number in left[near]])
        left = left[~near]
    return groups


def _grouped(slices: Iterable[Slice], what: Callable[[Slice], Hashable]) -> dict[Hashable, list[Slice]]:
    groups: defaultdict[Hashable, list[Slice]] = defaultdict(list)
    for image in slices:
        groups[what(image)].append(image)
    return dict(groups)


def _keep(choice: Choice, wanted: Callable[[Slice], bool], reason: str) -> None:
    _leave(choice, [image for image in choice.slices if wanted(image)], reason)


def _leave(choice: Choice, kept: list[Slice], reason: str) -> None:
    """Leaves out all images but these."""
    stay = {id(image) for image in kept}
    choice.left_out += [(image, reason) for image in choice.slices if id(image) not in stay]
    choice.dropped[reason] += len(choice.slices) - len(kept)
    choice.slices = kept


def _keep_largest(choice: Choice, what: _What, reason: str, *, min_slices: int = 0) -> None:
    """Keeps the largest group of images that are alike, of equal ones the first."""
    found = _near(choice.slices, what) if isinstance(what, _Measured) else _grouped(choice.slices, what).values()
    groups = sorted(found, key=len, reverse=True)
    if len(groups) < 2:
        return
    if 0 < min_slices <= len(groups[1]):
        choice.warnings.append(
            f"the series holds several volumes ({reason}: {len(groups[1])} images): the largest is used, of equal ones the first"
        )
    _leave(choice, groups[0], reason)


def _acquisitions_overlap(slices: Sequence[Slice]) -> bool:
    """Whether acquisitions of one series cover the same part of the body, and so are no parts of one volume."""
    groups = _grouped(slices, lambda image: image.acquisition)
    if len(groups) < 2 or slices[0].orientation is None:
        return False
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    ranges = []
    for group in groups.values():
        along = [float(np.dot(image.position or (0, 0, 0), normal)) for image in group]
        ranges.append((min(along), max(along)))
    ranges.sort()
    return any(after[0] <= before[1] for before, after in itertools.pairwise(ranges))
