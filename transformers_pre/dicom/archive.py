"""The files of an upload: ZIP, tar, several files or one, listed and read by position, under limits, never extracted.

Runs in a worker process. A ZIP is read by its central directory, and believed only where the local headers agree; no byte
belongs to two files, nothing is decompressed further than its directory says, and names play no part. gzip is taken off first,
into the scratch file. Not here: what the files are.
"""

import os
import struct
import tarfile
from collections.abc import Iterator
from typing import Any, Final

from isal import igzip_lib, isal_zlib

from serving.workers.wire import RefusedError
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.records import Entry, Source

ACCEPTED: Final = (
    "accepted are a ZIP (stored or deflated, not encrypted), a tar or tar.gz of DICOM files, DICOM files themselves, and one "
    "multi-frame DICOM file"
)

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x2041  # bits 0 (encrypted), 6 (strongly), 13 (its directory too)
_STORED, _DEFLATED = 0, 8
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_TAR_HEADER_BYTES = 1 << 14  # names and the like of one member
_PIECE = 1 << 18
_FIRST_PIECE = 1 << 14  # headers are small, and so may joined gzip files be
_SMALL = 1 << 20  # a ratio says nothing about an archive that stays below this


class Upload:
    """The bytes of an upload, and the scratch file that holds what had to be decompressed whole."""

    def __init__(self, descriptor: int, scratch: int | None = None):
        self._descriptor = descriptor
        self._scratch = scratch
        self.size = os.fstat(descriptor).st_size

    def at(self, position: int, size: int, *, scratch: bool = False) -> bytes:
        """At most `size` bytes from `position`."""
        descriptor = self._scratch if scratch else self._descriptor
        if descriptor is None:
            raise ValueError("there is no scratch file")
        return os.pread(descriptor, size, position)

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """The file's bytes as they are stored, piece by piece."""
        position, end = entry.start, entry.start + entry.stored
        piece = _FIRST_PIECE
        while position < end:
            data = self.at(position, min(piece, end - position), scratch=entry.scratch)
            if not data:
                raise _damaged("it ends within a file")
            position += len(data)
            piece = _PIECE
            yield data

    def inflated(self, entry: Entry) -> Iterator[bytes]:
        """The file's bytes, decompressed, piece by piece; `entry.size` at most. Raises RefusedError."""
        if not entry.deflated:
            yield from self.pieces(entry)
            return
        stream = isal_zlib.decompressobj(-15)
        left = entry.size
        for compressed in self.pieces(entry):
            data = compressed
            while data and not stream.eof:
                try:
                    out = stream.decompress(data, min(_PIECE, left + 1))
                except isal_zlib.error:
                    raise _damaged(f"file {entry.number} cannot be decompressed") from None
                left -= len(out)
                if left < 0:
                    raise _damaged(f"file {entry.number} is larger than its directory says")
                yield out
                data = stream.unconsumed_tail
            if stream.eof:
                break
        if left or not stream.eof:
            raise _damaged(f"file {entry.number} is smaller than its directory says")

    def checked(self, entry: Entry) -> Iterator[bytes]:
        """As `inflated`, its checksum right. Raises RefusedError, for a wrong checksum behind the last piece."""
        crc = 0
        for piece in self.inflated(entry):
            crc = isal_zlib.crc32(piece, crc)
            yield piece
        _check_crc(entry, crc)

    def whole(self, entry: Entry) -> bytes:
        """All bytes of a file, its checksum right. Raises RefusedError."""
        stored = self.at(entry.start, entry.stored, scratch=entry.scratch)
        data = _inflated(stored, entry) if entry.deflated else stored
        if len(data) != entry.size:
            raise _damaged(f"file {entry.number} does not have the size that its directory says")
        if entry.crc is not None:
            _check_crc(entry, isal_zlib.crc32(data))
        return data


def _check_crc(entry: Entry, crc: int) -> None:
    if entry.crc is not None and crc != entry.crc:
        raise _damaged(f"file {entry.number} does not have the checksum that its directory says")


def _inflated(stored: bytes, entry: Entry) -> bytes:
    stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
    try:
        data: bytes = stream.decompress(stored, entry.size + 1)
        if not stream.eof and len(data) == entry.size:  # the end of the stream may still be unread
            data += stream.decompress(b"", 1)
    except (igzip_lib.error, EOFError):
        raise _damaged(f"file {entry.number} cannot be decompressed") from None
    if not stream.eof:
        raise _damaged(f"file {entry.number} does not have the size that its directory says")
    return data


