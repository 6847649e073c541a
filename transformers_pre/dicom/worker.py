"""A worker process of the study reader: `python -m transformers_pre.dicom.worker`, jobs and answers on its standard input.

Jobs: unpack (what has to be decompressed whole), check_crc (of what is read by position), scan (headers of a share of the
files), digest (are images the same), render (planes of the volume). Nothing here trusts the upload; what it does to this process,
`reader.StudyReader` is told. What comes of a file is said by its number in the upload: neither its name nor anything in it that
may name somebody is ever written.
"""

import hashlib
import json
import logging
import mmap
import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pydicom.config
from isal import igzip_lib

from serving.workers import child
from serving.workers.wire import RefusedError
from transformers_pre.dicom import archive, header
from transformers_pre.dicom.archive import Upload
from transformers_pre.dicom.frames import FrameError, Frames, Read, refuse_frame
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.pixels import Plane, hounsfield
from transformers_pre.dicom.records import DONE, SLICES, Entry, Found, Slice, slice_from_json, slice_to_json
from transformers_pre.dicom.syntaxes import DEFLATED
from transformers_pre.dicom.volume import Renderer

_MESSAGE_BYTES = 1 << 19  # a message of slices is sent when it has grown to about this

_FRAMES = 16  # innermost ones, of which an endless recursion has a thousand


def main() -> None:
    """Entry point: `python -m transformers_pre.dicom.worker PARENT MEMORY_BYTES`, a socket as standard input."""
    warnings.simplefilter("ignore")  # pydicom's quote values
    logging.disable()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    child.serve(answer, out_of_memory="the images take too much memory to decode")


def answer(job: Any, descriptors: list[int], send: child.Send) -> None:
    """Does a job. Raises RefusedError."""
    work = {
        "unpack_gzip": _unpack_gzip,
        "unpack": _unpack,
        "check_crc": _check_crc,
        "scan": _scan,
        "digest": _digest,
        "render": _render,
    }[job["job"]]
    try:
        outcome = work(job, descriptors, send)
    except (RefusedError, MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # the message may quote the file, so only where it happened is written
        places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__, -_FRAMES)))
        sys.stderr.write(f"a study cannot be read: {type(error).__name__}\n{places}")
        raise RefusedError(422, "unreadable_study", "the upload cannot be read: it is damaged", fatal=True) from None
    send(DONE, json.dumps(outcome).encode())


def _unpack_gzip(job: Any, descriptors: list[int], _send: child.Send) -> int:
    upload = Upload(descriptors[0])
    return archive.unpack_gzip(upload, descriptors[1], StudyLimits(**job["limits"]))


def _unpack(job: Any, descriptors: list[int], _send: child.Send) -> None:
    upload = Upload(descriptors[0], descriptors[1])
    archive.unpack(upload, Entry(**job["entry"]), descriptors[1])


def _check_crc(job: Any, descriptors: list[int], _send: child.Send) -> None:
    archive.check_crc(Upload(descriptors[0], descriptors[1]), Entry(**job["entry"]))


# --- scan ---


def _scan(job: Any, descriptors: list[int], send: child.Send) -> Found:
    upload = Upload(descriptors[0], descriptors[1] if len(descriptors) > 1 else None)
    limits = StudyLimits(**job["source"]["limits"])
    entries = archive.entries(upload, job["source"])
    messages, deflated = _Messages(send), _Deflated(limits)
    dropped: dict[str, int] = {}
    for entry in entries[job["share"] :: job["shares"]]:
        try:
            messages.add(_slices(upload, entry, limits, deflated))
        except header.DroppedError as error:
            dropped[str(error)] = dropped.get(str(error), 0) + 1
    messages.flush()
    return Found(files=len(entries), dropped=dropped)


class _Messages:
    def __init__(self, send: child.Send):
        self._send = send
        self._parts: list[str] = []
        self._size = 0

    def add(self, slices: Iterable[Slice]) -> None:
        for found in slices:
            part = json.dumps(slice_to_json(found))
            self._parts.append(part)
            self._size += len(part)
            if self._size > _MESSAGE_BYTES:
                self.flush()

    def flush(self) -> None:
        if self._parts:
            self._send(SLICES, f"[{','.join(self._parts)}]".encode())
        self._parts, self._size = [], 0


class _Deflated:
    """Counts what the deflated data sets of a share's files become: an archive's directory does not say it."""

    def __init__(self, limits: StudyLimits):
        self._limits = limits
        self._total = 0

    def add(self, size: int, stored: int) -> None:
        """Raises RefusedError for one that is a bomb, or all of them together."""
        archive.check_ratio(size, stored, self._limits)
        self._total += size
        archive.check_total(self._total, self._limits)


def _slices(upload: Upload, entry: Entry, limits: StudyLimits, deflated: _Deflated) -> list[Slice]:
    """The images of a file, out of as much of it as its header takes. Raises DroppedError, RefusedError."""
    head = bytearray()
    wanted = 1  # bytes to have before the next try
    for piece in upload.inflated(entry):
        head += piece
        if len(head) < min(wanted, entry.size):
            continue
        try:
            return _try_slices(upload, entry, bytes(head), limits, deflated)
        except header.MoreError:
            wanted = 2 * len(head)
            if len(head) > limits.max_header_bytes:
                raise header.DroppedError(
                    f"more than {limits.max_header_bytes} bytes before its pixel data (MAX_HEADER_BYTES)"
                ) from None
    raise header.DroppedError("no pixel data" if len(head) > header.PREAMBLE_BYTES else "not a DICOM file")


