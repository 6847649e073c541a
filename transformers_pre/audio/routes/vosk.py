"""WS `/vosk`: vosk-server's protocol, in which every message of samples has exactly one answer, at once.

An answer is what has become final since the last one, or else the partial text. Its clients tell a result by the absence of
`partial`. Protocol: vosk-server, websocket/asr_server.py.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, WebSocket

from serving.contracts.asr import MAX_TEXT, AsrOptions
from serving.errors import InvalidInput, ServingError, TooLarge, shown
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
from transformers_pre.audio.stream import Failed, Final, Partial, Update
from transformers_pre.audio.transcribe import Transcriber

_PCM = "pcm16"


class VoskConversation(Conversation):
    """`{"config": {…}}` (no answer), samples, `{"reset": 1}`, `{"eof": 1}`."""

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
        self._container = False
        self._outbox = outbox
        self._channels = LiveChannels(transcriber, settings, headers, self._tell)
        self._rate = settings.base_sample_rate
        self._words = False
        self._alternatives = 0
        self._hotwords: str | None = None
        self._before = 0.0  # seconds of the audio before the last reset: the clock goes on
        self._final: list[TranscriptSegment] = []
        self._partial = ""
        self._error: ServingError | None = None

    async def __aexit__(self, *_exception: object) -> None:
        """Stops everything."""
        await self._channels.__aexit__()

    async def text(self, message: str) -> None:
        """A configuration, or a command."""
        body = json_object(message, self._settings)
        if "config" in body:
            self._configure(body["config"])
        elif "reset" in body:
            await self._finish()
        elif "eof" in body:
            await self.finish()
        else:
            raise InvalidInput(
                'send {"config": {…}}, samples as binary messages, {"reset": 1} or {"eof": 1}', code="bad_message"
            )

    async def binary(self, data: bytes) -> None:
        """Samples: mono, little-endian 16-bit integers; or, with `"audio_format": "container"`, a piece of a media file."""
        if not self._channels.begun:
            options = AsrOptions(hotwords=self._hotwords)
            if self._container:
                await self._channels.start_container(options, self._containers)
            else:
                await self._channels.start(options, self._rate)
        await self._channels.push(data)
        if self._error is not None:
            raise self._error
        if self._final:
            await self._outbox.send(self._result())
        else:
            await self._outbox.send({"partial": self._partial})

    async def finish(self) -> None:
        """One last result."""
        await self._finish()
        self.over = True

    async def failed(self, error: ServingError) -> None:
        """The protocol has no errors: a result that says so besides."""
        await self._channels.wind_up()
        await self._outbox.send({**self._result(), "error": error.message})

    async def _finish(self) -> None:
        begun = self._channels.begun
        await self._channels.finish()
        if self._error is not None:
            raise self._error
        await self._outbox.send(self._result())
        if begun:
            self._before += self._channels.seconds

    def _configure(self, config: Any) -> None:
        if not isinstance(config, dict):
            raise InvalidInput("'config' must be an object", code="bad_message", param="config")
        if self._channels.begun:
            raise InvalidInput("'config' comes before the first samples", code="bad_message", param="config")
        if config.get("model"):
            raise InvalidInput("this pod serves one model: leave 'model' out", code="unsupported_field", param="model")
        self._rate = sample_rate(config.get("sample_rate"), self._rate)
        encoding = config.get("audio_format", CONTAINER if self._container else _PCM)
        if encoding not in (_PCM, CONTAINER):
            raise InvalidInput(
                f"audio_format must be {_PCM} or {CONTAINER}, got {shown(encoding, 20)}", param="audio_format"
            )
        self._container = encoding == CONTAINER
        self._words = bool(config.get("words", self._words))
        alternatives = config.get("max_alternatives", self._alternatives)
        self._alternatives = int(alternatives) if isinstance(alternatives, int | float) else 0
        phrases = config.get("phrase_list")
        if phrases is not None:
            if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
                raise InvalidInput("'phrase_list' must be a list of texts", param="phrase_list")
            hotwords = ", ".join(phrase for phrase in phrases if phrase != "[unk]")
            if len(hotwords) > MAX_TEXT:
                raise TooLarge(
                    f"'phrase_list' has {len(hotwords)} characters, at most {MAX_TEXT} are accepted",
                    code="phrase_list_too_long",
                    param="phrase_list",
                )
            self._hotwords = hotwords or None

    async def _tell(self, _channel: int, update: Update) -> None:
        match update:
            case Final(segments):
                self._final += segments
                self._partial = ""
            case Partial(text):
                self._partial = text
            case Failed(error):
                self._error = error

    def _result(self) -> dict[str, Any]:
        """What has become final since the last result."""
        segments, self._final = self._final, []
        self._partial = ""
        body = formats.kaldi_body(segments)
        for word in body["result"]:
            word.update({edge: round(self._before + word[edge], 3) for edge in ("start", "end")})
        confidences = [word["conf"] for word in body["result"]]
        if not self._words:
            del body["result"]
        elif not body["result"]:
            body = {"text": body["text"]}
        if self._alternatives > 0:
            body = {"alternatives": [{"confidence": sum(confidences) / max(1, len(confidences)), **body}]}
        return body


def router(
    transcriber: Transcriber, settings: AudioSettings, connections: LiveConnections, containers: ContainerPool
) -> APIRouter:
    """The route, over a transcriber; also at `/`, where vosk-server has it and its clients look for it."""
    routes = APIRouter()

    @routes.websocket("/")
    @routes.websocket("/vosk")
    async def live(socket: WebSocket) -> None:
        headers = dict(socket.headers)
        conversation = VoskConversation(
            transcriber, settings, headers, Outbox(socket, settings.stream_idle_seconds), containers
        )
        await connections.serve(socket, conversation)

    return routes