def entries(upload: Upload, source: Source) -> list[Entry]:
    """The files of an upload, in its order. Raises RefusedError for what is no archive, lies, or is over a limit."""
    limits = StudyLimits(**source["limits"])
    if source["kind"] == "zip":
        found = _zip_entries(upload, limits)
    elif source["kind"] == "tar":
        found = _tar_entries(upload, limits, scratch=source["scratch"])
    else:
        found = [
            Entry(number, start, size, size, scratch=source["scratch"])
            for number, (start, size) in enumerate(source["parts"], 1)
        ]
    check(found, limits)
    return found


def check(found: list[Entry], limits: StudyLimits) -> None:
    """Raises RefusedError for files that are over a limit by what their directory says; reading holds them to it."""
    if len(found) > limits.max_files:
        raise _too_many_files(limits)
    largest = max((entry.size for entry in found), default=0)
    if largest > limits.max_file_bytes:
        raise _too_large(f"a file in it has {largest} bytes, at most {limits.max_file_bytes} are read (MAX_FILE_BYTES)")
    total, stored = sum(entry.size for entry in found), sum(entry.stored for entry in found)
    check_total(total, limits)
    check_ratio(total, stored, limits)


def check_total(total: int, limits: StudyLimits) -> None:
    """Raises RefusedError for more bytes, decompressed, than are read."""
    if total > limits.max_inflated_bytes:
        raise _too_large(
            f"its files have {total} bytes, decompressed, at most {limits.max_inflated_bytes} are read (MAX_INFLATED_BYTES)"
        )


def check_ratio(total: int, stored: int, limits: StudyLimits) -> None:
    """Raises RefusedError for bytes that were compressed more than images can be."""
    if total > max(_SMALL, limits.max_ratio * stored):
        raise _too_large(
            f"it is compressed to less than a {limits.max_ratio}th, the limit here (MAX_COMPRESSION_RATIO): no images are"
        )


def unpack_gzip(upload: Upload, scratch: int, limits: StudyLimits) -> int:
    """Decompresses a gzip upload into the scratch file; its bytes. Raises RefusedError."""
    total = position = 0
    while position < upload.size:  # gzip files may be joined
        stream = isal_zlib.decompressobj(31)
        piece = _FIRST_PIECE
        while not stream.eof:
            data = upload.at(position, piece)
            piece = _PIECE
            if not data:
                raise _damaged("it ends within the gzip stream")
            position += len(data)
            while data and not stream.eof:
                try:
                    out = stream.decompress(data, _PIECE)
                except isal_zlib.error:
                    raise _damaged("its gzip stream cannot be decompressed") from None
                total += len(out)
                if total > limits.max_inflated_bytes:
                    raise _too_large(
                        f"it has more than {limits.max_inflated_bytes} bytes, decompressed, the limit here (MAX_INFLATED_BYTES)"
                    )
                check_ratio(total, position, limits)
                _write(scratch, out)
                data = stream.unconsumed_tail
        position -= len(stream.unused_data)
        rest = upload.at(position, 2)
        if rest != b"\x1f\x8b":  # padding behind the last stream
            break
    return total


def unpack(upload: Upload, entry: Entry, scratch: int) -> None:
    """Decompresses one file to the scratch file's end, so that its frames can be read by position. Raises RefusedError."""
    for piece in upload.checked(entry):
        _write(scratch, piece)


def check_crc(upload: Upload, entry: Entry) -> None:
    """Reads one file once, piece by piece, before its frames are read by position. Raises RefusedError for a wrong checksum."""
    for _ in upload.checked(entry):
        pass


def _write(scratch: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(scratch, view) :]


# --- ZIP (PKWARE's APPNOTE 6.3.10) ---


def _zip_entries(upload: Upload, limits: StudyLimits) -> list[Entry]:
    start, size, count = _zip_directory(upload)
    if count > 2 * limits.max_files:  # folders have entries too
        raise _too_many_files(limits)
    if size > _MAX_DIRECTORY_BYTES:
        raise _too_large(f"its directory has {size} bytes, at most {_MAX_DIRECTORY_BYTES} are read")
    directory = upload.at(start, size)
    found: list[Entry] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for _ in range(count):
        if len(directory) < at + _CENTRAL.size or directory[at : at + 4] != b"PK\x01\x02":
            raise _damaged("its directory is cut off or damaged")
        fields = _CENTRAL.unpack_from(directory, at)
        name_size, extra_size, comment_size = fields[10:13]
        name = directory[at + _CENTRAL.size : at + _CENTRAL.size + name_size]
        extra = directory[at + _CENTRAL.size + name_size : at + _CENTRAL.size + name_size + extra_size]
        at += _CENTRAL.size + name_size + extra_size + comment_size
        entry, header = _zip_entry(upload, fields, extra, len(found) + 1)
        spans.append((header, entry.start + entry.stored))
        if not name.endswith(b"/") and not name.startswith(b"__MACOSX/"):
            found.append(entry)
    spans.sort()
    ends = [start, *(header for header, _ in reversed(spans))]
    if any(end > limit for (_, end), limit in zip(reversed(spans), ends, strict=False)):
        raise _damaged("its files overlap")
    return found


