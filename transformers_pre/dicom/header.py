"""The header of a DICOM file: one `Slice` for each image that may belong to a CT volume, or the reason why there is none.

Runs in a worker process. pydicom splits the data set, up to the pixel data; values are taken from its raw elements, so that
nothing is guessed, converted or warned about that is not needed. Not here: pixels, and which slices make a volume.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pydicom
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from serving.workers.wire import RefusedError
from transformers_pre.dicom import body_parts
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import Entry, Kernel, Slice
from transformers_pre.dicom.syntaxes import BIG_ENDIAN, IMPLICIT, READ

PREAMBLE_BYTES: Final = 132

_MAX_TEXT_BYTES = 256
"""Longest value of an element that decides something; UIDs have 64, six numbers 101 (PS3.5, 6.2)."""

_CT = "1.2.840.10008.5.1.4.1.1.2"
_IMAGES = frozenset({_CT, f"{_CT}.1", f"{_CT}.2", ""})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DICOMDIR: Final = "1.2.840.10008.1.3.10"

# Convolution kernels by what they are for, by vendor: Siemens, Canon/Toshiba, GE. The order is that of preference.
_LUNG_KERNELS = ("LUNG", "B70", "B80", "FC51", "FC81")
_STANDARD_KERNELS = ("STANDARD", "B30", "B31", "FC30")

# Values of ImageType of pictures of text: DOSE, DOSE_INFO, CT_DOSE_REPORT, SCREEN SAVE. LOW_DOSE and LUNG SCREENING are scans.
_SCREEN = re.compile(
    r"^DOSE$|DOSE[\W_]*(INFO|REPORT|SUMMARY|SHEET|PAGE|RECORD)|^(DOSE[\W_]*)?SCREEN([\W_]*(SAVE|SHOT|CAPTURE|GRAB).*)?$"
)

_HOUNSFIELD = ("", "HU", "US")
"""RescaleType (PS3.3, C.11.1.1.2) of images in Hounsfield units; US is "unspecified", which CT images are HU by default."""

_TAGS: Final = [
    *(0x00080008, 0x00080016, 0x00080060, 0x0020000D, 0x0020000E, 0x00200052, 0x00200012, 0x00181210, 0x00282110),
    *(0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120),
    *(0x00280121, 0x00281052, 0x00281053, 0x00281054, 0x00200032, 0x00200037, 0x00280030, 0x00200100, 0x00181060),
    *(0x52009229, 0x52009230, 0x00180015, 0x00082218),
]


class DroppedError(Exception):
    """A file that holds no slice; the text is the reason, for the report."""


class MoreError(Exception):
    """The header goes on behind the bytes at hand."""


@dataclass(frozen=True)
class _Stop:
    """The pixel data's element."""

    tag: int
    length: int


def transfer_syntax(head: bytes) -> tuple[str, str, int]:
    """Transfer syntax, SOP class and the offset of the data set, from the file meta information (PS3.10, 7.1).

    Raises DroppedError, MoreError.
    """
    if head[128:132] != b"DICM":
        raise DroppedError("an archive in the archive" if _is_archive(head) else "not a DICOM file")
    at, syntax, sop_class = PREAMBLE_BYTES, "", ""
    while True:
        if len(head) < at + 12:
            raise MoreError
        group, element, vr, length = struct.unpack_from("<HH2sH", head, at)
        if group != 2:
            return syntax, sop_class, at
        at += 8
        if vr in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            (length,) = struct.unpack_from("<L", head, at)
            at += 4
        if len(head) < at + length:
            raise MoreError
        if element in (0x0010, 0x0002):
            value = _text(head[at : at + length])
            syntax, sop_class = (value, sop_class) if element == 0x0010 else (syntax, value)
        at += length


