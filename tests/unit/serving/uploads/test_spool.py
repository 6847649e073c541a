"""What is spooled: as it came, without a name, under a limit, off the event loop, and gone whatever happens."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import InvalidInput, TooLarge
from serving.uploads.spool import WRITE_BYTES, Spool
from tests.unit.serving.uploads.spooling import content, named, spooled

RECORDING = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where recordings are spooled to; no test leaves anything there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert named(tmp_path) == []
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("size", [1, 100, WRITE_BYTES - 1, WRITE_BYTES, 2 * WRITE_BYTES + 7])
async def test_what_was_added_is_in_the_file(folder: Path, size: int) -> None:
    data = (RECORDING * (size // len(RECORDING) + 1))[:size]
    with Spool(size) as spool:
        for start in range(0, size, 70_000):
            spool.add(data[start : start + 70_000])
            await spool.drain()
        file = await spool.finish()
    with file:
        assert content(file) == data
        assert named(folder) == []
        assert len(spooled(folder)) == 1


async def test_pieces_are_made_and_written_off_the_event_loop() -> None:
    threads = set()

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            threads.add(threading.get_ident())
            yield RECORDING

    with Spool(1 << 20) as spool:
        await spool.fill(pieces())
        with await spool.finish() as file:
            assert content(file) == RECORDING * 3
    assert threads
    assert threading.get_ident() not in threads


async def test_a_disk_that_hangs_does_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()  # nobody reads it yet, and it takes 64 kB
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: os.fdopen(writer, "wb"))
    with os.fdopen(reader, "rb") as unread, Spool(1 << 30) as spool:
        spool.add(bytes(4 << 20))
        writing = asyncio.create_task(spool.drain())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not writing.done()
        await asyncio.to_thread(unread.read, 4 << 20)
        await writing


async def test_more_than_the_limit_is_refused_by_name_and_field() -> None:
    with Spool(1000, "instances[3]") as spool:
        spool.add(bytes(1000))
        with pytest.raises(TooLarge, match=r"larger than 1000 bytes .*the limit here \(MAX_UPLOAD_BYTES\)") as caught:
            spool.add(b"x")
        assert (caught.value.code, caught.value.param) == ("file_too_large", "instances[3]")
        with pytest.raises(TooLarge):
            await spool.fill(iter([b"x"]))


async def test_nothing_is_no_recording() -> None:
    with Spool(1000, "file") as spool, pytest.raises(InvalidInput, match="0 bytes") as caught:
        await spool.finish()
    assert (caught.value.code, caught.value.param) == ("empty_file", "file")


async def test_a_fill_that_is_cancelled_ends_before_its_file_is_closed(folder: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written = []

    def pieces() -> Iterator[bytes]:
        begun.set()
        go_on.wait(10)
        yield RECORDING
        written.append(len(spooled(folder)))

    async def fill() -> None:
        with Spool(1 << 20) as spool:
            await spool.fill(pieces())

    task = asyncio.create_task(fill())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written == [1]  # while the thread was at work the file was open, and its number no other's
    assert spooled(folder) == []


def test_a_process_that_is_killed_leaves_nothing(folder: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from serving.uploads.spool import Spool\n"
        "async def main():\n"
        "    with Spool(1 << 30) as spool:\n"
        "        spool.add(bytes(2 << 20))\n"
        "        await spool.drain()\n"
        "        print('spooled', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(folder)}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spooled\n"
        (file,) = spooled(folder, process.pid)
        assert file.stat().st_size == 2 << 20
        process.send_signal(signal.SIGKILL)
    assert named(folder) == []
