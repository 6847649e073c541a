"""How a body becomes fields and a file: in pieces of any size, under limits, and without leftovers."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request

from serving.errors import InvalidInput, ServingError, TooLarge
from serving.uploads import multipart
from serving.uploads.multipart import FormLimits
from tests.unit.audio.limits import form_limits
from tests.unit.serving.uploads.spooling import content, named, spooled
from transformers_pre.audio.forms import OpenAIForm

MIB = 1 << 20
LIMITS = form_limits(max_upload_bytes=MIB)
LARGE = form_limits(max_upload_bytes=64 * MIB)
MOST_FIELDS, MOST_FIELD_BYTES, MOST_OVERHEAD = LIMITS.max_fields, LIMITS.max_field_bytes, LIMITS.max_overhead_bytes
RECORDING = bytes(range(256)) * 20 + b"\r\n--\r\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where uploads are spooled to; no test leaves anything there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert named(tmp_path) == []
    assert spooled(tmp_path) == []


class Sender:
    """A client that sends a multipart body in pieces."""

    def __init__(self, data: Any = None, files: Any = None, *, piece: int = 65536, content_length: bool = True):
        request = httpx.Request("POST", "http://pod/", data=data, files=files)
        self.body = request.read()
        self.headers = dict(request.headers)
        if not content_length:
            del self.headers["content-length"]
        self.piece = piece
        self.sent = 0
        self.disconnects_after: int | None = None

    def request(self) -> Request:
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        return Request(scope, self.receive)

    async def receive(self) -> dict[str, Any]:
        if self.disconnects_after is not None and self.sent >= self.disconnects_after:
            return {"type": "http.disconnect"}
        piece = self.body[self.sent : self.sent + self.piece]
        self.sent += len(piece)
        return {"type": "http.request", "body": piece, "more_body": self.sent < len(self.body)}


def recording(content: bytes = RECORDING) -> dict[str, Any]:
    return {"file": ("speech.wav", content, "audio/wav")}


async def refused(sender: Sender, limits: FormLimits = LIMITS) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await multipart.receive(sender.request(), limits)
    return caught.value


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 61, 1000, 10**7])
async def test_a_form_is_the_same_in_pieces_of_any_size(piece: int) -> None:
    data = {"language": "en", "prompt": "Grüße, 你好", "timestamp_granularities[]": ["word", "segment"], "empty": ""}
    with await multipart.receive(Sender(data, recording(), piece=piece).request(), LIMITS) as found:
        assert found.fields == {
            "language": ["en"],
            "prompt": ["Grüße, 你好"],
            "timestamp_granularities[]": ["word", "segment"],
            "empty": [""],
        }
        assert content(found.file) == RECORDING


async def test_a_large_recording_goes_to_disk_piece_by_piece(folder: Path) -> None:
    sender = Sender(files=recording(RECORDING * 2000), piece=65536)
    in_memory = []

    async def watched() -> dict[str, Any]:
        (file,) = spooled(folder)
        in_memory.append(sender.sent - file.stat().st_size)
        return await sender.receive()

    with await multipart.receive(Request(sender.request().scope, watched), LARGE) as found:
        assert content(found.file) == RECORDING * 2000
    assert len(in_memory) > 100
    assert max(in_memory) <= MIB + 2 * sender.piece  # a write's worth, and the piece that fills it


async def test_a_file_is_accepted_without_a_name_or_type() -> None:
    # What the stock client makes of a BytesIO, and what others send: no filename at all.
    for files in ({"file": RECORDING}, {"file": ("", RECORDING)}, {"file": (None, RECORDING)}):
        with await multipart.receive(Sender(files=files).request(), LIMITS) as found:
            assert content(found.file) == RECORDING


async def test_a_recording_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    limits = form_limits(max_upload_bytes=1000)
    with await multipart.receive(Sender(files=recording(b"x" * 1000)).request(), limits) as found:
        assert content(found.file) == b"x" * 1000
    error = await refused(Sender(files=recording(b"x" * 1001)), limits)
    assert (error.http_status, error.param, error.code) == (413, "file", "file_too_large")
    assert "1000 bytes" in error.message
    assert "MAX_UPLOAD_BYTES" in error.message


async def test_a_body_that_cannot_fit_is_refused_before_anything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    sender = Sender(files=recording(b"x" * 3 * MIB))
    assert isinstance(await refused(sender), TooLarge)
    assert sender.sent == 0


async def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large() -> None:
    sender = Sender(files=recording(b"x" * 3 * MIB), content_length=False)
    assert isinstance(await refused(sender), TooLarge)
    assert sender.sent <= MIB + 2 * sender.piece


async def test_a_content_length_that_lies_does_not_help() -> None:
    sender = Sender(files=recording(b"x" * 3 * MIB))
    sender.headers["content-length"] = "100"
    assert isinstance(await refused(sender), TooLarge)


@pytest.mark.parametrize(
    ("data", "code", "names"),
    [
        (
            {f"field{number}": "" for number in range(MOST_FIELDS + 1)},
            "too_many_fields",
            f"{MOST_FIELDS} fields besides its files, the limit here (MAX_FORM_FIELDS)",
        ),
        (
            {"prompt": "x" * (MOST_FIELD_BYTES + 1)},
            "field_too_large",
            f"'prompt' has more than {MOST_FIELD_BYTES} bytes, the limit here (MAX_FORM_FIELD_BYTES)",
        ),
        (
            {f"field{number}": "x" * MOST_FIELD_BYTES for number in range(17)},
            "form_too_large",
            f"{MOST_OVERHEAD} bytes besides its files, the limit here (MAX_FORM_OVERHEAD_BYTES)",
        ),
    ],
)
async def test_fields_are_limited_in_number_and_size(data: dict[str, str], code: str, names: str) -> None:
    error = await refused(Sender(data, recording()), LARGE)
    assert (error.http_status, error.code) == (413, code)
    assert names in error.message


async def test_the_limits_of_fields_are_settings() -> None:
    narrow = form_limits(max_fields=1, max_field_bytes=2, max_overhead_bytes=500)
    cases: list[tuple[dict[str, str], str]] = [
        ({"a": "", "b": ""}, "too_many_fields"),
        ({"a": "xyz"}, "field_too_large"),
        ({"a" * 500: "x"}, "form_too_large"),
    ]
    for data, code in cases:
        assert (await refused(Sender(data, recording()), narrow)).code == code
    with await multipart.receive(Sender({"a": "xy"}, recording()).request(), narrow) as found:
        assert found.fields == {"a": ["xy"]}


async def test_fields_at_their_limits_are_accepted() -> None:
    data = {f"field{number}": "" for number in range(MOST_FIELDS - 1)} | {"prompt": "x" * MOST_FIELD_BYTES}
    with await multipart.receive(Sender(data, recording()).request(), LIMITS) as found:
        assert len(found.fields) == MOST_FIELDS
        assert len(found.fields["prompt"][0]) == MOST_FIELD_BYTES


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        (Sender({"model": "whisper-1"}), "missing_file"),  # httpx sends no multipart form without files
        (Sender({"model": "whisper-1"}, {"other": ("a.txt", b"text")}), "missing_file"),
        (Sender(files=recording(b"")), "empty_file"),
        (Sender(files=[("file", ("a.wav", b"one")), ("file", ("b.wav", b"two"))]), "several_files"),
    ],
)
async def test_exactly_one_recording_is_needed(sender: Sender, code: str) -> None:
    error = await refused(sender)
    assert (error.http_status, error.param, error.code) == (400, "file", code)


def broken(change: str) -> Sender:
    sender = Sender({"model": "whisper-1"}, recording())
    match change:
        case "no boundary":
            sender.headers["content-type"] = "multipart/form-data"
        case "another boundary":
            sender.headers["content-type"] = "multipart/form-data; boundary=other"
        case "a boundary too long":
            sender.headers["content-type"] = f"multipart/form-data; boundary={'b' * 3000}"
        case "cut off":
            sender.body = sender.body[:-20]
        case "no body":
            sender.body = b""
        case "a part without a name":
            sender.body = sender.body.replace(b'name="model"', b"")
        case "not UTF-8":
            sender.body = sender.body.replace(b"whisper-1", b"\xff\xfe\xfd")
        case "endless headers":
            sender.body = sender.body.replace(b"Content-Disposition", b"X" * 10_000 + b": y\r\nContent-Disposition", 1)
        case "json":
            sender.headers["content-type"], sender.body = "application/json", b"{}"
    return sender


@pytest.mark.parametrize(
    "change",
    [
        *("no boundary", "another boundary", "a boundary too long", "cut off", "no body", "a part without a name"),
        *("not UTF-8", "endless headers", "json"),
    ],
)
async def test_a_malformed_form_is_a_400(change: str) -> None:
    sender = broken(change)
    del sender.headers["content-length"]
    error = await refused(sender)
    assert error.http_status == 400
    assert error.code in ("bad_form", "missing_file")


async def test_a_client_that_goes_away_while_it_sends(folder: Path) -> None:
    sender = Sender(files=recording(RECORDING * 1000))
    sender.disconnects_after = 3 * MIB
    with pytest.raises(ClientDisconnect):
        await multipart.receive(sender.request(), LARGE)
    assert spooled(folder) == []


async def test_a_cancelled_upload_leaves_nothing_and_has_no_name_meanwhile(folder: Path) -> None:
    sender = Sender(files=recording(RECORDING * 1000))
    waiting = asyncio.Event()

    async def stalls() -> dict[str, Any]:
        if sender.sent > 3 * MIB:
            waiting.set()
            await asyncio.Event().wait()
        return await sender.receive()

    task = asyncio.create_task(multipart.receive(Request(sender.request().scope, stalls), LARGE))
    await waiting.wait()
    assert len(spooled(folder)) == 1
    assert named(folder) == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spooled(folder) == []


async def test_a_form_that_is_refused_leaves_nothing(folder: Path) -> None:
    with pytest.raises(InvalidInput):
        await OpenAIForm.receive(Sender({"temperature": "3"}, recording()).request(), LIMITS)
    assert spooled(folder) == []


async def test_several_files_lie_one_behind_the_other(folder: Path) -> None:
    files = [("file", (f"{number}.dcm", bytes([number]) * 1000 * number)) for number in range(1, 40)]
    limits = form_limits(max_upload_bytes=MIB, max_files=39)
    with await multipart.receive(Sender({"a": "b"}, files, piece=61).request(), limits) as found:
        assert found.fields == {"a": ["b"]}
        everything = content(found.file)
        assert [everything[part.start : part.stop] for part in found.parts] == [data for _, (_, data) in files]
        assert len(spooled(folder)) == 1


async def test_more_files_than_the_limit_are_refused() -> None:
    files = [("file", (f"{number}.dcm", b"x")) for number in range(3)]
    error = await refused(Sender(files=files), form_limits(max_files=2))
    assert (error.http_status, error.code, error.param) == (413, "too_many_files", "file")
    assert "2 files, the limit here (MAX_FORM_FILES)" in error.message


async def test_files_together_are_limited_too() -> None:
    files = [("file", (f"{number}.dcm", bytes(600))) for number in range(2)]
    error = await refused(Sender(files=files), form_limits(max_files=2, max_upload_bytes=1000))
    assert error.code == "file_too_large"