def _is_archive(head: bytes) -> bool:
    return head[:4] in (b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf") or head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar"


def slices(
    entry: Entry, data: bytes, syntax: str, start: int, *, deflated_at: int | None, limits: StudyLimits
) -> list[Slice]:
    """The images of a file.

    Args:
        entry: the file.
        data: its bytes, or those of the inflated data set.
        syntax: its transfer syntax.
        start: where the data set begins in `data`.
        deflated_at: where the deflated one begins in the file.
        limits: of the matrix and the frames.

    Raises:
        DroppedError: it holds none.
        MoreError: the header goes on behind `data`.
        RefusedError: a transfer syntax that is not read, or an image over the limit.
    """
    stop: list[_Stop] = []

    def at_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag.group >= 0x7FE0:
            stop.append(_Stop(int(tag), length))
            return True
        return False

    file = io.BytesIO(data)
    file.seek(start)
    little = syntax != BIG_ENDIAN
    dataset = read_dataset(file, syntax == IMPLICIT, little, stop_when=at_pixels, specific_tags=list(_TAGS))
    if not stop:
        raise MoreError
    header = _Header(dataset, little=little)
    _check_kind(header)
    if stop[0].tag != 0x7FE0_0010:
        raise DroppedError("no pixel data")
    if syntax not in READ:
        name = pydicom.uid.UID_dictionary.get(syntax, ("",))[0] or "one that the standard does not know"
        raise RefusedError(
            415,
            "unsupported_transfer_syntax",
            f"the images are in a transfer syntax that is not read here: {name}; read are {', '.join(READ.values())}",
        )
    offset = file.tell() + (8 if syntax == IMPLICIT else 12)
    length = None if stop[0].length == 0xFFFF_FFFF else stop[0].length
    image = _Image(entry, syntax, offset, length, deflated_at)
    return list(_images(header, image, limits))


class _Header:
    """The raw elements of a data set, read as what they should be. Raises ValueError for what they are not."""

    def __init__(self, dataset: pydicom.Dataset, *, little: bool):
        self._dataset = dataset
        # Kept as they were read: pydicom converts some of them when a sequence beside them is opened.
        self._values = {int(tag): dataset.get_item(tag).value for tag in dataset.keys()}  # noqa: SIM118
        self._order = "<" if little else ">"

    def text(self, tag: int) -> str:
        """The value as text; "" where there is none. Raises ValueError for one that is too long to be what it should."""
        raw = self._raw(tag)
        if len(raw) > _MAX_TEXT_BYTES:
            raise ValueError("too long a text")
        return _text(raw)

    def texts(self, tag: int) -> list[str]:
        return [part.strip() for part in self.text(tag).split("\\")]

    def short(self, tag: int) -> int | None:
        """An unsigned 16-bit integer."""
        raw = self._raw(tag)
        return struct.unpack_from(f"{self._order}H", raw)[0] if len(raw) >= 2 else None

    def need_short(self, tag: int) -> int:
        value = self.short(tag)
        if value is None:
            raise ValueError("an element is missing")
        return value

    def floats(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers, None where there is no value."""
        text = self.text(tag)
        if not text:
            return None
        values = tuple(float(part) for part in text.split("\\"))
        if len(values) != count or not all(math.isfinite(value) and abs(value) < 1e9 for value in values):
            raise ValueError("not the numbers that belong there")
        return values

    def doubles(self, tag: int) -> tuple[float, ...]:
        raw = self._raw(tag)
        return struct.unpack_from(f"{self._order}{len(raw) // 8}d", raw)

    def items(self, tag: int) -> "list[_Header]":
        """The items of a sequence."""
        if tag not in self._values:
            return []
        value = self._dataset[tag].value
        if not isinstance(value, pydicom.Sequence):
            raise ValueError("no sequence")  # noqa: TRY004  # what the file says, not what a caller does
        return [_Header(item, little=self._order == "<") for item in value]

    def _raw(self, tag: int) -> bytes:
        value: Any = self._values.get(tag)
        return value if isinstance(value, bytes) else b""


@dataclass(frozen=True)
class _Image:
    entry: Entry
    syntax: str
    offset: int
    length: int | None
    deflated_at: int | None


def _check_kind(header: _Header) -> None:
    """Raises DroppedError for what is no CT image."""
    sop_class = header.text(0x00080016)
    if sop_class.startswith(_SECONDARY_CAPTURE):
        raise DroppedError("a screenshot (secondary capture)")
    if header.text(0x00080060) != "CT" or sop_class not in _IMAGES:
        raise DroppedError("not a CT image")
    kind = [value.upper() for value in header.texts(0x00080008)]
    if "LOCALIZER" in kind[2:]:
        raise DroppedError("a localizer")
    if any(_SCREEN.search(value) for value in kind):
        raise DroppedError("a dose report")
    if header.short(0x00280002) != 1:
        raise DroppedError("a colour image")


def _images(header: _Header, image: _Image, limits: StudyLimits) -> Iterator[Slice]:
    rows, columns = header.need_short(0x00280010), header.need_short(0x00280011)
    if not 1 < rows <= limits.max_matrix or not 1 < columns <= limits.max_matrix:
        raise RefusedError(
            413,
            "image_too_large",
            f"file {image.entry.number} of the upload has images of {rows} x {columns} pixels, at least 2 x 2 and at most "
            f"{limits.max_matrix} x {limits.max_matrix} are read (MAX_MATRIX)",
        )
    frames = int(header.text(0x00280008) or 1)
    if not 1 <= frames <= limits.max_files:
        raise RefusedError(
            413,
            "too_many_files",
            f"file {image.entry.number} of the upload has {frames} frames, at least 1 and at most {limits.max_files} are read "
            "(MAX_FILES)",
        )
    groups = header.items(0x52009230)
    if groups and len(groups) != frames:
        raise ValueError("frames without a description")
    if frames > 1 and not groups:
        raise DroppedError("a multi-frame image without positions")
    shared = header.items(0x52009229)
    for frame in range(frames):
        levels = [header, *shared[:1], *groups[frame : frame + 1]]
        found = _slice(levels, image, (rows, columns), frame, frames)
        if found is not None:
            yield found


# The sequences of a functional group that hold what a plain image has at its top (PS3.3, C.7.6.16).
_IN_GROUP = {
    0x00200032: 0x00209113,
    0x00200037: 0x00209116,
    0x00280030: 0x00289110,
    0x00281052: 0x00289145,
    0x00281053: 0x00289145,
    0x00281054: 0x00289145,
    0x00280120: 0x00289145,
    0x00181210: 0x00189314,
    0x00080008: 0x00189329,
    0x00209241: 0x00189118,
    0x00209128: 0x00209111,
    0x00209056: 0x00209111,
}


def _level(levels: list[_Header], tag: int) -> _Header:
    """Where an attribute of a frame stands: its own group, the shared one, or the data set."""
    for group in reversed(levels[1:]):
        for item in group.items(_IN_GROUP[tag])[:1]:
            if item.text(0x00089007 if tag == 0x00080008 else tag):
                return item
    return levels[0]


def _check_unit(kind: str) -> None:
    """Raises DroppedError for images of something else, such as atomic numbers or densities of a dual-energy scan."""
    if kind.strip().upper() not in _HOUNSFIELD:
        raise DroppedError("values that are not Hounsfield units (RescaleType)")


def _slice(levels: list[_Header], image: _Image, matrix: tuple[int, int], frame: int, frames: int) -> Slice | None:
    """One frame; None for a localizer. Its attributes stand in the first of `levels`, or in those after it."""
    header = levels[0]
    at = _level(levels, 0x00080008)
    kind = [value.upper() for value in at.texts(0x00080008 if at is header else 0x00089007)]
    if "LOCALIZER" in kind[2:]:
        return None
    allocated, stored = header.need_short(0x00280100), header.need_short(0x00280101)
    high_bit = header.short(0x00280102)
    high_bit = stored - 1 if high_bit is None else high_bit
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise ValueError("no layout of bits")
    signed = header.need_short(0x00280103) == 1
    slope = _level(levels, 0x00281053).floats(0x00281053, 1)
    intercept = _level(levels, 0x00281052).floats(0x00281052, 1)
    if slope is not None and slope[0] <= 0:
        raise ValueError("a slope that is not above 0")
    _check_unit(_level(levels, 0x00281054).text(0x00281054))
    return Slice(
        entry=image.entry,
        frame=frame,
        frames=frames,
        pixel_offset=image.offset,
        pixel_length=image.length,
        syntax=image.syntax,
        deflated_at=image.deflated_at,
        study=header.text(0x0020000D),
        series=header.text(0x0020000E),
        frame_of_reference=header.text(0x00200052),
        rows=matrix[0],
        columns=matrix[1],
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=signed,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        rescaled=slope is not None and intercept is not None,
        padding=_padding(header, signed=signed, bits=min(allocated, 16)),
        position=_level(levels, 0x00200032).floats(0x00200032, 3),  # type: ignore[arg-type]  # as long as asked for
        orientation=_level(levels, 0x00200037).floats(0x00200037, 6),  # type: ignore[arg-type]
        spacing=_spacing(_level(levels, 0x00280030)),
        derived=kind[:2] == ["DERIVED", "SECONDARY"],
        kernel=_kernel(_level(levels, 0x00181210)),
        phase=_phase(header, levels),
        acquisition=header.text(0x00200012),
        body_part=_body_part(levels),
        lossy=header.text(0x00282110) == "01",
    )


def _body_part(levels: list[_Header]) -> str:
    """By the frame's anatomic region, else the image's, else BodyPartExamined."""
    anatomies = [item for group in reversed(levels[1:]) for item in group.items(0x00209071)]
    regions = [region for level in (*anatomies, levels[0]) for region in level.items(0x00082218)]
    return body_parts.named([*(region.text(0x00080100) for region in regions), levels[0].text(0x00180015)])


def _spacing(header: _Header) -> tuple[float, float] | None:
    found = header.floats(0x00280030, 2)
    if found is None:
        return None
    if not all(0.01 <= value <= 100 for value in found):
        raise ValueError("no spacing of pixels")
    return found[0], found[1]


def _padding(header: _Header, *, signed: bool, bits: int) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3, C.7.5.1.1.2), signed as the samples are."""
    value, limit = header.short(0x00280120), header.short(0x00280121)
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if signed:
        ends = [end - (1 << bits) if end >= 1 << (bits - 1) else end for end in ends]
    return min(ends), max(ends)


def _kernel(header: _Header) -> Kernel:
    name = header.text(0x00181210).upper()
    if any(kernel in name for kernel in _LUNG_KERNELS):
        return "lung"
    return "standard" if any(kernel in name for kernel in _STANDARD_KERNELS) else "other"


def _phase(header: _Header, levels: list[_Header]) -> tuple[str, ...]:
    """What tells phases of one series apart: temporal position, trigger time, heart phase, stack."""
    in_groups = (0x00209241, 0x00209128, 0x00209056) if len(levels) > 1 else ()
    found = [header.text(0x00200100), header.text(0x00181060)]
    return (*found, *(_level(levels, tag).text(tag) for tag in in_groups))


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").strip(" \0\r\n\t")
