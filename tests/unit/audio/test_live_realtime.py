"""WS `/v1/realtime`: OpenAI's realtime transcription by the stock client, the engine apart."""

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
import websockets

from tests.streams import RATE, chunk, connected, realtime
from tests.synthesis import speak
from tests.unit.audio.live import SENTENCES, SPEECH, LivePod, live_pod

FIRST = np.concatenate([speak(SENTENCES[0]), np.zeros(RATE, np.float32)])


async def test_the_stock_realtime_client_gets_an_item_an_utterance(pod: LivePod) -> None:
    async with realtime(f"http://{pod.address}") as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {"language": "en"}}
                },
            }  # type: ignore[arg-type]
        )
        updated = await connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.input.transcription.language == "en"
        for start in range(0, len(SPEECH), RATE // 5):
            await connection.input_audio_buffer.append(audio=chunk(SPEECH[start : start + RATE // 5]))
        events = []
        async with asyncio.timeout(20):
            while sum(event.type.endswith(".completed") for event in events) < 3:
                events.append(await connection.recv())
    kinds = [event.type for event in events if event.type.startswith("input_audio_buffer")]
    assert (
        kinds
        == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
        ]
        * 3
    )
    completed = [event for event in events if event.type.endswith(".completed")]
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.item_id for event in completed] == [event.item_id for event in committed]
    assert [event.previous_item_id for event in committed] == [None, *(event.item_id for event in committed[:-1])]
    deltas = [event.delta for event in events if event.type.endswith(".delta")]
    assert deltas == [event.transcript for event in completed]
    assert all(deltas)
    starts = [event.audio_start_ms for event in events if event.type.endswith("speech_started")]
    assert starts == sorted(starts)
    assert all(event.usage.seconds > 0 for event in completed)


async def test_without_turn_detection_a_commit_makes_an_item(pod: LivePod) -> None:
    async with realtime(f"http://{pod.address}") as connection:
        await connection.recv()
        audio = {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": None}}
        await connection.session.update(session={"type": "transcription", "audio": audio})  # type: ignore[arg-type]
        assert (await connection.recv()).session.audio.input.turn_detection is None
        for _ in range(2):
            await connection.input_audio_buffer.append(audio=chunk(SPEECH))
            await connection.input_audio_buffer.commit()
            kinds = []
            async with asyncio.timeout(20):
                while not kinds or kinds[-1].type.rpartition(".")[2] != "completed":
                    kinds.append(await connection.recv())
            assert [event.type for event in kinds][:2] == ["input_audio_buffer.committed", "conversation.item.added"]
            assert kinds[-1].transcript == kinds[-2].delta
            assert kinds[-1].usage.seconds == pytest.approx(len(SPEECH) / RATE, abs=0.01)
        await connection.input_audio_buffer.append(audio=chunk(SPEECH))
        await connection.input_audio_buffer.clear()
        assert (await connection.recv()).type == "input_audio_buffer.cleared"
        await connection.input_audio_buffer.commit()
        error = await connection.recv()
        assert (error.type, error.error.code) == ("error", "input_audio_buffer_commit_empty")


async def session(connection: Any) -> None:
    """Turn detection at 16 kHz; both events of the beginning are read."""
    audio = {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": {"type": "server_vad"}}}
    await connection.session.update(session={"type": "transcription", "audio": audio})
    assert [(await connection.recv()).type for _ in range(2)] == ["session.created", "session.updated"]


async def until_event(connection: Any, kind: str) -> list[Any]:
    """The events up to the next of this type."""
    events: list[Any] = []
    async with asyncio.timeout(30):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
    return events


async def test_the_events_of_a_turn_come_in_openais_order(pod: LivePod) -> None:
    async with realtime(f"http://{pod.address}") as connection:
        await session(connection)
        await connection.input_audio_buffer.append(audio=chunk(FIRST))
        events = await until_event(connection, "conversation.item.input_audio_transcription.completed")
    assert [event.type.removeprefix("conversation.item.") for event in events] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "added",
        "done",
        "input_audio_transcription.delta",
        "input_audio_transcription.completed",
    ]


async def test_what_has_been_committed_is_told_though_the_buffer_is_cleared(pod: LivePod) -> None:
    gate = threading.Event()
    pod.engine.before = lambda items: gate.wait(30) and None
    try:
        async with realtime(f"http://{pod.address}") as connection:
            await session(connection)
            await connection.input_audio_buffer.append(audio=chunk(np.concatenate([FIRST, SPEECH[:RATE]])))
            committed = (await until_event(connection, "input_audio_buffer.committed"))[-1]
            await connection.input_audio_buffer.clear()
            gate.set()
            events = await until_event(connection, "input_audio_buffer.cleared")
            told = [event for event in events if event.type.endswith(".completed")]
            assert [event.item_id for event in told] == [committed.item_id]
            assert told[0].transcript
            await connection.input_audio_buffer.commit()
            assert (await connection.recv()).error.code == "input_audio_buffer_commit_empty"
            await connection.input_audio_buffer.append(audio="")
            await connection.input_audio_buffer.commit()
            assert (await connection.recv()).error.code == "input_audio_buffer_commit_empty"
    finally:
        gate.set()


async def test_a_commit_of_silence_is_answered_in_turns_too(pod: LivePod) -> None:
    async with realtime(f"http://{pod.address}") as connection:
        await session(connection)
        await connection.input_audio_buffer.append(audio=chunk(np.zeros(RATE, np.float32)))
        await connection.input_audio_buffer.commit()
        committed, *_, completed = await until_event(
            connection, "conversation.item.input_audio_transcription.completed"
        )
    assert (committed.type, completed.item_id) == ("input_audio_buffer.committed", committed.item_id)
    assert (completed.transcript, completed.usage.seconds) == ("", 1.0)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"type": "response.create"}, "not known here"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "transcription"),
        ({"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}}, "audio/pcm"),
        (
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}},
            "server_vad",
        ),
        ({"type": "session.update", "session": "x"}, "must be an object"),
        ({"type": "input_audio_buffer.append", "audio": "***"}, "not base64"),
        ({"type": "input_audio_buffer.append"}, "as base64"),
    ],
)
async def test_realtime_mistakes_are_told_and_the_connection_goes_on(
    pod: LivePod, event: dict[str, Any], says: str
) -> None:
    async with connected(pod.url("/v1/realtime?intent=transcription")) as socket:
        await socket.recv()
        await socket.send(json.dumps({**event, "event_id": "mine"}))
        answer = json.loads(await socket.recv())
        assert (answer["type"], answer["error"]["event_id"]) == ("error", "mine")
        assert says in answer["error"]["message"]
        await socket.send('{"type": "input_audio_buffer.clear"}')
        assert json.loads(await socket.recv())["type"] == "input_audio_buffer.cleared"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["realtime", "openai-insecure-api-key.sesame"], "realtime"), (["openai-insecure-api-key.sesame"], None)],
)
async def test_a_browser_sends_its_key_as_a_subprotocol(offered: list[Any], chosen: str | None) -> None:
    """As OpenAI's JavaScript client does; a browser ends a connection whose server chooses none of what it offers."""
    async with (
        live_pod(keys="sesame") as pod,
        websockets.connect(pod.url("/v1/realtime"), subprotocols=offered, proxy=None) as socket,
    ):
        assert json.loads(await socket.recv())["type"] == "session.created"
        assert socket.subprotocol == chosen


@pytest.mark.parametrize("offered", [["realtime"], ["realtime", "openai-insecure-api-key.guess"], ["sesame"]])
async def test_a_subprotocol_without_the_key_opens_nothing(offered: list[Any]) -> None:
    async with live_pod(keys="sesame") as pod:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(pod.url("/v1/realtime"), subprotocols=offered, proxy=None)
    assert refused.value.response.status_code == 401
