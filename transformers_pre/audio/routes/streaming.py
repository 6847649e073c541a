"""The routes of the streaming service: WS `/ws` for live audio, POST `/post_one_step_req` for links, GET `/is_alive`.

`/ws` answers once a stretch of audio is recognised, not once a message: clients that wait for an answer to each speak
vosk-server's protocol (`routes.vosk`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError

from serving import languages
from serving.contracts.asr import AsrOptions
from serving.errors import InvalidInput, ServingError, shown
from serving.middleware import unless_disconnected
from serving.routes import BodyBudget, JsonLimit
from serving.uploads.fetch import fetch
from serving.uploads.form import json_openapi
from transformers_pre.audio import formats
from transformers_pre.audio.container_stream import ContainerPool
from transformers_pre.audio.merge import TranscriptSegment
from transformers_pre.audio.pcm import sample_rate
from transformers_pre.audio.routes.live import (
    CONTAINER,
    Conversation,
    LiveChannels,
    LiveConnections,
    Outbox,
    json_object,
)
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.stream import Failed, Final, Update
from transformers_pre.audio.transcribe import Transcriber, TranscriptionRequest

PREFIXES = ("/post_one_step_req",)
"""Paths whose errors are in the service's shape, `error_body`."""


def error_body(error: ServingError) -> dict[str, Any]:
    """The service's own shape of an error."""
    return {"success": False, "error_description": error.message, "raw_data": {}, "sentenced_data": {}}


