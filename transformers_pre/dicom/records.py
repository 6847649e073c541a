"""What the pod and its workers tell each other of a study: files, slices, jobs. All of it goes through JSON.

Nothing here names a person or a file; the UIDs in `Slice` are for grouping and for the answer, never for messages.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

SLICES: Final = b"S"
"""A message with JSON of slices, of a `scan`."""
DONE: Final = b"E"
"""The job is done: JSON of its outcome."""

Kernel = Literal["lung", "standard", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an upload: where its bytes lie."""

    number: int
    """Its place in the upload, from 1: the only name that it has in messages."""
    start: int
    """Offset of its first (compressed) byte in the upload."""
    stored: int
    """Bytes that it takes there."""
    size: int
    """Bytes that it has, decompressed."""
    crc: int | None = None
    """CRC-32 of those; None where the wrapping has none."""
    deflated: bool = False
    scratch: bool = False
    """Whether `start` counts in the scratch file instead of the upload."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One image: what grouping, geometry and decoding need of its header. Lengths in mm."""

    entry: Entry
    frame: int
    """Frame in a multi-frame file, from 0."""
    frames: int
    pixel_offset: int
    """Offset of the pixel data's value in the file, or in its inflated data set."""
    pixel_length: int | None
    """Bytes of it; None where it is encapsulated."""
    syntax: str
    """Transfer syntax UID."""
    deflated_at: int | None
    """Where the deflated data set begins in the file; None where none is."""
    study: str
    series: str
    frame_of_reference: str
    rows: int
    columns: int
    allocated: int
    """Bits of a sample's cell."""
    stored: int
    """Bits of it that are used."""
    high_bit: int
    signed: bool
    slope: float
    intercept: float
    rescaled: bool
    """Whether the header had a slope and an intercept."""
    padding: tuple[int, int] | None
    """Stored values, first to last, that mean that there is no image."""
    position: tuple[float, float, float] | None
    """Centre of the first pixel: towards left, back, head."""
    orientation: tuple[float, float, float, float, float, float] | None
    """Directions of growing column and growing row."""
    spacing: tuple[float, float] | None
    """Between rows, between columns."""
    derived: bool
    kernel: Kernel
    phase: tuple[str, ...]
    """What tells phases of one series apart."""
    acquisition: str
    body_part: str
    """What the header says that is shown, if that is not the chest (`body_parts.named`)."""
    lossy: bool


class Found(TypedDict):
    """The outcome of a scan: files that hold no slice, by reason."""

    files: int
    dropped: dict[str, int]


class Source(TypedDict):
    """How an upload is wrapped, and what may be in it."""

    kind: Literal["zip", "tar", "files"]
    parts: list[tuple[int, int]]
    """Offset and length of each file, of "files"."""
    limits: dict[str, Any]
    scratch: bool


class Axis(TypedDict):
    """Linear resampling along one axis: output i is (1 - weight[i]) * input[low[i]] + weight[i] * input[high[i]]."""

    first: int
    """Where the outputs begin in the volume; what lies outside of them is padding."""
    low: list[int]
    high: list[int]
    weight: list[float]


class RenderPlan(TypedDict):
    """How slices become the volume."""

    slices: list[dict[str, Any]]
    """In the order of the stack."""
    shifts: list[float] | None
    """Of a tilted gantry: rows by which each slice lies further down in the upright stack."""
    rows: int
    """Rows of the stack; more than those of a slice where that is sheared."""
    stack: Axis
    row: Axis
    column: Axis
    axes: tuple[int, int, int]
    """Axes of the volume that stack, rows and columns run along."""
    shape: tuple[int, int, int]


def slice_to_json(image: Slice) -> dict[str, Any]:
    """A slice for a message."""
    fields = {name: getattr(image, name) for name in Slice.__slots__}
    fields["entry"] = {name: getattr(image.entry, name) for name in Entry.__slots__}
    return fields


def slice_from_json(fields: dict[str, Any]) -> Slice:
    """A slice out of a message."""
    for name in ("padding", "position", "orientation", "spacing", "phase"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return Slice(**{**fields, "entry": Entry(**fields["entry"])})
