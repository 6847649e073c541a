"""WS `/v1/realtime?intent=transcription`: OpenAI's realtime transcription, as the stock client speaks it.

With turn detection, as by default, each utterance becomes an item; without, each `input_audio_buffer.commit` does. Event
shapes: `openai.types.realtime`. Conversations with a model (responses, tools, speech out) are not done here.
"""

import contextlib
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, WebSocket
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serving import languages
from serving.contracts.asr import MAX_TEXT, AsrOptions
from serving.dialects import openai_body
from serving.errors import InvalidInput, ServingError, shown
from serving.threads import from_base64
from transformers_pre.audio.merge import TranscriptSegment
from transformers_pre.audio.pcm import RATES
from transformers_pre.audio.routes.live import Conversation, LiveChannels, LiveConnections, Outbox, json_object
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.stream import Ended, Failed, Final, Started, Update
from transformers_pre.audio.transcribe import Transcriber

_OPENAI_RATE = 24_000
_PROTOCOL = "realtime"
_MOST_EVENT_ID = 512  # characters, as OpenAI has it


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Format(_Fields):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: int = Field(_OPENAI_RATE, ge=RATES[0], le=RATES[-1])


class _Transcription(_Fields):
    model: str | None = None
    language: Annotated[str, AfterValidator(languages.code)] | None = None
    prompt: str | None = Field(None, max_length=MAX_TEXT)


class _TurnDetection(_Fields):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(0.5, gt=0.0, lt=1.0)
    silence_duration_ms: int = Field(500, ge=100, le=5000)


class _Input(_Fields):
    format: _Format = _Format()
    transcription: _Transcription = _Transcription()
    turn_detection: _TurnDetection | None = _TurnDetection()


class _Audio(_Fields):
    input: _Input = _Input()


class _Session(_Fields):
    type: Literal["transcription"] = "transcription"
    audio: _Audio = _Audio()


