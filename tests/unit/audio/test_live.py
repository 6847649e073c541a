"""Live speech over real sockets, the engine apart: order, packets, limits, and every way in which a connection ends."""

import asyncio
import contextlib
import threading
import time
from typing import Any

import numpy as np
import pytest
import soxr
import websockets

from serving.errors import PredictorUnavailable
from tests.servers import until
from tests.streams import EOF, RATE, answers, connected, pcm16, send
from tests.unit.audio.live import SPEECH, LivePod, heard, live_pod
from transformers_pre.audio.pcm import PcmStream


async def test_each_utterance_is_told_once_in_order_and_the_last_message_says_so(pod: LivePod) -> None:
    found = await heard(pod, SPEECH)
    assert [answer["last_message"] for answer in found] == [False] * 3 + [True]
    assert [answer["silence"] for answer in found] == [False] * 3 + [True]
    assert all(answer["error"] is None for answer in found)
    words = [word for answer in found for word in answer["data"]["result"]]
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
    assert words[-1]["end"] <= len(SPEECH) / RATE
    assert all(set(word) == {"conf", "start", "end", "word"} for word in words)
    assert found[0]["data"]["text"] == " ".join(word["word"] for word in found[0]["data"]["result"])


async def test_speech_up_to_the_very_end_is_told(pod: LivePod) -> None:
    cut_off = SPEECH[: -RATE - RATE // 4]
    found = await heard(pod, cut_off)
    assert [answer["silence"] for answer in found] == [False] * 3 + [True]
    assert found[2]["data"]["result"][-1]["end"] == pytest.approx(len(cut_off) / RATE, abs=0.15)


@pytest.mark.parametrize("size", [2, 3, 641, 30 * RATE * 2])
async def test_packets_make_no_difference(pod: LivePod, size: int) -> None:
    samples = SPEECH[:RATE] if size < 100 else SPEECH
    whole, parts = await heard(pod, samples, 6400), await heard(pod, samples, size)
    assert parts == whole
    assert sum(not answer["silence"] for answer in whole) >= 1


async def test_silence_is_answered_only_if_the_client_waits_for_it(pod: LivePod) -> None:
    silence = np.zeros(20 * RATE, np.float32)
    found = await heard(pod, silence, wait_null_answers=True)
    assert [answer["last_message"] for answer in found] == [False, False, True]
    assert all(answer["silence"] for answer in found)
    (only,) = await heard(pod, silence)
    assert only == {"silence": True, "data": {"result": [], "text": ""}, "error": None, "last_message": True}
    assert pod.engine.lengths[1:] == []  # the warm-up alone: no recogniser has heard it


async def test_channels_are_transcribed_apart(pod: LivePod) -> None:
    both = np.stack([SPEECH, np.roll(SPEECH, RATE // 2)], axis=1)
    found = await heard(pod, both, channels=2)
    names = {answer["channel_name"] for answer in found}
    assert names == {"channel_1", "channel_2"}
    for name in names:
        own = [answer for answer in found if answer["channel_name"] == name]
        assert sum(not answer["silence"] for answer in own) == 3
    assert [answer["last_message"] for answer in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
async def test_any_rate_has_the_same_utterances(pod: LivePod, rate: int) -> None:
    found = await heard(pod, soxr.resample(SPEECH, RATE, rate), sample_rate=rate)
    assert [answer["silence"] for answer in found] == [False] * 3 + [True]
    native = await heard(pod, SPEECH)
    assert found[2]["data"]["result"][0]["start"] == pytest.approx(native[2]["data"]["result"][0]["start"], abs=0.1)


@pytest.mark.parametrize(
    ("messages", "stretches", "code", "says"),
    [
        (["hello"], 0, 1007, '{"config": {…}}'),
        (['{"config": 5}'], 0, 1007, "'config' must be an object"),
        (['{"config": {"sample_rate": 0}}', b"ab"], 0, 1007, "from 4000 to 192000"),
        (['{"config": {"channels": 0}}', b"ab"], 0, 1007, "channels must be 1 or more"),
        (['{"config": {"channels": 99}}', b"ab"], 0, 1009, "at most 8 are accepted (MAX_CHANNELS)"),
        (['{"config": {"audio_format": "mp3"}}', b"ab"], 0, 1007, "pcm16, float32 or container"),
        (['{"config": {"language": "klingon"}}', b"ab"], 0, 1007, "ISO-639-1"),
        ([b"ab", '{"config": {}}'], 1, 1007, "before the first samples"),
        ([b"abc", '{"eof": 1}'], 1, 1007, "into a sample of 2 bytes"),
    ],
)
async def test_what_is_wrong_is_told_and_ends_the_connection(
    pod: LivePod, messages: list[Any], stretches: int, code: int, says: str
) -> None:
    """After the answers for the `stretches` of sound that came before it."""
    async with connected(pod.url("/ws")) as socket:
        for message in messages:
            await socket.send(message)
        *before, answer = await answers(socket)
        assert [(other["silence"], other["error"]) for other in before] == [(True, None)] * stretches
        assert says in answer["error"]
        assert answer["last_message"]
        assert socket.close_code == code


async def test_a_stretch_that_fails_is_told_and_the_rest_goes_on() -> None:
    async with live_pod(stream_partial_seconds=0) as pod:
        pod.engine.before = lambda items: setattr(pod.engine, "refuse_above", 9.0 if len(pod.engine.lengths) > 1 else 0)
        found = await heard(pod, SPEECH)
    assert [answer["error"] is not None for answer in found] == [True, False, False, False]
    assert "too loud for a fake" in found[0]["error"]


async def test_connections_are_limited() -> None:
    async with live_pod(stream_max_connections=1) as pod, connected(pod.url("/ws")) as first:
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with connected(pod.url("/vosk")):
                pass
        assert caught.value.response.status_code == 503
        assert b"STREAM_MAX_CONNECTIONS" in caught.value.response.body
        await first.close()
        async with connected(pod.url("/vosk")) as second:
            await second.send(EOF)
            assert await answers(second) == [{"text": ""}]


async def test_the_length_is_limited() -> None:
    async with live_pod(stream_max_seconds=2) as pod:
        found = await heard(pod, SPEECH)
        assert "longer than 2 s, the limit here (STREAM_MAX_SECONDS)" in found[-1]["error"]


async def test_a_client_that_says_nothing_is_let_go_with_its_last_words() -> None:
    async with live_pod(stream_idle_seconds=0.5) as pod, connected(pod.url("/ws"), {"sample_rate": RATE}) as socket:
        await send(socket, pcm16(SPEECH[: 2 * RATE]))
        found = await answers(socket)
        assert found[-1]["last_message"]
        assert any(not answer["silence"] for answer in found)
        assert socket.close_code == 1001
        assert "STREAM_IDLE_SECONDS" in socket.close_reason


@pytest.mark.parametrize("path", ["/ws", "/vosk"])
async def test_a_pod_that_stops_finishes_the_utterance_and_tells_its_client_to_come_again(path: str) -> None:
    async with live_pod() as pod, connected(pod.url(path), {"sample_rate": RATE, "words": 1}) as socket:
        await send(socket, pcm16(SPEECH[: 2 * RATE]))
        await until(lambda: len(pod.engine.lengths) > 1)  # a partial text was asked for: it has arrived
        pod.drain.begin()
        found = await answers(socket)
        assert socket.close_code == 1012
        assert "connect again" in socket.close_reason
        assert any((answer["data"] if path == "/ws" else answer).get("result") for answer in found)
        await asyncio.wait_for(pod.drain.wait(), 5)


async def test_a_connection_ends_before_the_platform_would_cut_it() -> None:
    async with live_pod(stream_session_seconds=0.5) as pod, connected(pod.url("/ws"), {"sample_rate": RATE}) as socket:
        await send(socket, pcm16(SPEECH[: 2 * RATE]))
        found = await answers(socket)
        assert found[-1]["last_message"]
        assert any(not answer["silence"] for answer in found)
        assert (socket.close_code, "STREAM_SESSION_SECONDS" in socket.close_reason) == (1012, True)


async def test_a_client_that_goes_away_leaves_nothing_behind(pod: LivePod) -> None:
    before = len(asyncio.all_tasks())
    for path in ("/ws", "/vosk"):
        async with connected(pod.url(path), {"sample_rate": RATE}) as socket:
            await send(socket, pcm16(SPEECH[: 2 * RATE]))
            socket.transport.abort()
    await asyncio.wait_for(pod.drain.wait(), 10)
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # closing sockets have tasks of their own
            await asyncio.sleep(0.01)


async def test_a_predictor_that_goes_away_is_asked_again(pod: LivePod, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    recognise = pod.transcriber.recognise

    async def unlucky(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise PredictorUnavailable("the predictor went away while it worked on this request")
        return await recognise(*args)

    monkeypatch.setattr(pod.transcriber, "recognise", unlucky)
    found = await heard(pod, SPEECH)
    assert [answer["silence"] for answer in found] == [False] * 3 + [True]
    assert calls == 4


async def test_a_client_that_sends_faster_than_it_is_recognised_waits(pod: LivePod) -> None:
    gate = threading.Event()
    pod.engine.before = lambda items: gate.wait(30) and None
    data, sent = pcm16(np.concatenate([SPEECH] * 150)), 0  # 20 minutes, 38 MB; the system's buffers take up to 10

    async def send_all(socket: Any) -> None:
        nonlocal sent
        with contextlib.suppress(websockets.ConnectionClosed):
            while sent < len(data):
                await socket.send(data[sent : sent + 64_000])
                sent += 64_000

    try:
        async with connected(pod.url("/ws"), {"sample_rate": RATE}) as socket:
            sending = asyncio.create_task(send_all(socket))
            stalled_at = -1
            async with asyncio.timeout(50):
                while stalled_at != sent:
                    stalled_at = sent
                    await asyncio.wait({sending}, timeout=2)
            assert 0 < sent < len(data) / 2
            socket.transport.abort()
            await sending
    finally:
        gate.set()
    await asyncio.wait_for(pod.drain.wait(), 10)


async def test_a_long_message_is_converted_piece_by_piece(pod: LivePod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length, which is the client's affair, neither stops all others nor is multiplied in memory."""
    lengths: list[int] = []
    push = PcmStream.push

    def noted(stream: PcmStream, data: bytes) -> Any:
        converted = push(stream, data)
        lengths.append(len(converted[0]))
        return converted

    monkeypatch.setattr(PcmStream, "push", noted)
    minute = np.zeros(60 * 4000, np.float32)
    assert [answer["error"] for answer in await heard(pod, minute, 2 * len(minute), sample_rate=4000)] == [None]
    assert sum(lengths) == pytest.approx(60 * RATE, rel=0.01)
    assert max(lengths) < 10 * RATE


async def test_a_slow_recogniser_loses_nothing(pod: LivePod) -> None:
    pod.engine.before = lambda items: time.sleep(0.05)
    found = await heard(pod, np.concatenate([SPEECH] * 8), 64_000)
    assert sum(not answer["silence"] for answer in found) == 24
