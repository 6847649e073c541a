"""Decoders as processes: what a file may take, what it cannot break, and what is left behind (nothing)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import psutil
import pytest

from serving import telemetry
from serving.errors import Overloaded, TooLarge, Unprocessable
from tests.children import children
from tests.pods import wait_for
from tests.servers import until
from tests.unit.audio.limits import media_limits
from tests.unit.audio.media_files import encode, one_packet, stored, wav
from transformers_pre.audio.media import SAMPLE_RATE, DecodedAudio, DecoderPool

ONE = media_limits(workers=1)
SECOND = wav(bytes(2 * SAMPLE_RATE))


def decoders() -> list[psutil.Process]:
    return children("transformers_pre.audio.decoder")


async def count(audio: DecodedAudio) -> int:
    return sum([len(block) async for block in audio])


async def works(pool: DecoderPool) -> bool:
    with stored(SECOND) as second:
        async with pool.open(second) as audio:
            return await count(audio) == SAMPLE_RATE


@pytest.fixture
def endless(nothing_left_behind: None) -> Iterator[BinaryIO]:
    """A WAV of five hours of silence; the file is sparse, it takes no room."""
    with stored(wav(b"", declared=5 * 3600 * 2 * SAMPLE_RATE)) as file:
        file.truncate(44 + 5 * 3600 * 2 * SAMPLE_RATE)
        yield file


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
    async with DecoderPool(media_limits()) as pool:
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
        with stored(flac) as file:
            async with pool.open(file) as audio:
                async for block in audio:
                    assert len(block) < 2 * SAMPLE_RATE
                    blocks += 1
                    if blocks % 100 == 0:
                        peak = max(peak, psutil.Process().memory_info().rss - before)
                        worker_peak = max(worker_peak, worker.memory_info().rss - worker_before)
    assert 3600 <= blocks <= 3700
    assert peak < 16 << 20  # the hour itself takes 230 MB
    assert worker_peak < 32 << 20


async def test_a_reader_that_stops_stops_the_decoder(endless: BinaryIO) -> None:
    async with DecoderPool(ONE) as pool, pool.open(endless) as audio:
        (worker,) = decoders()
        block = await anext(audio)
        # It sleeps while it waits for room in its socket.
        await asyncio.to_thread(wait_for, "held back", lambda: worker.status() == psutil.STATUS_SLEEPING)
        used = sum(worker.cpu_times()[:2])
        assert len(block) < 2 * SAMPLE_RATE
        assert used < 5  # five hours of audio take longer


async def test_a_file_that_takes_too_much_memory_is_refused_by_name() -> None:
    with stored(one_packet(bytes(24 << 20))) as bomb:
        async with DecoderPool(media_limits(workers=1, memory_bytes=40 << 20)) as pool:
            with pytest.raises(Unprocessable, match=r"41943040 bytes, .*\(DECODE_MEMORY_BYTES\)") as caught:
                async with pool.open(bomb) as audio:
                    await count(audio)
            assert caught.value.code == "decoder_memory"
            assert await works(pool)
        async with DecoderPool(ONE) as pool, pool.open(bomb) as audio:
            assert await count(audio) == 12 << 20


async def test_decoding_that_takes_too_long_is_refused(endless: BinaryIO) -> None:
    async with DecoderPool(media_limits(workers=1, timeout_seconds=0.2)) as pool:
        with pytest.raises(
            Unprocessable, match=r"longer to decode than 0\.2 s, .*\(DECODE_TIMEOUT_SECONDS\)"
        ) as caught:
            async with pool.open(endless) as audio:
                await count(audio)
        assert caught.value.code == "decode_timeout"
    async with DecoderPool(ONE) as pool:
        assert await works(pool)


async def test_a_slow_reader_is_no_slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, away = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + away)
    with stored(wav(bytes(2 * 4 * SAMPLE_RATE))) as four_seconds:
        async with DecoderPool(ONE) as pool, pool.open(four_seconds) as audio:
            samples = 0
            async for block in audio:
                samples += len(block)
                away += ONE.timeout_seconds  # the reader's own time
            assert samples == 4 * SAMPLE_RATE


async def test_a_worker_that_is_killed_fails_its_file_alone(endless: BinaryIO) -> None:
    async with DecoderPool(media_limits()) as pool:
        async with pool.open(endless) as other:
            async with pool.open(endless) as audio:
                await anext(audio)
                victim = audio._worker._process.pid
                assert victim in {worker.pid for worker in decoders()}
                os.kill(victim, signal.SIGKILL)
                with pytest.raises(Unprocessable, match=r"its decoder stopped, .*\(DECODE_MEMORY_BYTES\)") as caught:
                    await count(audio)
            assert caught.value.code == "decoder_died"
            assert len(await anext(other)) > 0
        assert await works(pool)
        await until(lambda: not psutil.pid_exists(victim))


async def test_a_free_worker_that_dies_is_replaced_unseen() -> None:
    async with DecoderPool(ONE) as pool:
        (worker,) = decoders()
        worker.kill()
        await asyncio.to_thread(worker.wait, 10)
        assert await works(pool)
        assert await works(pool)


async def test_leaving_early_frees_the_worker(endless: BinaryIO) -> None:
    async with DecoderPool(ONE) as pool:
        async with pool.open(endless) as audio:
            await anext(audio)
        assert await works(pool)
        with contextlib.suppress(ZeroDivisionError):
            async with pool.open(endless) as audio:
                raise ZeroDivisionError
        assert await works(pool)
        assert len(decoders()) == 1


async def test_cancelling_frees_the_worker_and_the_queue(endless: BinaryIO) -> None:
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


async def test_closing_ends_workers_that_are_busy(endless: BinaryIO) -> None:
    pool = DecoderPool(media_limits())
    await pool.start()
    async with pool.open(endless) as audio:
        await anext(audio)
        await pool.close()
        with pytest.raises(Unprocessable):
            await count(audio)
    await pool.close()
    assert decoders() == []


def waiting_for_a_decoder() -> float:
    (metric,) = telemetry.DECODE_QUEUE_LENGTH.collect()
    return metric.samples[0].value


async def test_only_so_many_recordings_wait_for_a_decoder(endless: BinaryIO) -> None:
    async with DecoderPool(media_limits(workers=1, queue=2)) as pool:
        async with pool.open(endless):
            waiting = [asyncio.create_task(works(pool)) for _ in range(2)]
            await asyncio.sleep(0)  # both begin
            assert waiting_for_a_decoder() == 2
            with pytest.raises(
                Overloaded, match=r"as many recordings wait as may: 2, the limit here \(DECODE_QUEUE\)"
            ) as caught:
                await works(pool)
            assert caught.value.code == "decoders_busy"
            assert caught.value.retry_after == 1.0
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            waiting.append(asyncio.create_task(works(pool)))  # into the place of the one that left
        assert [await task for task in waiting[1:]] == [True, True]
        assert waiting_for_a_decoder() == 0
        assert await works(pool)


async def test_a_queue_is_for_busy_decoders_only() -> None:
    async with DecoderPool(media_limits(workers=2, queue=1)) as pool:
        assert await asyncio.gather(*(works(pool) for _ in range(3))) == [True] * 3


async def test_limits_of_what_a_file_holds() -> None:
    async with DecoderPool(media_limits(workers=1, max_audio_seconds=0.5, max_channels=1)) as pool:
        with pytest.raises(TooLarge, match=r"0\.5 s, the limit here \(MAX_AUDIO_SECONDS\)"):
            await works(pool)
        with (
            stored(wav(bytes(6400), channels=2)) as stereo,
            pytest.raises(TooLarge, match=r"2 channels, at most 1 are accepted \(MAX_CHANNELS\)"),
        ):
            async with pool.open(stereo):
                pytest.fail("it was opened")


def test_workers_die_with_their_parent() -> None:
    program = (
        "import asyncio\n"
        "from tests.unit.audio.limits import media_limits\n"
        "from transformers_pre.audio.media import DecoderPool\n"
        "async def main():\n"
        "    pool = DecoderPool(media_limits(workers=1))\n"
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
        await DecoderPool(media_limits()).start()
