"""Decoders as processes: what a file may take, what it cannot break, and what is left behind (nothing)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from serving.errors import TooLarge, Unprocessable
from tests.unit.audio.media_files import encode, one_packet, wav
from transformers_pre.audio.media import SAMPLE_RATE, DecodedAudio, DecoderPool, MediaLimits

ONE = MediaLimits(workers=1)
SECOND = wav(bytes(2 * SAMPLE_RATE))


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "transformers_pre.audio.decoder" in child.cmdline()]


async def count(audio: DecodedAudio) -> int:
    return sum([len(block) async for block in audio])


async def works(pool: DecoderPool) -> bool:
    async with pool.open(SECOND) as audio:
        return await count(audio) == SAMPLE_RATE


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A WAV of five hours of silence; the file is sparse, it takes no room."""
    path = tmp_path / "endless.wav"
    with path.open("wb") as file:
        file.write(wav(b"", declared=5 * 3600 * 2 * SAMPLE_RATE))
        file.truncate(44 + 5 * 3600 * 2 * SAMPLE_RATE)
    return path


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process, no open file and no temporary file outlives a test's pools."""
    spool = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    descriptors = psutil.Process().num_fds()
    yield
    assert decoders() == []
    assert psutil.Process().num_fds() <= descriptors
    assert list(spool.iterdir()) == []


async def test_workers_start_warm_and_end_with_the_pool() -> None:
    async with DecoderPool(MediaLimits(workers=2)) as pool:
        first = {worker.pid for worker in decoders()}
        assert len(first) == 2
        assert all([await works(pool) for _ in range(3)])
        assert {worker.pid for worker in decoders()} == first  # kept from file to file


async def test_a_worker_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "a-secret")
    async with DecoderPool(ONE):
        (worker,) = decoders()
        assert "API_KEYS" not in worker.environ()
        assert "OPENBLAS_NUM_THREADS" in worker.environ()


async def test_an_hour_of_zeros_in_little_flac_needs_little_memory() -> None:
    silence = np.zeros((3600 * SAMPLE_RATE, 1), np.float32)
    flac = encode("flac", "flac", SAMPLE_RATE, silence)
    del silence
    assert len(flac) < 700_000
    async with DecoderPool(ONE) as pool:
        (worker,) = decoders()
        blocks = peak = worker_peak = 0
        before, worker_before = psutil.Process().memory_info().rss, worker.memory_info().rss
        async with pool.open(flac) as audio:
            async for block in audio:
                assert len(block) < 2 * SAMPLE_RATE
                blocks += 1
                if blocks % 100 == 0:
                    peak = max(peak, psutil.Process().memory_info().rss - before)
                    worker_peak = max(worker_peak, worker.memory_info().rss - worker_before)
    assert 3600 <= blocks <= 3700
    assert peak < 16 << 20  # the hour itself takes 230 MB
    assert worker_peak < 32 << 20


def wait_until_held_back(worker: psutil.Process) -> None:
    while worker.status() != psutil.STATUS_SLEEPING:  # it waits for room in its socket
        time.sleep(0.01)


async def test_a_reader_that_stops_stops_the_decoder(endless: Path) -> None:
    async with DecoderPool(ONE) as pool, pool.open(endless) as audio:
        (worker,) = decoders()
        block = await anext(audio)
        await asyncio.to_thread(wait_until_held_back, worker)
        used = sum(worker.cpu_times()[:2])
        assert len(block) < 2 * SAMPLE_RATE
        assert used < 5  # five hours of audio take longer


async def test_a_file_that_takes_too_much_memory_is_refused_by_name() -> None:
    bomb = one_packet(bytes(24 << 20))
    async with DecoderPool(MediaLimits(workers=1, decoder_memory_bytes=40 << 20)) as pool:
        with pytest.raises(Unprocessable, match="41943040 bytes") as caught:
            async with pool.open(bomb) as audio:
                await count(audio)
        assert caught.value.code == "decoder_memory"
        assert await works(pool)
    async with DecoderPool(ONE) as pool, pool.open(bomb) as audio:
        assert await count(audio) == 12 << 20