class RealtimeConversation(Conversation):
    """Events in, events out; what is wrong with one is told by an `error` event, and the connection goes on."""

    def __init__(self, transcriber: Transcriber, settings: AudioSettings, headers: Mapping[str, str], outbox: Outbox):
        self._settings = settings
        self._outbox = outbox
        self._channels = LiveChannels(transcriber, settings, headers, self._tell)
        self._session = _Session()
        self._before = 0.0  # seconds of the audio of finished streams
        self._id = _new("sess")
        # Of the stretches that are being recognised: the item, None for silence, and the seconds.
        self._items: deque[tuple[str | None, float]] = deque()
        self._speaking: str | None = None
        self._previous: str | None = None
        self._said: list[TranscriptSegment] = []  # without turn detection: since the last commit
        self._failure: ServingError | None = None

    async def __aexit__(self, *_exception: object) -> None:
        """Stops everything."""
        await self._channels.__aexit__()

    async def greet(self) -> None:
        """`session.created`."""
        await self._send("session.created", session=self._session_body())

    async def text(self, message: str) -> None:
        """One client event."""
        event = json_object(message, self._settings)
        try:
            await self._handle(event)
        except InvalidInput as error:
            await self._error(error, event.get("event_id"))

    async def binary(self, data: bytes) -> None:
        """The protocol has no binary messages."""
        raise InvalidInput("send events as text messages, audio as base64 in input_audio_buffer.append")

    async def finish(self) -> None:
        """What is held becomes an item."""
        if self._channels.begun:
            await self._commit(asked=False)

    async def failed(self, error: ServingError) -> None:
        """What is held becomes an item; an `error` event."""
        with contextlib.suppress(ServingError):
            await self.finish()
        await self._error(error, None)

    async def _handle(self, event: Mapping[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                await self._update(event.get("session"))
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit":
                if not self._channels.begun or not self._channels.seconds:
                    raise InvalidInput("the input audio buffer is empty", code="input_audio_buffer_commit_empty")
                await self._commit(asked=True)
            case "input_audio_buffer.clear":
                await self._clear()
            case other:
                raise InvalidInput(
                    f"the event type {shown(other, 60)} is not known here; known are session.update and "
                    "input_audio_buffer.append, .commit and .clear",
                    param="type",
                )

    async def _update(self, wanted: Any) -> None:
        """Changes what the update names, and nothing else."""
        if not isinstance(wanted, dict):
            raise InvalidInput("'session' must be an object", param="session")
        if self._channels.begun:
            raise InvalidInput("a session is updated before its audio, or after a commit", param="session")
        try:
            self._session = _Session.model_validate(_merged(self._session.model_dump(), wanted))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(["session", *(str(part) for part in first["loc"])])
            raise InvalidInput(f"{field}: {first['msg'].removeprefix('Value error, ')}", param=field) from None
        await self._send("session.updated", session=self._session_body())

    async def _append(self, audio: Any) -> None:
        if not isinstance(audio, str):
            raise InvalidInput("'audio' must be samples as base64", param="audio")
        try:
            data = from_base64(audio)
        except ValueError:
            raise InvalidInput("'audio' is not base64", param="audio") from None
        if not self._channels.begun:
            await self._start()
        await self._channels.push(data)

    async def _start(self) -> None:
        asked = self._session.audio.input
        limits = self._settings.live_limits()
        if asked.turn_detection is not None:
            pause, threshold = asked.turn_detection.silence_duration_ms / 1000, asked.turn_detection.threshold
            limits = replace(limits, endpoint_seconds=pause, speech_threshold=max(0.01, threshold))
        options = AsrOptions(language=asked.transcription.language, prompt=asked.transcription.prompt or None)
        await self._channels.start(options, asked.format.rate, limits=limits)

    async def _commit(self, *, asked: bool) -> None:
        """Makes an item of what is held; of silence in turns only if the client `asked`, which waits for one."""
        seconds, before = self._channels.seconds, self._previous
        item = None
        if not self._turns:
            item = _new("item")
            await self._committed(item)
        wrong = None
        try:
            await self._channels.finish()
        except ServingError as error:
            wrong = error
        if item is not None:
            said, self._said = self._said, []
            failure, self._failure = self._failure, None
            await self._completed(item, said, seconds, failure)
        self._before += seconds
        self._items.clear()
        self._speaking = None
        if wrong is not None:
            raise wrong
        if asked and self._previous == before:
            item = _new("item")
            await self._committed(item)
            await self._completed(item, (), seconds, None)

    async def _clear(self) -> None:
        """Forgets what is in the buffer: not the turns that have been committed."""
        if self._channels.begun:
            seconds = self._channels.seconds
            await (self._channels.drop_utterance() if self._turns else self._channels.drop())
            self._before += seconds
        self._items.clear()
        self._said, self._failure, self._speaking = [], None, None
        await self._send("input_audio_buffer.cleared")

    @property
    def _turns(self) -> bool:
        return self._session.audio.input.turn_detection is not None

    async def _tell(self, _channel: int, update: Update) -> None:
        if not self._turns:
            if isinstance(update, Final):
                self._said += update.segments
            elif isinstance(update, Failed):
                self._failure = update.error
            return
        match update:
            case Started(start):
                self._speaking = _new("item")
                await self._send(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=self._milliseconds(start),
                    item_id=self._speaking,
                )
            case Ended():
                await self._end_turn(update)
            case Failed(error):
                self._failure = error
            case Final(segments):
                await self._tell_turn(segments)

    async def _end_turn(self, turn: Ended) -> None:
        item = self._speaking or _new("item") if turn.speech else None
        self._items.append((item, turn.end - turn.start))
        self._speaking = None
        if item is not None:
            await self._send(
                "input_audio_buffer.speech_stopped", audio_end_ms=self._milliseconds(turn.end), item_id=item
            )
            await self._committed(item)

    async def _tell_turn(self, segments: Sequence[TranscriptSegment]) -> None:
        item, seconds = self._items.popleft() if self._items else (None, 0.0)
        if item is None:
            if not segments:
                return
            item = _new("item")  # words that a cut inside the speech held back until the next stretch was silent
            await self._committed(item)
        failure, self._failure = self._failure, None
        await self._completed(item, segments, seconds, failure)

    async def _committed(self, item: str) -> None:
        await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=self._previous)
        content = [{"type": "input_audio", "transcript": None}]
        body = {"id": item, "object": "realtime.item", "type": "message", "role": "user", "status": "completed"}
        for step in ("added", "done"):
            await self._send(
                f"conversation.item.{step}", item={**body, "content": content}, previous_item_id=self._previous
            )
        self._previous = item

    async def _completed(
        self, item: str, segments: Sequence[TranscriptSegment], seconds: float, failure: ServingError | None
    ) -> None:
        prefix = "conversation.item.input_audio_transcription"
        place = {"item_id": item, "content_index": 0}
        text = "".join(segment.text for segment in segments).strip()
        if text:
            await self._send(f"{prefix}.delta", delta=text, **place)
        if failure is not None:
            await self._send(f"{prefix}.failed", error=openai_body(failure)["error"], **place)
            return
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        await self._send(f"{prefix}.completed", transcript=text, usage=usage, **place)

    async def _error(self, error: ServingError, event_id: Any) -> None:
        if not isinstance(event_id, str) or len(event_id) > _MOST_EVENT_ID:
            event_id = None  # what is no id is not repeated
        await self._send("error", error={**openai_body(error)["error"], "event_id": event_id})

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._outbox.send({"type": kind, "event_id": _new("event"), **fields})

    def _session_body(self) -> dict[str, Any]:
        return {"id": self._id, "object": "realtime.transcription_session", **self._session.model_dump()}

    def _milliseconds(self, seconds: float) -> int:
        return round((self._before + seconds) * 1000)


def _merged(known: Any, wanted: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(wanted, dict):
        return wanted
    return {**known, **{name: _merged(known.get(name), value) for name, value in wanted.items()}}


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def router(transcriber: Transcriber, settings: AudioSettings, connections: LiveConnections) -> APIRouter:
    """The route, over a transcriber."""
    routes = APIRouter()

    @routes.websocket("/v1/realtime")
    @routes.websocket("/openai/v1/realtime")
    async def live(socket: WebSocket) -> None:
        conversation = RealtimeConversation(
            transcriber, settings, dict(socket.headers), Outbox(socket, settings.stream_idle_seconds)
        )
        await connections.serve(socket, conversation, _PROTOCOL)

    return routes
