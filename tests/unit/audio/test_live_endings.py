"""How live connections end: what was said before is told, whatever ends them."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import websockets
from starlette.websockets import WebSocket

from serving.errors import InvalidInput, ServingError
from serving.middleware import Drain
from tests.streams import EOF, RATE, answers, chunk, connected, pcm16, realtime, send
from tests.unit.audio.live import SPEECH, LivePod, live_pod
from transformers_pre.audio.routes.live import Conversation, LiveConnections, Outbox
from transformers_pre.audio.settings import AudioSettings


def text(answer: Mapping[str, Any]) -> str:
    return str(answer.get("data", answer).get("text", ""))


@pytest.mark.parametrize("path", ["/ws", "/vosk"])
@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (['{"config": {}}'], "'config' comes before the first samples"),
        (['{"hello": 1}'], 'send {"config": {…}}'),
        ([b"a", EOF], "into a sample of 2 bytes"),
    ],
)
async def test_words_before_a_mistake_are_told(pod: LivePod, path: str, messages: list[Any], says: str) -> None:
    async with connected(pod.url(path), {"sample_rate": RATE}) as socket:
        await send(socket, pcm16(SPEECH[: 2 * RATE]))
        for message in messages:
            await socket.send(message)
        *before, last = await answers(socket)
    assert says in last["error"]
    assert not any(answer.get("error") for answer in before)
    assert any(text(answer) for answer in (*before, last))


async def test_words_before_the_limit_are_told() -> None:
    async with live_pod(stream_partial_seconds=0, stream_max_seconds=2) as pod:
        config = {"sample_rate": RATE, "wait_null_answers": False}
        async with connected(pod.url("/ws"), config) as socket:
            reading = asyncio.create_task(answers(socket))
            await send(socket, pcm16(SPEECH[: 2 * RATE + 1600]))
            first, last = await reading
    assert (first["error"], bool(text(first))) == (None, True)
    assert "STREAM_MAX_SECONDS" in last["error"]


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
async def test_words_before_half_a_sample_are_told_to_openais_client(pod: LivePod, turns: Any) -> None:
    audio = {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": turns}}
    said = []
    async with realtime(f"http://{pod.address}") as connection, asyncio.timeout(20):
        await connection.session.update(session={"type": "transcription", "audio": audio})  # type: ignore[arg-type]
        await connection.input_audio_buffer.append(audio=chunk(SPEECH[: 2 * RATE]))
        await connection.input_audio_buffer.append(audio="YQ==")
        await connection.input_audio_buffer.commit()
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                said.append(event.transcript)
            if event.type == "error":
                assert "into a sample of 2 bytes" in event.error.message
                break
    assert any(said)


@pytest.mark.parametrize("path", ["/ws", "/vosk", "/v1/realtime"])
async def test_a_message_of_very_many_values_is_not_parsed(pod: LivePod, path: str) -> None:
    async with connected(pod.url(path)) as socket:
        await socket.send('{"config": {"sample_rate": [' + "[]," * 10_000 + "[]]}}")
        *_, last = await answers(socket)
        assert "10000 values and names (STREAM_MAX_MESSAGE_VALUES)" in str(last["error"])
        assert socket.close_code == 1009


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("path", "messages", "says"),
    [
        ("/ws", ['{"config": {"language": %s}}', b"ab"], "ISO-639-1"),
        ("/ws", ['{"config": {"channels": %s}}', b"ab"], "channels must be 1 or more, got a list"),
        ("/ws", ['{"config": {"audio_format": %s}}', b"ab"], "or container, got a list"),
        ("/ws", ['{"config": {"sample_rate": %s}}', b"ab"], "to 192000, got a list"),
        ("/vosk", ['{"config": {"audio_format": %s}}'], "or container, got a list"),
        ("/vosk", ['{"config": {"sample_rate": %s}}'], "to 192000, got a list"),
    ],
)
async def test_a_nested_value_is_refused_as_any_other(pod: LivePod, path: str, messages: list[Any], says: str) -> None:
    async with connected(pod.url(path)) as socket:
        for message in messages:
            await socket.send(message.replace("%s", _nested(990)) if isinstance(message, str) else message)
        (answer,) = await answers(socket)
        assert (says in answer["error"], socket.close_code) == (True, 1007)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (f'{{"type": "x", "event_id": {_nested(260)}}}', "the event type 'x'"),  # more levels than an answer can have
        (json.dumps({"type": "x", "event_id": "x" * 1000}), "the event type 'x'"),
        (f'{{"type": {_nested(990)}}}', "the event type a list"),
    ],
    ids=["nested id", "long id", "nested type"],
)
async def test_openais_client_is_told_of_an_event_whose_id_is_none(pod: LivePod, event: str, says: str) -> None:
    async with connected(pod.url("/v1/realtime")) as socket, asyncio.timeout(20):
        await socket.recv()
        await socket.send(event)
        error = json.loads(await socket.recv())["error"]
        assert (says in error["message"], error["event_id"]) == (True, None)
        await socket.send('{"type": "input_audio_buffer.clear"}')
        assert json.loads(await socket.recv())["type"] == "input_audio_buffer.cleared"


class Echo(Conversation):
    """Answers each message twice."""

    def __init__(self, outbox: Outbox):
        self._outbox = outbox
        self.heard: list[str] = []
        self.finished = False

    async def __aexit__(self, *_exception: object) -> None: ...

    async def text(self, message: str) -> None:
        self.heard.append(message)
        for _ in range(2):
            await self._outbox.send({"heard": message})

    async def binary(self, data: bytes) -> None: ...

    async def finish(self) -> None:
        self.finished = True

    async def failed(self, error: ServingError) -> None: ...


def scripted(
    messages: asyncio.Queue[dict[str, Any]], sent: list[Any], *, vanished: bool = False, stuck: Sequence[str] = ()
) -> WebSocket:
    """A socket whose client sends `messages`; one that has vanished is noticed when it is sent something.

    Messages of the types in `stuck` cannot be sent: it does not read.
    """

    async def deliver(message: Mapping[str, Any]) -> None:
        if message["type"] in stuck:
            await asyncio.Event().wait()
        if vanished and message["type"] == "websocket.send":
            raise OSError("the client is gone")
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "extensions": {}}
    return WebSocket(scope, messages.get, deliver)  # type: ignore[arg-type]


def client_messages(*texts: str) -> asyncio.Queue[dict[str, Any]]:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    queue.put_nowait({"type": "websocket.connect"})
    for said in texts:
        queue.put_nowait({"type": "websocket.receive", "text": said})
    return queue


async def test_what_has_arrived_when_the_pod_stops_is_taken() -> None:
    drain = Drain()
    drain.begin()
    sent: list[Any] = []
    socket = scripted(client_messages("one", "two", "three"), sent)
    echo = Echo(Outbox(socket))
    await LiveConnections(AudioSettings(model_name="speech"), drain).serve(socket, echo)
    assert (echo.heard, echo.finished) == (["one", "two", "three"], True)
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 1012)


async def test_a_client_that_sends_without_end_does_not_keep_a_pod_that_stops() -> None:
    drain = Drain()
    drain.begin()
    messages = client_messages("first")

    class Endless(Echo):
        async def text(self, message: str) -> None:
            self.heard.append(message)
            messages.put_nowait({"type": "websocket.receive", "text": "more"})

    sent: list[Any] = []
    socket = scripted(messages, sent)
    endless = Endless(Outbox(socket))
    await asyncio.wait_for(LiveConnections(AudioSettings(model_name="speech"), drain).serve(socket, endless), 10)
    assert endless.finished
    assert sent[-1]["code"] == 1012


async def test_a_fault_of_ours_is_logged_once_and_ends_the_connection_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Echo):
        async def text(self, message: str) -> None:
            if message == "mistake":
                raise InvalidInput("a client's mistake")
            raise RecursionError

        async def failed(self, error: ServingError) -> None:
            raise RuntimeError

    for message in ("fault", "mistake"):
        caplog.clear()
        sent: list[Any] = []
        socket = scripted(client_messages(message), sent)
        await LiveConnections(AudioSettings(model_name="speech"), Drain()).serve(socket, Broken(Outbox(socket)))
        assert (sent[-1]["type"], sent[-1]["code"], sent[-1]["reason"]) == ("websocket.close", 1011, "internal_error")
        assert [record.message for record in caplog.records] == ["unhandled error in a live connection"]


async def test_a_client_that_vanished_is_not_written_to_again() -> None:
    messages = client_messages("one", "two")
    messages.put_nowait({"type": "websocket.disconnect", "code": 1006})
    sent: list[Any] = []
    socket = scripted(messages, sent, vanished=True)
    echo = Echo(Outbox(socket))
    await LiveConnections(AudioSettings(model_name="speech"), Drain()).serve(socket, echo)
    assert echo.heard == ["one", "two"]
    assert [message["type"] for message in sent] == ["websocket.accept"]


async def test_a_client_that_reads_nothing_is_let_go() -> None:
    sent: list[Any] = []
    socket = scripted(client_messages("one", "two"), sent, stuck=("websocket.send", "websocket.close"))
    echo = Echo(Outbox(socket, 0.1))
    await asyncio.wait_for(LiveConnections(AudioSettings(model_name="speech"), Drain()).serve(socket, echo), 10)
    assert echo.heard == ["one"]
    assert [message["type"] for message in sent] == ["websocket.accept"]


async def test_a_client_that_does_not_read_the_close_is_let_go() -> None:
    drain = Drain()
    drain.begin()
    sent: list[Any] = []
    socket = scripted(client_messages("one"), sent, stuck=("websocket.close",))
    echo = Echo(Outbox(socket))
    settings = AudioSettings(model_name="speech", stream_idle_seconds=0.2)
    await asyncio.wait_for(LiveConnections(settings, drain).serve(socket, echo), 10)
    assert (echo.finished, sent[-1]["type"]) == (True, "websocket.send")


@pytest.mark.parametrize("path", ["/ws", "/vosk"])
async def test_a_client_that_reads_nothing_is_let_go_by_every_protocol(path: str) -> None:
    """Over what a real socket holds: a message that cannot be sent is the connection's end, also from within its stream."""
    async with live_pod(stream_idle_seconds=1, stream_partial_seconds=0) as pod:
        sending = WebSocket.send_text

        async def stuck(socket: WebSocket, data: str) -> None:
            await (asyncio.Event().wait() if '"text"' in data else sending(socket, data))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WebSocket, "send_text", stuck)
            async with connected(pod.url(path), {"sample_rate": RATE}) as socket:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await send(socket, pcm16(SPEECH))
                await asyncio.wait_for(pod.drain.wait(), 20)
