"""Containers that come while they are made: the same samples as from the whole file, piece by piece, within bounds."""

import asyncio
import os
import signal

import numpy as np
import psutil
import pytest

from serving.errors import Overloaded, ServingError, Unprocessable, UnsupportedMedia
from tests.servers import until
from tests.unit.audio.limits import media_limits
from tests.unit.audio.media_files import Samples, decode, encode, tones, wav
from transformers_pre.audio.container_stream import ContainerPool, ContainerStream
from transformers_pre.audio.media import DecoderPool

RATE = 16_000
KINDS = {
    "a browser's WebM": ("webm", "libopus", 48_000, {"live": "1"}),
    "WebM": ("webm", "libopus", 48_000, {}),
    "Ogg Opus": ("ogg", "libopus", 48_000, {}),
    "fragmented MP4": ("mp4", "aac", 44_100, {"movflags": "frag_keyframe+empty_moov"}),
    "ADTS": ("adts", "aac", 44_100, {}),
    "MP3": ("mp3", "libmp3lame", 44_100, {}),
    "FLAC": ("flac", "flac", 16_000, {}),
    "WAV": ("wav", "pcm_s16le", 8_000, {}),
}


def made(kind: str, seconds: float = 3.0, channels: int = 1) -> bytes:
    container, codec, rate, options = KINDS[kind]
    return encode(container, codec, rate, tones(rate, seconds, channels), **options)


async def decoded(pool: ContainerPool, data: bytes, size: int = 1000) -> list[Samples]:
    """The blocks that come of `data` in pieces of `size` bytes."""
    blocks: list[Samples] = []

    async def deliver(block: Samples) -> None:
        blocks.append(block)

    async with ContainerStream(pool, deliver) as stream:
        for start in range(0, len(data), size):
            await stream.push(data[start : start + size])
        await stream.finish()
    return blocks


def container_pool(connections: int = 1, **limits: object) -> ContainerPool:
    return ContainerPool(connections, media_limits(**limits))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_samples_are_those_of_the_whole_file(kind: str) -> None:
    data = made(kind, channels=2)
    async with DecoderPool(media_limits(workers=1)) as files, container_pool() as pool:
        whole = await decode(files, data)
        blocks = await decoded(pool, data)
    assert max(map(len, blocks)) <= RATE / 5
    samples = np.concatenate(blocks)
    assert len(samples) == pytest.approx(len(whole), abs=RATE // 10)  # lengths at a file's end are estimates
    shared = min(len(samples), len(whole)) - RATE // 10
    assert np.abs(samples[:shared] - whole[:shared]).max() < 1e-3


async def test_pieces_make_no_difference() -> None:
    data = made("a browser's WebM")
    async with container_pool() as pool:
        whole = [block.tolist() for block in await decoded(pool, data, len(data))]
        for size in (3, 997, 200_000):
            assert [block.tolist() for block in await decoded(pool, data, size)] == whole
        assert len(pool._workers) == 1  # one process, used again


async def test_no_worker_before_it_is_needed_and_no_more_than_may_be() -> None:
    data = made("Ogg Opus")
    async with container_pool() as pool, asyncio.timeout(60):
        assert pool._workers == set()
        async with ContainerStream(pool, lambda block: asyncio.sleep(0)) as stream:
            await stream.push(data[:5000])
            with pytest.raises(Overloaded, match="STREAM_DECODERS"):
                await decoded(pool, data)
        assert len(await decoded(pool, data)) > 20


async def test_blocks_come_as_soon_as_their_bytes_are_there() -> None:
    data = made("a browser's WebM", 4.0)
    heard = 0

    async def deliver(block: Samples) -> None:
        nonlocal heard
        heard += len(block)

    async with container_pool() as pool, ContainerStream(pool, deliver) as stream, asyncio.timeout(60):
        await stream.push(data[: len(data) // 2])
        await until(lambda: heard > 1.5 * RATE, 30)
        assert heard < 2.5 * RATE


async def test_what_is_slow_to_be_taken_holds_the_sender_back() -> None:
    gate = asyncio.Event()
    data = wav(bytes(4 << 20))
    sent = 0

    async def push(stream: ContainerStream) -> None:
        nonlocal sent
        for start in range(0, len(data), 1 << 16):
            await stream.push(data[start : start + (1 << 16)])
            sent += 1 << 16

    async with container_pool() as pool, ContainerStream(pool, lambda block: gate.wait()) as stream:  # type: ignore[arg-type,return-value]
        pushing = asyncio.create_task(push(stream))
        stalled = -1
        async with asyncio.timeout(60):
            while stalled != sent or not sent:
                stalled = sent
                await asyncio.wait({pushing}, timeout=1)
        assert sent < 2 << 20
        gate.set()
        await pushing
        await stream.finish()


async def test_a_long_stream_takes_no_more_memory_than_a_short_one() -> None:
    hour = encode("matroska", "pcm_s16le", 8_000, np.zeros((8_000 * 3600, 1), np.float32), live="1")
    async with container_pool() as pool:
        await decoded(pool, hour[: 1 << 20], 1 << 16)
        (worker,) = pool._workers
        process = psutil.Process(worker._process.pid)
        before = process.memory_info().rss
        blocks = await decoded(pool, hour, 1 << 16)
        assert sum(map(len, blocks)) == pytest.approx(3600 * RATE, rel=0.001)
        assert process.memory_info().rss - before < 8e6  # of 58 MB that went through it


async def test_time_counts_only_while_there_is_something_to_decode() -> None:
    data = made("Ogg Opus")
    async with container_pool(timeout_seconds=2.0) as pool:

        async def deliver(block: Samples) -> None:
            """Takes it."""

        async with ContainerStream(pool, deliver) as stream:
            await stream.push(data[: len(data) // 2])
            done, _ = await asyncio.wait({stream._pieces._task}, timeout=3.0)  # longer than one piece may take
            assert not done
            await stream.push(data[len(data) // 2 :])
            await stream.finish()
            (worker,) = pool._workers
        async with ContainerStream(pool, deliver) as stream:
            os.kill(worker._process.pid, signal.SIGSTOP)
            await stream.push(data)
            with pytest.raises(Unprocessable, match="DECODE_TIMEOUT_SECONDS"):
                await stream.finish()


async def test_a_worker_that_dies_ends_its_stream_alone() -> None:
    data = made("Ogg Opus")
    async with container_pool(2) as pool, ContainerStream(pool, lambda block: asyncio.sleep(0)) as stream:
        await stream.push(data[:1000])
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(Unprocessable, match="its decoder stopped"):
            await stream.finish()
        assert len(await decoded(pool, data)) > 20


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no audio at all" * 1000, UnsupportedMedia),
        (encode("mp4", "aac", 44_100, tones(44_100, 2.0)), UnsupportedMedia),  # its index comes behind its samples
        (made("a browser's WebM")[:60], ServingError),
    ],
    ids=["text", "MP4 of a file", "a header's half"],
)
async def test_what_cannot_be_read_as_it_comes_is_refused(data: bytes, kind: type[ServingError]) -> None:
    async with container_pool() as pool:
        with pytest.raises(kind):
            await decoded(pool, data)
        assert len(await decoded(pool, made("Ogg Opus"))) > 20