class LinkedRecording(BaseModel):
    """The body of `/post_one_step_req`; the service's other fields are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    AudioFileUrl: str
    """Link to the recording."""
    keep_raw: bool | None = True
    """Whether `raw_data` lists the words."""
    do_dialogue: bool | None = False
    """Whether `sentenced_data` lists who said what, a speaker a channel."""


class StreamingConversation(Conversation):
    """`/ws`: `{"config": …}`, raw samples, `{"eof": 1}`; an answer a recognised stretch, and a last one."""

    def __init__(
        self,
        transcriber: Transcriber,
        settings: AudioSettings,
        headers: Mapping[str, str],
        outbox: Outbox,
        containers: ContainerPool,
    ):
        self._settings = settings
        self._containers = containers
        self._outbox = outbox
        self._channels = LiveChannels(transcriber, settings, headers, self._tell)
        self._config: dict[str, Any] = {}
        self._count = 1

    async def __aexit__(self, *_exception: object) -> None:
        """Stops everything."""
        await self._channels.__aexit__()

    async def text(self, message: str) -> None:
        """`{"config": {…}}` before the first samples, or anything with "eof"."""
        if "config" in message:
            config = json_object(message, self._settings).get("config")
            if not isinstance(config, dict):
                raise InvalidInput("'config' must be an object", code="bad_message", param="config")
            if self._channels.begun:
                raise InvalidInput("'config' comes before the first samples", code="bad_message", param="config")
            self._config = config
        elif "eof" in message:
            await self.finish()
        else:
            raise InvalidInput('send {"config": {…}}, samples as binary messages, then {"eof": 1}', code="bad_message")

    async def binary(self, data: bytes) -> None:
        """Audio as `audio_format` says.

        `pcm16`, little-endian 16-bit integers, by default, or `float32`, interleaved where there are several channels; or
        `container`, a file such as WebM or Ogg with Opus in it, in pieces of any size, whose channels are mixed.
        """
        if not self._channels.begun:
            await self._start()
        await self._channels.push(data)

    async def finish(self) -> None:
        """The last answer is empty: how the words before it are shared out must not depend on when the end was announced."""
        await self._channels.finish()
        await self._answer(self._count - 1, (), last=True)
        self.over = True

    async def failed(self, error: ServingError) -> None:
        """A last answer with the error."""
        await self._channels.wind_up()
        await self._outbox.send({**self._body(0, []), "error": error.message, "last_message": True})

    async def _start(self) -> None:
        config = self._config
        encoding = config.get("audio_format", "pcm16")
        options = AsrOptions(language=_language(config.get("language")))
        if encoding == CONTAINER:
            await self._channels.start_container(options, self._containers)
            return
        if encoding not in ("pcm16", "float32"):
            raise InvalidInput(
                f"audio_format must be pcm16, float32 or {CONTAINER}, got {shown(encoding, 20)}", param="audio_format"
            )
        count = config.get("channels", 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InvalidInput(f"channels must be 1 or more, got {shown(count, 20)}", param="channels")
        rate = sample_rate(config.get("sample_rate"), self._settings.base_sample_rate)
        await self._channels.start(options, rate, count, encoding)
        self._count = count

    async def _tell(self, channel: int, update: Update) -> None:
        match update:
            case Final(segments):
                if segments or self._config.get("wait_null_answers", True):
                    await self._answer(channel, segments, last=False)
            case Failed(error):
                await self._outbox.send({**self._body(channel, []), "error": error.message, "last_message": False})

    async def _answer(self, channel: int, segments: Sequence[TranscriptSegment], *, last: bool) -> None:
        await self._outbox.send({**self._body(channel, segments), "error": None, "last_message": last})

    def _body(self, channel: int, segments: Sequence[TranscriptSegment]) -> dict[str, Any]:
        body: dict[str, Any] = {"silence": not segments, "data": formats.kaldi_body(segments)}
        return {**body, "channel_name": f"channel_{channel + 1}"} if self._count > 1 else body


def _language(value: Any) -> str | None:
    wanted = value or "auto"
    try:
        return languages.code(wanted if isinstance(wanted, str) else shown(wanted))  # which is no language
    except ValueError as error:
        raise InvalidInput(f"language: {error}", code="unsupported_value", param="language") from None


def router(
    transcriber: Transcriber,
    settings: AudioSettings,
    connections: LiveConnections,
    containers: ContainerPool,
    bodies: BodyBudget,
) -> APIRouter:
    """The routes, over a transcriber."""
    routes = APIRouter(tags=["streaming service"])
    limit = JsonLimit(settings.max_json_bytes, settings.max_json_values)

    async def asked(request: Request) -> LinkedRecording:
        with bodies.share() as take:
            return _link(await limit.receive(request, take))

    @routes.websocket("/ws")
    async def live(socket: WebSocket) -> None:
        headers = dict(socket.headers)
        conversation = StreamingConversation(
            transcriber, settings, headers, Outbox(socket, settings.stream_idle_seconds), containers
        )
        await connections.serve(socket, conversation)

    @routes.post("/post_one_step_req", summary="A recording behind a link", openapi_extra=json_openapi(LinkedRecording))
    async def linked(request: Request) -> dict[str, Any]:
        """Each channel apart: `raw_data` by channel, `sentenced_data` in the order of time."""
        body = await asked(request)
        with await fetch(body.AudioFileUrl, settings.fetch_limits()) as recording:
            wanted = TranscriptionRequest(recording, words=True, channels="split")
            transcript = await unless_disconnected(
                request.receive, transcriber.transcribe(wanted, dict(request.headers))
            )
        by_channel: dict[str, list[TranscriptSegment]] = {}
        for segment in transcript.segments:
            by_channel.setdefault(f"channel_{(segment.channel or 0) + 1}", []).append(segment)
        return {
            "success": True,
            "error_description": "",
            "raw_data": _raw(by_channel) if body.keep_raw is not False else {},
            "sentenced_data": _sentences(transcript.segments, by_channel) if body.do_dialogue else {},
        }

    @routes.get("/is_alive", summary="Whether the pod runs")
    async def is_alive() -> dict[str, Any]:
        return {"error": False, "error_description": None, "data": "is running"}

    return routes


def _link(body: dict[str, Any]) -> LinkedRecording:
    try:
        return LinkedRecording.model_validate(body)
    except ValidationError as error:  # told as FastAPI's own, whose place is a path from the request
        found = error.errors(include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None


def _raw(by_channel: Mapping[str, list[TranscriptSegment]]) -> dict[str, Any]:
    return {
        name: [{"data": formats.kaldi_body([segment])} for segment in segments]
        for name, segments in sorted(by_channel.items())
    }


def _sentences(segments: list[TranscriptSegment], by_channel: Mapping[str, list[TranscriptSegment]]) -> dict[str, Any]:
    said = [(f"channel_{(segment.channel or 0) + 1}", segment) for segment in segments]
    return {
        "raw_text_sentenced_recognition": "".join(f"{name}: {segment.text.strip()}\n" for name, segment in said),
        "list_of_sentenced_recognitions": [
            {"start": segment.start, "text": segment.text.strip(), "speaker": name} for name, segment in said
        ],
        "full_text_only": ["".join(segment.text for segment in own).strip() for _, own in sorted(by_channel.items())],
        "err_state": None,
    }
