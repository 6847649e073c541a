"""A recording on its way in: a multipart form is read as a stream and spooled to disk, every part under a limit.

It knows the envelope only. What the text fields mean is `transformers_pre.audio.forms`, what the file holds is the decoder's
to find out: its name and media type are not read, because clients send neither reliably.
"""

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from serving.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

FILE = "file"
"""The form field that carries the recording."""
MAX_FIELDS = 64
"""Text fields of one form; OpenAI's whole vocabulary is under 20."""
MAX_FIELD_BYTES = 64 << 10
"""Size of one text field; Whisper reads at most 224 tokens of a prompt, about 1 kB."""
MAX_OVERHEAD_BYTES = 1 << 20
"""Everything in a form but the recording's own bytes: text fields, part headers, boundaries."""

_WRITE_BYTES = 1 << 20  # so much is gathered before one write to disk

Fields = dict[str, list[str]]
"""A form's text fields: every value of a name, in the order they were sent."""


@dataclass(frozen=True)
class Upload:
    """A recording on disk that lives until `close()`; `size` in bytes, at least 1."""

    path: Path
    size: int

    def close(self) -> None:
        """Deletes the file. May be called more than once."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spool(data: bytes, max_upload_bytes: int) -> Upload:
    """A recording that is in memory already, as an upload. The caller closes it.

    Raises:
        InvalidInput: there are no bytes.
        TooLarge: there are more than `max_upload_bytes`.
    """
    if not data:
        raise _empty()
    if len(data) > max_upload_bytes:
        raise _too_large(max_upload_bytes)
    handle, name = tempfile.mkstemp(prefix="upload-")
    recording = Upload(Path(name), len(data))
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(recording.close)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        on_failure.pop_all()
    return recording


async def receive(request: Request, max_upload_bytes: int) -> tuple[Fields, Upload]:
    """Reads the whole body of a multipart request with exactly one recording, in the field `file`.

    The caller closes the upload; when this raises, or is cancelled, nothing is left on disk.

    Raises:
        InvalidInput: not a multipart form, a malformed one, no recording, more than one, or an empty one.
        TooLarge: the recording is over `max_upload_bytes`, or the rest of the form over this module's limits. A body
            whose Content-Length cannot fit is refused before anything of it is kept.
        ClientDisconnect: the client went away before the body's end.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_upload_bytes + MAX_OVERHEAD_BYTES:
        raise _too_large(max_upload_bytes, param=FILE)
    handle, name = tempfile.mkstemp(prefix="upload-")
    path = Path(name)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(path.unlink)
        form = _Form(max_upload_bytes)
        with os.fdopen(handle, "wb") as file:
            try:
                await _read(request, MultipartParser(boundary, form.callbacks()), form, file)
            except FormParserError:
                raise InvalidInput("the body is not a well-formed multipart form", code="bad_form") from None
        recording = Upload(path, form.complete())
        on_failure.pop_all()
    return form.fields, recording


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput(
            f"send the recording as multipart/form-data, in the field '{FILE}'", code="missing_file", param=FILE
        )
    return boundary


async def _read(request: Request, parser: MultipartParser, form: "_Form", file: BinaryIO) -> None:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        parser.write(chunk)
        if received - form.size > MAX_OVERHEAD_BYTES:
            raise TooLarge(
                f"the form has more than {MAX_OVERHEAD_BYTES} bytes besides its recording", code="form_too_large"
            )
        if len(form.unwritten) >= _WRITE_BYTES:
            await form.write_to(file)
    await form.write_to(file)


class _Form:
    """What the parser's callbacks gather: text fields whole, the recording only until the next write to disk."""

    def __init__(self, max_upload_bytes: int):
        self.fields: Fields = {}
        self.size = 0
        """Bytes of the recording so far."""
        self.unwritten = bytearray()
        self._limit = max_upload_bytes
        self._recordings = 0
        self._texts = 0
        self._ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._text = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """The parser's callbacks, bound to this form."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    async def write_to(self, file: BinaryIO) -> None:
        """Moves what has gathered to the file, in a thread: disks may be slow."""
        await asyncio.to_thread(file.write, self.unwritten)
        self.unwritten = bytearray()

    def complete(self) -> int:
        """The recording's size, once the whole form was read. Raises InvalidInput when something is missing."""
        if not self._ended:
            raise InvalidInput("the form stops before its closing boundary", code="bad_form")
        if not self._recordings:
            raise InvalidInput(
                f"the form has no recording: send one in the field '{FILE}'", code="missing_file", param=FILE
            )
        if not self.size:
            raise _empty(param=FILE)
        return self.size

    def _begin_part(self) -> None:
        self._disposition = b""
        self._text = bytearray()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name")
        if name is None:
            raise InvalidInput("a part of the form has no name in its Content-Disposition", code="bad_form")
        self._name = _utf8(name, "a field's name")
        if self._name == FILE:
            self._recordings += 1
        else:
            self._texts += 1
        if self._recordings > 1:
            raise InvalidInput(
                f"one recording a request: the field '{FILE}' came twice", code="several_files", param=FILE
            )
        if self._texts > MAX_FIELDS:
            raise TooLarge(f"the form has more than {MAX_FIELDS} fields besides its recording", code="too_many_fields")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self.size += end - start
            if self.size > self._limit:
                raise _too_large(self._limit, param=FILE)
            self.unwritten += data[start:end]
            return
        if len(self._text) + end - start > MAX_FIELD_BYTES:
            raise TooLarge(
                f"the field '{self._name}' has more than {MAX_FIELD_BYTES} bytes; a recording goes in the field '{FILE}'",
                code="field_too_large",
                param=self._name,
            )
        self._text += data[start:end]

    def _end_part(self) -> None:
        if self._name != FILE:
            self.fields.setdefault(self._name, []).append(_utf8(self._text, f"the field '{self._name}'"))

    def _end(self) -> None:
        self._ended = True


def _utf8(text: bytes | bytearray, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not UTF-8", code="bad_form") from None


def _empty(param: str | None = None) -> InvalidInput:
    return InvalidInput("the recording is empty: it has 0 bytes", code="empty_file", param=param)


def _too_large(limit: int, param: str | None = None) -> TooLarge:
    return TooLarge(
        f"the recording is larger than {limit} bytes ({limit / (1 << 20):g} MiB), the limit here (MAX_UPLOAD_BYTES)",
        code="file_too_large",
        param=param,
    )