def _zip_directory(upload: Upload) -> tuple[int, int, int]:
    """Where the central directory begins, its bytes, its entries."""
    tail_start = max(0, upload.size - _EOCD.size - 0xFFFF)
    tail = upload.at(tail_start, upload.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _EOCD.size:
        raise _damaged("it is cut off: a ZIP ends with its directory")
    _, disk, _, _, count, size, start, _ = _EOCD.unpack_from(tail, at)
    end = tail_start + at
    if 0xFFFF in (disk, count) or 0xFFFF_FFFF in (size, start):
        locator = upload.at(end - _EOCD64_LOCATOR.size, _EOCD64_LOCATOR.size) if end >= _EOCD64_LOCATOR.size else b""
        if locator[:4] == b"PK\x06\x07":
            end = _EOCD64_LOCATOR.unpack(locator)[2]
            record = upload.at(end, _EOCD64.size) if end < upload.size else b""
            if len(record) < _EOCD64.size or record[:4] != b"PK\x06\x06":
                raise _damaged("its directory is cut off or damaged")
            count, size, start = _EOCD64.unpack(record)[7:]
    if start + size > end:
        raise _damaged("its directory lies outside of it")
    return end - size, size, count


def _zip_entry(upload: Upload, fields: tuple[Any, ...], extra: bytes, number: int) -> tuple[Entry, int]:
    """An entry, and the offset of its local header, out of the fields of the central directory."""
    flags, method, crc, stored, size, header = fields[3], fields[4], *fields[7:10], fields[16]
    if flags & _ENCRYPTED:
        raise RefusedError(400, "encrypted_archive", f"the archive is encrypted; {ACCEPTED}")
    stored, size, header = _zip64(extra, stored, size, header)
    local = upload.at(header, _LOCAL.size) if header < upload.size else b""
    if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
        raise _damaged(f"file {number} is not where its directory says")
    _, _, local_flags, local_method, *_, name_size, extra_size = _LOCAL.unpack(local)
    if local_method != method or local_flags & _ENCRYPTED:
        raise _damaged(f"the headers of file {number} contradict each other")
    if method not in (_STORED, _DEFLATED):
        raise RefusedError(400, "unsupported_compression", f"the archive is compressed by method {method}; {ACCEPTED}")
    start = header + _LOCAL.size + name_size + extra_size
    if start + stored > upload.size or (method == _STORED and stored != size):
        raise _damaged(f"the sizes of file {number} contradict each other")
    return Entry(number, start, stored, size, crc, deflated=method == _DEFLATED), header


def _zip64(extra: bytes, stored: int, size: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset with those that do not fit 32 bits taken from the extra field 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            size, stored, header = (
                next(values, value) if value == 0xFFFF_FFFF else value for value in (size, stored, header)
            )
            break
        at += 4 + length
    return stored, size, header


# --- tar ---


class _Reader:
    """A file for `tarfile` over an upload: for headers, whose size `tarfile` believes."""

    def __init__(self, upload: Upload, *, scratch: bool):
        self._upload = upload
        self._scratch = scratch
        self._position = 0

    def read(self, size: int) -> bytes:
        if size > _MAX_TAR_HEADER_BYTES:
            raise ValueError("a header that is none")
        data = self._upload.at(self._position, size, scratch=self._scratch)
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise ValueError("only from the start")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


def _tar_entries(upload: Upload, limits: StudyLimits, *, scratch: bool) -> list[Entry]:
    found: list[Entry] = []
    try:
        with tarfile.open(fileobj=_Reader(upload, scratch=scratch), mode="r:") as archive:  # type: ignore[call-overload]
            for members, member in enumerate(archive):
                if members >= 2 * limits.max_files:
                    raise _too_many_files(limits)
                if member.isreg() and not member.issparse():
                    found.append(Entry(len(found) + 1, member.offset_data, member.size, member.size, scratch=scratch))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):  # the last one for headers of headers
        raise _damaged("its tar headers are damaged or cut off") from None
    return found


def _damaged(what: str) -> RefusedError:
    return RefusedError(400, "damaged_archive", f"the upload is damaged: {what}; {ACCEPTED}")


def _too_large(what: str) -> RefusedError:
    return RefusedError(413, "archive_too_large", f"the upload is too large: {what}")


def _too_many_files(limits: StudyLimits) -> RefusedError:
    return RefusedError(
        413, "too_many_files", f"the upload has more than {limits.max_files} files, the limit here (MAX_FILES)"
    )
