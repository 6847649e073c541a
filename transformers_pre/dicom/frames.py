"""Frames out of the pixel data: by position where they are native, by fragments and a codec where they are encapsulated.

Runs in a worker process. The codecs are imagecodecs', each loaded at its first image. Not here: what samples mean.
"""

import struct
from collections.abc import Callable
from typing import Final

import imagecodecs
import numpy as np

from serving.workers.wire import RefusedError
from transformers_pre.dicom.pixels import Samples
from transformers_pre.dicom.records import Slice
from transformers_pre.dicom.syntaxes import BIG_ENDIAN, ENCAPSULATED, NATIVE

_MAX_ITEMS: Final = 1 << 17
"""Most fragments of a file; encoders make one a frame, or one in 64 KiB."""

Read = Callable[[int, int], bytes]
"""Bytes of the file: offset, length; fewer at its end."""


def _rle(data: bytes, image: Slice) -> Samples:
    kind = np.dtype(f"<u{image.allocated // 8}")
    return np.frombuffer(imagecodecs.dicomrle_decode(data, kind), kind)


def _jpeg_lossless(data: bytes, _image: Slice) -> Samples:
    return np.asarray(imagecodecs.ljpeg_decode(data))


def _jpeg_ls(data: bytes, _image: Slice) -> Samples:
    return np.asarray(imagecodecs.jpegls_decode(data))


def _jpeg_2000(data: bytes, _image: Slice) -> Samples:
    return np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))


def _htj2k(data: bytes, _image: Slice) -> Samples:
    return np.asarray(imagecodecs.htj2k_decode(data))


_CODECS: Final[dict[str, Callable[[bytes, Slice], Samples]]] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.4.57": _jpeg_lossless,
    "1.2.840.10008.1.2.4.70": _jpeg_lossless,
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.81": _jpeg_ls,
    "1.2.840.10008.1.2.4.90": _jpeg_2000,
    "1.2.840.10008.1.2.4.91": _jpeg_2000,
    "1.2.840.10008.1.2.4.201": _htj2k,
    "1.2.840.10008.1.2.4.202": _htj2k,
    "1.2.840.10008.1.2.4.203": _htj2k,
}


class FrameError(Exception):
    """A frame that cannot be read; the text says what is wrong with it."""


class Frames:
    """The frames of one file's pixel data.

    Args:
        read: the file.
        image: any of its frames.
    """

    def __init__(self, read: Read, image: Slice):
        self._read = read
        self._fragments = None if image.syntax in NATIVE else _frames_by_fragments(read, image)

    def samples(self, image: Slice) -> Samples:
        """The frame's cells [rows, columns] as they are stored, all bits of them. Raises FrameError."""
        if self._fragments is None:
            return self._native(image)
        data = b"".join(self._read(start, size) for start, size in self._fragments[image.frame])
        try:
            found = _CODECS[image.syntax](data, image)
        except MemoryError:
            raise
        except (
            ValueError,
            RuntimeError,
            IndexError,
            TypeError,
            OverflowError,
        ):  # imagecodecs' errors are RuntimeErrors
            raise FrameError(f"its {ENCAPSULATED[image.syntax]} data cannot be decoded") from None
        if found.size != image.rows * image.columns or found.dtype.kind not in "iu":
            raise FrameError("its compressed data does not have the size that its header says")
        width = max(found.dtype.itemsize, image.allocated // 8)
        return found.reshape(image.rows, image.columns).astype(f"i{width}" if image.signed else f"u{width}", copy=False)

    def _native(self, image: Slice) -> Samples:
        size = image.rows * image.columns * image.allocated // 8
        start = image.frame * size
        if image.pixel_length is not None and start + size > image.pixel_length:
            raise FrameError("its pixel data is shorter than its size says")
        data = self._read(image.pixel_offset + start, size)
        if len(data) < size:
            raise FrameError("it is cut off within its pixel data")
        order = ">" if image.syntax == BIG_ENDIAN else "<"
        kind = f"{order}{'i' if image.signed else 'u'}{image.allocated // 8}"
        return np.frombuffer(data, kind).reshape(image.rows, image.columns)


def _frames_by_fragments(read: Read, image: Slice) -> list[list[tuple[int, int]]]:
    """Offset and length of each fragment of each frame (PS3.5, A.4). Raises FrameError."""
    items = _items(read, image.pixel_offset)
    table, fragments = items[0], items[1:]
    if image.frames == 1:
        return [fragments]
    if len(fragments) == image.frames:
        return [[fragment] for fragment in fragments]
    if table[1] != 4 * image.frames:
        raise FrameError("its fragments cannot be told apart: their offset table is missing")
    base = fragments[0][0] - 8 if fragments else 0
    starts = [base + 8 + offset for offset in struct.unpack(f"<{image.frames}L", read(*table))]
    frames: list[list[tuple[int, int]]] = [[] for _ in starts]
    at = -1
    for fragment in fragments:
        while at + 1 < len(starts) and starts[at + 1] <= fragment[0]:
            at += 1
        frames[max(at, 0)].append(fragment)
    if not all(frames):
        raise FrameError("its fragments cannot be told apart: their offset table is wrong")
    return frames


def _items(read: Read, at: int) -> list[tuple[int, int]]:
    """Offset and length of each item's value, the offset table first. Raises FrameError."""
    found = []
    while True:
        head = read(at, 8)
        if len(head) < 8 or head[:4] not in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"):
            raise FrameError("it is cut off within its pixel data, or that is damaged")
        (length,) = struct.unpack_from("<L", head, 4)
        if head[:4] == b"\xfe\xff\xdd\xe0":
            break
        found.append((at + 8, length))
        if len(found) > _MAX_ITEMS:
            raise FrameError(f"its compressed data is in more than {_MAX_ITEMS} pieces")
        at += 8 + length
    if len(found) < 2:
        raise FrameError("it has no pixel data")
    return found


def refuse_frame(image: Slice, problem: str) -> RefusedError:
    """The refusal of a volume for one of its images."""
    frame = f", frame {image.frame + 1}" if image.frames > 1 else ""
    return RefusedError(
        422,
        "damaged_image",
        f"an image of the series (file {image.entry.number} of the upload{frame}) is damaged: {problem}",
    )
