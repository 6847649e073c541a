"""The reader and its processes: what a study cannot break, what is refused by name, and what is left behind (nothing)."""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from pydicom.uid import JPEG2000Lossless

from serving import telemetry
from serving.errors import Overloaded, Unprocessable
from tests.children import children
from tests.ct_series import scan, uploaded
from tests.pods import wait_for
from tests.servers import until
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.reader import StudyReader

Volume = npt.NDArray[np.float32]


def workers() -> list[psutil.Process]:
    return children("transformers_pre.dicom.worker")


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process, no open file and no temporary file outlives a test's reader."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    descriptors = psutil.Process().num_fds()
    yield
    gc.collect()  # a volume's memory has a descriptor, and tasks that failed hold what they had
    assert workers() == []
    assert psutil.Process().num_fds() <= descriptors
    assert list(folder.iterdir()) == []


@pytest.fixture
def series(nothing_left_behind: None) -> Iterator[BinaryIO]:
    with uploaded(scan()) as file:
        yield file


@pytest.fixture
def long_series(nothing_left_behind: None) -> Iterator[BinaryIO]:
    """One that takes its time: JPEG 2000."""
    with uploaded(scan(count=60, rows=200, columns=200, spacing=(1.0, 1.0)), JPEG2000Lossless) as file:
        yield file


async def test_workers_are_kept_from_study_to_study(series: BinaryIO, expected: Volume) -> None:
    async with StudyReader(StudyLimits()) as reader:
        first = {worker.pid for worker in workers()}
        assert len(first) == 2
        for _ in range(2):
            assert np.abs((await reader.read(series)).volume - expected).max() < 2e-6
        assert {worker.pid for worker in workers()} == first


@pytest.mark.parametrize("count", [1, 3])
async def test_any_number_of_workers_makes_the_same_volume(series: BinaryIO, expected: Volume, count: int) -> None:
    async with StudyReader(StudyLimits(workers=count)) as reader:
        assert np.abs((await reader.read(series)).volume - expected).max() < 2e-6


async def test_a_worker_that_is_killed_fails_its_study_alone(long_series: BinaryIO, series: BinaryIO) -> None:
    async with StudyReader(StudyLimits(workers=1)) as reader:
        (worker,) = workers()
        os.kill(worker.pid, signal.SIGSTOP)
        reading = asyncio.create_task(reader.read(long_series))
        await until(reader._pool._free.empty)  # it has its job
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(Unprocessable, match=r"its decoder stopped, .*\(DECODE_MEMORY_BYTES\)") as caught:
            await reading
        assert caught.value.code == "decoder_died"
        assert (await reader.read(series)).report["slices"]["used"] == 24
        assert worker.pid not in {other.pid for other in workers()}


async def test_a_study_that_takes_too_long_is_refused(series: BinaryIO) -> None:
    async with StudyReader(StudyLimits(workers=1, timeout_seconds=0.01)) as reader:
        with pytest.raises(Unprocessable, match=r"longer to read than 0\.01 s, .*\(DECODE_TIMEOUT_SECONDS\)") as caught:
            await reader.read(series)
        assert caught.value.code == "decode_timeout"


async def test_images_that_take_too_much_memory_are_refused() -> None:
    """A slice of 1200 x 1200 pixels takes 6 MB for each of the planes that it is worked on in."""
    big = scan(count=20, rows=1200, columns=1200, spacing=(0.3, 0.3))
    with uploaded(big) as file:
        async with StudyReader(StudyLimits(workers=1, memory_bytes=12 << 20)) as reader:
            with pytest.raises(Unprocessable, match=r"12582912 bytes.*, the limit here \(DECODE_MEMORY_BYTES\)"):
                await reader.read(file)
            with uploaded(scan()) as small:
                assert (await reader.read(small)).report["slices"]["used"] == 24


async def test_only_so_many_studies_wait(series: BinaryIO) -> None:
    async with StudyReader(StudyLimits(workers=1, volumes=1, queue=1)) as reader:
        reading = [asyncio.create_task(reader.read(series)) for _ in range(2)]
        await asyncio.sleep(0)
        (metric,) = telemetry.STUDY_QUEUE_LENGTH.collect()
        assert metric.samples[0].value == 1
        with pytest.raises(Overloaded, match=r"as many wait as may: 1, the limit here \(STUDY_QUEUE\)") as caught:
            await reader.read(series)
        assert caught.value.code == "readers_busy"
        assert [(await study).report["slices"]["used"] for study in reading] == [24, 24]


async def test_a_volume_that_is_held_keeps_its_place(series: BinaryIO) -> None:
    async with StudyReader(StudyLimits(workers=1, volumes=2, queue=1)) as reader, contextlib.AsyncExitStack() as held:
        for _ in range(2):
            study = await held.enter_async_context(reader.reading(series))
            assert study.report["slices"]["used"] == 24
        waiting = asyncio.create_task(reader.read(series))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await reader.read(series)
        assert not waiting.done()
        await held.aclose()
        assert (await waiting).report["slices"]["used"] == 24


async def test_cancelling_frees_the_workers_and_the_queue(long_series: BinaryIO, series: BinaryIO) -> None:
    async with StudyReader(StudyLimits(workers=1)) as reader:
        (worker,) = workers()
        idle = sum(worker.cpu_times()[:2])
        busy = asyncio.create_task(reader.read(long_series))
        waiting = asyncio.create_task(reader.read(series))
        await asyncio.to_thread(wait_for, "at work", lambda: sum(worker.cpu_times()[:2]) > idle + 0.05)
        assert not busy.done()
        busy.cancel()
        assert (await waiting).report["slices"]["used"] == 24
        with pytest.raises(asyncio.CancelledError):
            await busy


async def test_a_volume_outlives_its_reader(series: BinaryIO, expected: Volume) -> None:
    async with StudyReader(StudyLimits(workers=1)) as reader:
        study = await reader.read(series)
    assert np.abs(study.volume - expected).max() < 2e-6
    assert study.volume.dtype == np.float32
    assert study.volume.flags.c_contiguous
