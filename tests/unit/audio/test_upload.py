"""How a body becomes fields and a file: in pieces of any size, under limits, and without leftovers."""

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request

from serving.errors import InvalidInput, ServingError, TooLarge
from transformers_pre.audio import upload
from transformers_pre.audio.forms import OpenAIForm
from transformers_pre.audio.upload import MAX_FIELD_BYTES, MAX_FIELDS, MAX_OVERHEAD_BYTES

MIB = 1 << 20
RECORDING = bytes(range(256)) * 20 + b"\r\n--\r\n"


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are spooled to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


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


async def refused(sender: Sender, limit: int = MIB) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await upload.receive(sender.request(), limit)
    return caught.value


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 61, 1000, 10**7])
async def test_a_form_is_the_same_in_pieces_of_any_size(piece: int, spool: Path) -> None:
    data = {"language": "en", "prompt": "Grüße, 你好", "timestamp_granularities[]": ["word", "segment"], "empty": ""}
    fields, found = await upload.receive(Sender(data, recording(), piece=piece).request(), MIB)
    with found:
        assert fields == {
            "language": ["en"],
            "prompt": ["Grüße, 你好"],
            "timestamp_granularities[]": ["word", "segment"],
            "empty": [""],
        }
        assert found.path.read_bytes() == RECORDING
        assert found.size == len(RECORDING)
        assert found.path.parent == spool
    assert files(spool) == []


async def test_a_large_recording_goes_to_disk_piece_by_piece(spool: Path) -> None:
    sender = Sender(files=recording(RECORDING * 2000), piece=65536)
    on_disk = []

    async def watched() -> dict[str, Any]:
        on_disk.extend(path.stat().st_size for path in files(spool))
        return await sender.receive()

    _, found = await upload.receive(Request(sender.request().scope, watched), 64 * MIB)
    with found:
        assert found.path.read_bytes() == RECORDING * 2000
    # At no time was more than a write's worth, and the piece that filled it, in memory only.
    assert max(after - before for before, after in itertools.pairwise(on_disk)) <= 2 * MIB
    assert on_disk[len(on_disk) // 2] >= found.size // 2 - 2 * MIB


async def test_a_file_is_accepted_without_a_name_or_type() -> None:
    # What the stock client makes of a BytesIO, and what others send: no filename at all.
    for files in ({"file": RECORDING}, {"file": ("", RECORDING)}, {"file": (None, RECORDING)}):
        _, found = await upload.receive(Sender(files=files).request(), MIB)
        with found:
            assert found.path.read_bytes() == RECORDING


async def test_a_recording_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not(spool: Path) -> None:
    _, found = await upload.receive(Sender(files=recording(b"x" * 1000)).request(), 1000)
    with found:
        assert found.size == 1000
    error = await refused(Sender(files=recording(b"x" * 1001)), 1000)
    assert (error.http_status, error.param, error.code) == (413, "file", "file_too_large")
    assert "1000 bytes" in error.message
    assert "MAX_UPLOAD_BYTES" in error.message
    assert files(spool) == []


async def test_a_body_that_cannot_fit_is_refused_before_anything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", None)
    sender = Sender(files=recording(b"x" * 3 * MIB))
    assert isinstance(await refused(sender, MIB), TooLarge)
    assert sender.sent == 0


async def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large() -> None:
    sender = Sender(files=recording(b"x" * 3 * MIB), content_length=False)
    assert isinstance(await refused(sender, MIB), TooLarge)
    assert sender.sent <= MIB + 2 * sender.piece


async def test_a_content_length_that_lies_does_not_help() -> None:
    sender = Sender(files=recording(b"x" * 3 * MIB))
    sender.headers["content-length"] = "100"
    assert isinstance(await refused(sender, MIB), TooLarge)


@pytest.mark.parametrize(
    ("data", "code", "names"),
    [
        ({f"field{number}": "" for number in range(MAX_FIELDS + 1)}, "too_many_fields", str(MAX_FIELDS)),
        ({"prompt": "x" * (MAX_FIELD_BYTES + 1)}, "field_too_large", "'prompt'"),
        ({f"field{number}": "x" * MAX_FIELD_BYTES for number in range(17)}, "form_too_large", str(MAX_OVERHEAD_BYTES)),
    ],
)
async def test_fields_are_limited_in_number_and_size(data: dict[str, str], code: str, names: str) -> None:
    error = await refused(Sender(data, recording()), 10 * MIB)
    assert (error.http_status, error.code) == (413, code)
    assert names in error.message


async def test_fields_at_their_limits_are_accepted() -> None:
    data = {f"field{number}": "" for number in range(MAX_FIELDS - 1)} | {"prompt": "x" * MAX_FIELD_BYTES}
    fields, found = await upload.receive(Sender(data, recording()).request(), MIB)
    with found:
        assert len(fields) == MAX_FIELDS
        assert len(fields["prompt"][0]) == MAX_FIELD_BYTES


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        (Sender({"model": "whisper-1"}), "missing_file"),  # httpx sends no multipart form without files
        (Sender({"model": "whisper-1"}, {"other": ("a.txt", b"text")}), "missing_file"),
        (Sender(files=recording(b"")), "empty_file"),
        (Sender(files=[("file", ("a.wav", b"one")), ("file", ("b.wav", b"two"))]), "several_files"),
    ],
)
async def test_exactly_one_recording_is_needed(sender: Sender, code: str, spool: Path) -> None:
    error = await refused(sender)
    assert (error.http_status, error.param, error.code) == (400, "file", code)
    assert files(spool) == []


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
async def test_a_malformed_form_is_a_400_and_leaves_nothing(change: str, spool: Path) -> None:
    sender = broken(change)
    del sender.headers["content-length"]
    error = await refused(sender)
    assert error.http_status == 400
    assert error.code in ("bad_form", "missing_file")
    assert files(spool) == []


async def test_a_client_that_goes_away_while_it_sends_leaves_nothing(spool: Path) -> None:
    sender = Sender(files=recording(RECORDING * 1000))
    sender.disconnects_after = 3 * MIB
    with pytest.raises(ClientDisconnect):
        await upload.receive(sender.request(), 64 * MIB)
    assert files(spool) == []


async def test_a_cancelled_upload_leaves_nothing(spool: Path) -> None:
    sender = Sender(files=recording(RECORDING * 1000))
    waiting = asyncio.Event()

    async def stalls() -> dict[str, Any]:
        if sender.sent > 3 * MIB:
            waiting.set()
            await asyncio.Event().wait()
        return await sender.receive()

    task = asyncio.create_task(upload.receive(Request(sender.request().scope, stalls), 64 * MIB))
    await waiting.wait()
    assert len(files(spool)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(spool) == []


async def test_a_form_that_is_refused_leaves_nothing(spool: Path) -> None:
    with pytest.raises(InvalidInput):
        await OpenAIForm.receive(Sender({"temperature": "3"}, recording()).request(), MIB)
    assert files(spool) == []


def test_bytes_become_an_upload(spool: Path) -> None:
    with upload.spool(RECORDING, len(RECORDING)) as found:
        assert found.path.read_bytes() == RECORDING
        assert found.size == len(RECORDING)
    assert files(spool) == []
    with pytest.raises(TooLarge, match="MAX_UPLOAD_BYTES"):
        upload.spool(RECORDING, len(RECORDING) - 1)
    with pytest.raises(InvalidInput, match="0 bytes"):
        upload.spool(b"", MIB)


def test_an_upload_may_be_closed_twice() -> None:
    found = upload.spool(RECORDING, MIB)
    found.close()
    found.close()
    assert not found.path.exists()