def _try_slices(upload: Upload, entry: Entry, head: bytes, limits: StudyLimits, deflated: _Deflated) -> list[Slice]:
    if len(head) < min(entry.size, 512):
        raise header.MoreError
    syntax, sop_class, start = header.transfer_syntax(head)
    if sop_class == header.DICOMDIR:
        raise header.DroppedError("a DICOMDIR")
    deflated_at = None
    if syntax == DEFLATED:
        head, start, deflated_at = _inflated_dataset(upload, entry, start, limits), 0, start
        deflated.add(len(head), entry.size)
    try:
        return header.slices(entry, head, syntax, start, deflated_at=deflated_at, limits=limits)
    except header.MoreError:
        if deflated_at is not None:  # it is there as a whole
            raise header.DroppedError("no pixel data") from None
        raise
    except (header.DroppedError, RefusedError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  # pydicom raises anything on a damaged data set
        raise header.DroppedError("a damaged header") from None


def _inflated_dataset(upload: Upload, entry: Entry, start: int, limits: StudyLimits) -> bytes:
    """The data set of a deflated file, whole. Raises RefusedError."""
    _check_in_memory(entry, limits)
    stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
    try:
        data: bytes = stream.decompress(upload.whole(entry)[start:], limits.max_whole_bytes)
    except (igzip_lib.error, EOFError):
        raise header.DroppedError("a damaged header") from None
    if not stream.eof and len(data) >= limits.max_whole_bytes:
        raise _too_large_to_hold(entry, limits)
    return data


def _check_in_memory(entry: Entry, limits: StudyLimits) -> None:
    if entry.size > limits.max_whole_bytes:
        raise _too_large_to_hold(entry, limits)


def _too_large_to_hold(entry: Entry, limits: StudyLimits) -> RefusedError:
    return RefusedError(
        413,
        "file_too_large",
        f"file {entry.number} of the upload has more than {limits.max_whole_bytes} bytes that are read at once "
        "(MAX_WHOLE_BYTES); larger files have to be multi-frame ones, their frames not compressed together",
    )


# --- pixels ---


class _Images:
    """Reads images, the last file's bytes kept for its next frame."""

    def __init__(self, upload: Upload, limits: StudyLimits):
        self._upload = upload
        self._limits = limits
        self._number = -1
        self._frames: Frames | None = None

    def load(self, image: Slice, out: Plane) -> None:
        """Writes HU / 1000 into `out`. Raises RefusedError."""
        try:
            if image.entry.number != self._number or self._frames is None:
                self._frames = Frames(self._reader(image), image)
                self._number = image.entry.number
            hounsfield(self._frames.samples(image), image, out)
        except FrameError as error:
            raise refuse_frame(image, str(error)) from None

    def _reader(self, image: Slice) -> Read:
        entry = image.entry
        if image.deflated_at is not None:
            data = _inflated_dataset(self._upload, entry, image.deflated_at, self._limits)
        elif image.frames > 1 and not entry.deflated:
            return lambda start, size: self._upload.at(
                entry.start + start, max(0, min(size, entry.size - start)), scratch=entry.scratch
            )
        else:
            _check_in_memory(entry, self._limits)
            data = self._upload.whole(entry)
        view = memoryview(data)
        return lambda start, size: view[start : start + size]  # type: ignore[return-value]  # as good as bytes


def _images(images: Any, limits: Any, descriptors: list[int]) -> tuple[list[Slice], _Images]:
    slices = [slice_from_json(fields) for fields in images]
    upload = Upload(descriptors[0], descriptors[1] if len(descriptors) > 1 else None)
    return slices, _Images(upload, StudyLimits(**limits))


def _digest(job: Any, descriptors: list[int], _send: child.Send) -> list[str]:
    """A hash of what each image shows."""
    slices, images = _images(job["slices"], job["limits"], descriptors)
    found = []
    for image in slices:
        plane = np.empty((image.rows, image.columns), np.float32)
        images.load(image, plane)
        found.append(hashlib.sha256(plane.tobytes()).hexdigest())
    return found


def _render(job: Any, descriptors: list[int], _send: child.Send) -> None:
    """Planes [begin, end) of the volume, in the memory that came along last."""
    slices, images = _images(job["plan"]["slices"], job["limits"], descriptors[:-1])
    first, shape = slices[0], tuple(job["plan"]["shape"])
    memory = mmap.mmap(descriptors[-1], os.fstat(descriptors[-1]).st_size)  # goes with the array
    volume = np.frombuffer(memory, np.float32).reshape(shape)
    renderer = Renderer(job["plan"], first.rows, first.columns, lambda number, out: images.load(slices[number], out))
    renderer.render(volume, job["begin"], job["end"])


if __name__ == "__main__":
    main()
