"""A client's file on its way to what reads it: spooled to a file without a name, under a limit, in bounded memory.

Uploads, links and the bytes inside a V1 or V2 request all come through here. The file is unlinked from the start and goes
with its last descriptor: a process that is killed leaves nothing in the pod's `/tmp`, which outlives it.
"""

import contextlib
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Self

from serving.errors import InvalidInput, TooLarge
from serving.threads import in_thread

WRITE_BYTES = 1 << 20
"""So much is gathered before one write to disk."""


class Spool:
    """Takes a file's bytes in, `finish` gives the file. Leaving the context before that frees it.

    Args:
        max_bytes: the largest file, MAX_UPLOAD_BYTES.
        param: the request's field that holds the file, for refusals.
    """

    def __init__(self, max_bytes: int, param: str | None = None):
        self.size = 0
        """Bytes of the file so far."""
        self._max_bytes = max_bytes
        self._param = param
        self._unwritten = bytearray()
        self._on_failure = contextlib.ExitStack()
        self._file: BinaryIO = self._on_failure.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack's

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_failure.close()

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes; `drain` follows soon. Raises TooLarge when there are more than the limit."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise too_large(self._max_bytes, self._param)
        self._unwritten += data

    async def drain(self) -> None:
        """Moves what was added to disk once it is worth a write, in a thread: disks may be slow."""
        if len(self._unwritten) >= WRITE_BYTES:
            await in_thread(self._write)

    async def fill(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Takes pieces of at most about a megabyte, each made and written in a thread. Raises TooLarge, and as they do."""
        await in_thread(self._fill, pieces)

    async def finish(self) -> BinaryIO:
        """The whole file, at least one byte; the caller closes it. Raises InvalidInput without any."""
        if not self.size:
            raise InvalidInput("the file is empty: it has 0 bytes", code="empty_file", param=self._param)
        await in_thread(self._complete)
        self._on_failure.pop_all()
        return self._file

    def _fill(self, pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            self.add(piece)
            self._write()

    def _write(self) -> None:
        self._file.write(self._unwritten)
        self._unwritten.clear()

    def _complete(self) -> None:
        self._write()
        self._file.flush()  # readers use the descriptor, past Python's buffer


def too_large(max_bytes: int, param: str | None = None) -> TooLarge:
    """The refusal of a file of more than `max_bytes`."""
    return TooLarge(
        f"the file is larger than {max_bytes} bytes ({max_bytes / (1 << 20):g} MiB), the limit here (MAX_UPLOAD_BYTES)",
        code="file_too_large",
        param=param,
    )
