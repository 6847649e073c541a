"""Containers over the live routes, the engine apart: the same utterances as of raw samples."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import soxr

from tests.streams import EOF, RATE, answers, connected, send, streamed, vosk_answers
from tests.unit.audio.live import SPEECH, LivePod, heard, live_pod
from tests.unit.audio.media_files import encode

STEREO = np.stack([soxr.resample(SPEECH, RATE, 48_000)] * 2, axis=1)
WEBM = encode("webm", "libopus", 48_000, STEREO, live="1")
OGG = encode("ogg", "libopus", 48_000, STEREO)
CONTAINER = {"audio_format": "container"}


async def of_container(pod: LivePod, data: bytes, size: int) -> list[dict[str, Any]]:
    return await streamed(pod.url("/ws"), data, size, **CONTAINER)


@pytest.mark.parametrize("data", [WEBM, OGG], ids=["WebM", "Ogg"])
async def test_the_utterances_are_those_of_the_samples(pod: LivePod, data: bytes) -> None:
    native = await heard(pod, SPEECH)
    found = await of_container(pod, data, 400)
    assert [answer["error"] for answer in found] == [None] * 4
    for one, other in zip(found[:3], native[:3], strict=True):
        for when in ("start", "end"):
            assert one["data"]["result"][0][when] == pytest.approx(other["data"]["result"][0][when], abs=0.1)
    assert await of_container(pod, data, 30_000) == found


async def test_an_utterance_is_told_while_the_container_goes_on(pod: LivePod) -> None:
    async with connected(pod.url("/ws"), {"wait_null_answers": False, **CONTAINER}) as socket:
        await send(socket, WEBM[: 2 * len(WEBM) // 3], 400)
        first = json.loads(await asyncio.wait_for(socket.recv(), 20))
        assert (first["silence"], first["last_message"]) == (False, False)
        await send(socket, WEBM[2 * len(WEBM) // 3 :], 400)
        await socket.send(EOF)
        assert [answer["last_message"] for answer in await answers(socket)] == [False, False, True]


async def test_vosk_servers_protocol(pod: LivePod) -> None:
    found = await vosk_answers(pod.url("/vosk"), OGG, 1000, words=True, **CONTAINER)
    assert len(found) == -(-len(OGG) // 1000) + 1
    words = [word for each in found for word in each.get("result", [])]
    assert words == [word for each in await of_container(pod, OGG, 1000) for word in each["data"]["result"]]


NOISE = np.random.default_rng(0).bytes(100_000)
LONG_OGG = encode("ogg", "libopus", 48_000, np.concatenate([STEREO] * 3))


@pytest.mark.parametrize(
    "data",
    [OGG[: len(OGG) // 2] + NOISE, WEBM[: len(WEBM) // 2] + NOISE, LONG_OGG[: len(OGG)] + NOISE + LONG_OGG[len(OGG) :]],
    ids=["Ogg to its end", "WebM to its end", "Ogg in the middle"],
)
async def test_damage_is_told_behind_the_words_that_were_understood(pod: LivePod, data: bytes) -> None:
    """FFmpeg looks for the next page or cluster, and says nothing of what lies between."""
    *words, last = await of_container(pod, data, 4000)
    assert "the audio is damaged" in last["error"]
    assert [answer["error"] for answer in words] == [None] * len(words)
    assert sum(not answer["silence"] for answer in words) >= 1


@pytest.mark.parametrize("path", ["/ws", "/vosk"])
@pytest.mark.parametrize(
    ("config", "data", "says"),
    [
        (CONTAINER, b"no audio at all" * 1000, "no audio that is read here"),
        ({"audio_format": "webm"}, WEBM, "pcm16"),
    ],
)
async def test_mistakes_are_told(pod: LivePod, path: str, config: dict[str, Any], data: bytes, says: str) -> None:
    async with connected(pod.url(path), config) as socket:
        await send(socket, data)
        await socket.send(EOF)
        *_, last = await answers(socket)
        assert says in last["error"]
        assert socket.close_code in (1003, 1007)


async def test_the_connections_that_need_a_decoder_are_limited() -> None:
    async with live_pod(stream_decoders=1) as pod, connected(pod.url("/ws"), CONTAINER) as first:
        await send(first, WEBM[:4000])
        async with connected(pod.url("/ws"), CONTAINER) as second:
            await send(second, WEBM[:4000])
            (answer,) = await answers(second)
            assert "STREAM_DECODERS" in answer["error"]
            assert second.close_code == 1013
        assert len(await heard(pod, SPEECH)) == 4  # raw samples need none
        await first.close()
        assert len(await of_container(pod, WEBM, 4000)) == 4


async def test_what_is_too_long_is_told() -> None:
    async with live_pod(stream_max_seconds=2) as pod:
        *_, last = await of_container(pod, WEBM, 4000)
        assert "STREAM_MAX_SECONDS" in last["error"]
