"""A multipart form on its way in: read as a stream, its text fields kept, its files spooled, every part under a limit.

It knows the envelope only. What the text fields mean is `serving.uploads.form`, what a file holds is its reader's to find out:
its name and media type are not read, because clients send neither reliably.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from serving.errors import InvalidInput, TooLarge, shown
from serving.uploads.spool import Spool, too_large

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

FILE = "file"
"""The form field that carries a file."""

Fields = dict[str, list[str]]
"""A form's text fields: every value of a name, in the order they were sent."""


@dataclass(frozen=True)
class FormLimits:
    """How large a form may be. A refusal names the setting that holds the value."""

    max_upload_bytes: int
    """Largest file; of several, all together."""
    max_fields: int
    """Most text fields."""
    max_field_bytes: int
    """Largest text field."""
    max_overhead_bytes: int
    """Most of everything but the files' own bytes: text fields, part headers, boundaries."""
    max_files: int = 1
    """Most files."""


@dataclass(frozen=True)
class Upload:
    """A form that came in whole. Use as a context manager, or call `close`."""

    fields: Fields
    file: BinaryIO
    """What the files hold, one behind the other: one descriptor, however many there are."""
    parts: tuple[range, ...]
    """Each file's own bytes in `file`, in the order they were sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the file."""
        self.file.close()


async def receive(request: Request, limits: FormLimits) -> Upload:
    """Reads the whole body of a multipart request with its files in the field `file`, at least one.

    The caller closes the upload; when this raises, or is cancelled, nothing of it is left.

    Raises:
        InvalidInput: not a multipart form, a malformed one, no file, an empty one, or a second one where one is accepted.
        TooLarge: over one of the limits. A body whose Content-Length cannot fit is refused before anything of it is kept.
        ClientDisconnect: the client went away before the body's end.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_upload_bytes + limits.max_overhead_bytes:
        raise too_large(limits.max_upload_bytes, FILE)
    with Spool(limits.max_upload_bytes, FILE) as spool:
        form = _Form(limits, spool)
        received = 0
        try:
            parser = MultipartParser(boundary, form.callbacks())
            async for chunk in request.stream():
                received += len(chunk)
                parser.write(chunk)
                form.check_overhead(received)
                await spool.drain()
        except FormParserError:
            raise InvalidInput("the body is not a well-formed multipart form", code="bad_form") from None
        form.check_complete()
        return Upload(form.fields, await spool.finish(), tuple(form.parts))


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput(
            f"send the file as multipart/form-data, in the field '{FILE}'", code="missing_file", param=FILE
        )
    return boundary


class _Form:
    """What the parser's callbacks gather: text fields here, the files in their spool."""

    def __init__(self, limits: FormLimits, spool: Spool):
        self.fields: Fields = {}
        self.parts: list[range] = []
        self._limits = limits
        self._spool = spool
        self._files = 0
        self._file_start = 0
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

    def check_overhead(self, received: int) -> None:
        """Raises TooLarge when of the `received` bytes too many are not the files'."""
        limit = self._limits.max_overhead_bytes
        if received - self._spool.size > limit:
            raise TooLarge(
                f"the form has more than {limit} bytes besides its files, the limit here (MAX_FORM_OVERHEAD_BYTES)",
                code="form_too_large",
            )

    def check_complete(self) -> None:
        """Raises InvalidInput when the form, read to its end, lacks something."""
        if not self._ended:
            raise InvalidInput("the form stops before its closing boundary", code="bad_form")
        if not self._files:
            raise InvalidInput(f"the form has no file: send one in the field '{FILE}'", code="missing_file", param=FILE)

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
            self._files += 1
            self._file_start = self._spool.size
            self._check_files()
        else:
            self._texts += 1
        if self._texts > self._limits.max_fields:
            raise TooLarge(
                f"the form has more than {self._limits.max_fields} fields besides its files, the limit here (MAX_FORM_FIELDS)",
                code="too_many_fields",
            )

    def _check_files(self) -> None:
        most = self._limits.max_files
        if self._files <= most:
            return
        if most == 1:
            raise InvalidInput(f"one file a request: the field '{FILE}' came twice", code="several_files", param=FILE)
        raise TooLarge(
            f"the form has more than {most} files, the limit here (MAX_FORM_FILES)", code="too_many_files", param=FILE
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._spool.add(memoryview(data)[start:end])
            return
        limit = self._limits.max_field_bytes
        if len(self._text) + end - start > limit:
            raise TooLarge(
                f"the field {shown(self._name)} has more than {limit} bytes, the limit here (MAX_FORM_FIELD_BYTES); a file goes "
                f"in the field '{FILE}'",
                code="field_too_large",
                param=self._name,
            )
        self._text += data[start:end]

    def _end_part(self) -> None:
        if self._name == FILE:
            self.parts.append(range(self._file_start, self._spool.size))
        else:
            self.fields.setdefault(self._name, []).append(_utf8(self._text, f"the field {shown(self._name)}"))

    def _end(self) -> None:
        self._ended = True


def _utf8(text: bytes | bytearray, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not UTF-8", code="bad_form") from None
