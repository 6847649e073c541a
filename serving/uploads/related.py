"""An answer of several files behind one link (multipart/related, RFC 2387), as DICOMweb's WADO-RS gives them.

It knows the envelope only, as `serving.uploads.multipart` does of forms. What the files are, their reader finds out.
"""

from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import TooLarge, Unprocessable
from serving.uploads.fetch import FetchLimits, download
from serving.uploads.multipart import FormLimits
from serving.uploads.spool import Spool

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only


async def fetch_parts(
    url: str, accept: str, link: FetchLimits, parts: FormLimits, authorization: str = ""
) -> tuple[BinaryIO, tuple[range, ...]]:
    """Downloads the files of an answer. The caller closes the one that holds them; when this raises, nothing is left.

    Args:
        url: the client's link; it passes the same guard as any.
        accept: the media type that is asked for.
        link: limits of the link.
        parts: limits of the answer's parts: how many, and how much besides their own bytes.
        authorization: as `download` takes it.

    Returns:
        What the files hold, one behind the other, and each file's own bytes in it.

    Raises:
        ServingError: as `fetch` does; Unprocessable for an answer that is not multipart, TooLarge for too many parts.
    """
    with Spool(link.max_upload_bytes) as spool:
        answer = _Answer(spool, parts)
        await download(url, link, answer.begin, accept=accept, authorization=authorization)
        return await answer.finish(), tuple(answer.parts)


class _Answer:
    """Takes an answer in, as a `Sink` that leaves its envelope out."""

    def __init__(self, spool: Spool, limits: FormLimits):
        self.parts: list[range] = []
        self._spool = spool
        self._limits = limits
        self._start = 0
        self._received = 0
        self._ended = False
        self._parser: MultipartParser | None = None

    def begin(self, content_type: str) -> "_Answer":
        """Reads an answer of that type. Raises Unprocessable."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/related" or not boundary:
            raise Unprocessable(
                "the link's host answers with another type than multipart/related, which DICOMweb has",
                code="url_not_dicomweb",
            )
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_part_data": lambda data, start, end: self._spool.add(memoryview(data)[start:end]),
            "on_part_end": lambda: self.parts.append(range(self._start, self._spool.size)),
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)
        return self

    def add(self, data: bytes) -> None:
        """Takes the next bytes of the answer. Raises TooLarge or Unprocessable."""
        assert self._parser is not None  # noqa: S101  # `begin` gives this sink out
        self._received += len(data)
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise _malformed() from None
        if self._received - self._spool.size > self._limits.max_overhead_bytes:
            raise TooLarge(
                f"the answer has more than {self._limits.max_overhead_bytes} bytes besides its files, the limit here "
                "(MAX_FORM_OVERHEAD_BYTES)",
                code="form_too_large",
            )

    async def drain(self) -> None:
        """Moves what was added to disk."""
        await self._spool.drain()

    async def finish(self) -> BinaryIO:
        """The files. Raises Unprocessable for an answer that stops early."""
        if not self._ended:
            raise _malformed()
        return await self._spool.finish()

    def _begin_part(self) -> None:
        self._start = self._spool.size
        if len(self.parts) >= self._limits.max_files:
            raise TooLarge(
                f"the answer has more than {self._limits.max_files} files, the limit here (MAX_FORM_FILES)",
                code="too_many_files",
            )

    def _end(self) -> None:
        self._ended = True


def _malformed() -> Unprocessable:
    return Unprocessable("the link's host answers with a multipart body that is malformed or cut off", code="url_parts")