async def test_decoding_that_takes_too_long_is_refused(endless: Path) -> None:
    async with DecoderPool(MediaLimits(workers=1, decode_timeout_seconds=0.2)) as pool:
        with pytest.raises(Unprocessable, match=r"longer to decode than 0\.2 s") as caught:
            async with pool.open(endless) as audio:
                await count(audio)
        assert caught.value.code == "decode_timeout"
    async with DecoderPool(ONE) as pool:
        assert await works(pool)


async def test_a_slow_reader_is_no_slow_decoder() -> None:
    four_seconds = wav(bytes(2 * 4 * SAMPLE_RATE))
    async with (
        DecoderPool(MediaLimits(workers=1, decode_timeout_seconds=1.2)) as pool,
        pool.open(four_seconds) as audio,
    ):
        samples = 0
        async for block in audio:
            samples += len(block)
            await asyncio.sleep(0.4)  # the reader's own time: 1.6 s in all
        assert samples == 4 * SAMPLE_RATE


async def test_a_worker_that_is_killed_fails_its_file_alone(endless: Path) -> None:
    async with DecoderPool(MediaLimits(workers=2)) as pool:
        async with pool.open(endless) as other:
            async with pool.open(endless) as audio:
                await anext(audio)
                victim = audio._worker._process.pid
                assert victim in {worker.pid for worker in decoders()}
                os.kill(victim, signal.SIGKILL)
                with pytest.raises(Unprocessable, match="its decoder stopped") as caught:
                    await count(audio)
            assert caught.value.code == "decoder_died"
            assert len(await anext(other)) > 0
        assert await works(pool)
        assert victim not in {worker.pid for worker in decoders()}


async def test_a_free_worker_that_dies_is_replaced_unseen() -> None:
    async with DecoderPool(ONE) as pool:
        (worker,) = decoders()
        worker.kill()
        await asyncio.to_thread(worker.wait, 10)
        assert await works(pool)
        assert await works(pool)


async def test_leaving_early_frees_the_worker(endless: Path) -> None:
    async with DecoderPool(ONE) as pool:
        async with pool.open(endless) as audio:
            await anext(audio)
        assert await works(pool)
        with contextlib.suppress(ZeroDivisionError):
            async with pool.open(endless) as audio:
                raise ZeroDivisionError
        assert await works(pool)
        assert len(decoders()) == 1


async def test_cancelling_frees_the_worker_and_the_queue(endless: Path) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with pool.open(endless) as audio:
            async for _ in audio:
                reading.set()

    async with DecoderPool(ONE) as pool:
        busy = asyncio.create_task(read())
        await reading.wait()
        waiting = asyncio.create_task(works(pool))
        gone = asyncio.create_task(works(pool))
        await asyncio.sleep(0)
        gone.cancel()
        busy.cancel()
        assert await waiting  # it waited for the only worker, and got a new one
        outcomes = await asyncio.gather(busy, gone, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert await works(pool)


async def test_closing_ends_workers_that_are_busy(endless: Path) -> None:
    pool = DecoderPool(MediaLimits(workers=2))
    await pool.start()
    async with pool.open(endless) as audio:
        await anext(audio)
        await pool.close()
        with pytest.raises(Unprocessable):
            await count(audio)
    await pool.close()
    assert decoders() == []


async def test_the_pools_own_limit_holds_unless_a_call_has_another() -> None:
    async with DecoderPool(MediaLimits(workers=1, max_audio_seconds=0.5, max_channels=1)) as pool:
        with pytest.raises(TooLarge, match=r"0\.5 s"):
            await works(pool)
        async with pool.open(SECOND, max_seconds=0) as audio:
            assert await count(audio) == SAMPLE_RATE
        with pytest.raises(TooLarge, match="2 channels, the limit here is 1"):
            async with pool.open(wav(bytes(6400), channels=2)):
                pytest.fail("it was opened")


def test_workers_die_with_their_parent() -> None:
    program = (
        "import asyncio\n"
        "from transformers_pre.audio.media import DecoderPool, MediaLimits\n"
        "async def main():\n"
        "    pool = DecoderPool(MediaLimits(workers=1))\n"
        "    await pool.start()\n"
        "    print(*(worker._process.pid for worker in pool._workers), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=10)
    assert not worker.is_running()


async def test_a_pool_that_cannot_start_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not start"):
        await DecoderPool(MediaLimits(workers=2)).start()
