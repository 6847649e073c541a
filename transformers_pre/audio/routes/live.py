"""Live connections, whatever their protocol: how many there are, how long they last and how they end.

A protocol is a `Conversation`. Before a pod stops, or the platform cuts the connection, the utterance is finished and the
client told to come again: close code 1012. Finals carry the clock of the stream, so it can go on behind the last one.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serving.contracts.asr import AsrOptions
from serving.errors import InvalidInput, Overloaded, ServingError, TooLarge, Unprocessable, UnsupportedMedia
from serving.middleware import Drain
from transformers_pre.audio.container_stream import ContainerPool, ContainerStream
from transformers_pre.audio.pcm import Encoding, PcmStream, Samples
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import SplitLimits
from transformers_pre.audio.stream import LiveTranscription, Update
from transformers_pre.audio.transcribe import Transcriber
from transformers_pre.audio.wire import SAMPLE_RATE

logger = logging.getLogger(__name__)

# Close codes of RFC 6455 (7.4.1) and IANA's registry.
DONE, GOING_AWAY, UNSUPPORTED, INVALID, TOO_LARGE, SERVER_ERROR, COME_AGAIN, TRY_LATER = (
    1000, 1001, 1003, 1007, 1009, 1011, 1012, 1013,
)  # fmt: skip
_CODES: tuple[tuple[type[ServingError], int], ...] = (
    (TooLarge, TOO_LARGE),
    (UnsupportedMedia, UNSUPPORTED),
    (InvalidInput, INVALID),
    (Unprocessable, INVALID),
    (Overloaded, TRY_LATER),
)

CONTAINER = "container"
"""The value of a configuration's `audio_format` for a file that comes while it is made; the streaming service's own word."""


_ARRIVING_SECONDS = 1.0  # for so long, what was on its way when a connection has to end is still taken
_QUIET_SECONDS = 0.05  # a client that has sent nothing for so long had nothing on its way
_PIECE_BYTES = 1 << 16  # of a message that are converted at a time: eight seconds at most


class Outbox:
    """Sends JSON to a client, one message at a time; once the client is gone, to nobody.

    Args:
        socket: the client's.
        patience: seconds that a message may wait for a client that reads nothing.
    """

    def __init__(self, socket: WebSocket, patience: float = 60.0):
        self._socket = socket
        self._patience = patience
        self._sending = asyncio.Lock()

    async def send(self, body: Mapping[str, Any]) -> None:
        """Sends one message. Raises WebSocketDisconnect, once, for a client that does not read."""
        async with self._sending:
            if not _connected(self._socket):
                return
            try:
                async with asyncio.timeout(self._patience):
                    await self._socket.send_text(orjson.dumps(body).decode())
            except WebSocketDisconnect:
                logger.info("a client went away while it was sent a message")
            except TimeoutError:
                logger.info("a client did not read what it was sent", extra={"seconds": self._patience})
                self._socket.application_state = WebSocketState.DISCONNECTED  # a close would wait as well
                raise WebSocketDisconnect(GOING_AWAY) from None


class Conversation(ABC):
    """One connection's protocol. Use as a context manager; leaving it frees all that it holds."""

    over = False
    """Whether the client has had its last answer."""

    async def __aenter__(self) -> "Conversation":
        return self

    @abstractmethod
    async def __aexit__(self, *_exception: object) -> None:
        """Stops everything."""

    async def greet(self) -> None:  # noqa: B027  # most protocols say nothing
        """Says hello, where the protocol does."""

    @abstractmethod
    async def text(self, message: str) -> None:
        """Takes a text message. Raises ServingError, which ends the connection."""

    @abstractmethod
    async def binary(self, data: bytes) -> None:
        """Takes a binary message. Raises ServingError."""

    @abstractmethod
    async def finish(self) -> None:
        """Recognises what is held and tells it: no more audio comes. Raises ServingError."""

    @abstractmethod
    async def failed(self, error: ServingError) -> None:
        """Tells the client what it said before, and why the connection ends."""


class _Source(Protocol):
    """A connection's audio on its way to its channels."""

    async def push(self, data: bytes) -> None: ...
    async def finish(self) -> None: ...


class _RawSamples:
    """The source that sends samples as they are."""

    def __init__(self, pcm: PcmStream, deliver: Callable[[Sequence[Samples]], Awaitable[None]]):
        self._pcm = pcm
        self._deliver = deliver

    async def push(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            await self._deliver(self._pcm.push(data[start : start + _PIECE_BYTES]))

    async def finish(self) -> None:
        await self._deliver(self._pcm.finish())


class LiveChannels:
    """The channels of a connection's audio, each transcribed by itself. Use as a context manager.

    Args:
        transcriber: calls the predictor.
        settings: limits.
        headers: of the client's request.
        tell: is called with each update of a channel, counted from 0.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        settings: AudioSettings,
        headers: Mapping[str, str],
        tell: Callable[[int, Update], Awaitable[None]],
    ):
        self._transcriber = transcriber
        self._settings = settings
        self._headers = headers
        self._tell = tell
        self._stack = AsyncExitStack()
        self._streams: list[LiveTranscription] = []
        self._source: _Source | None = None
        self._samples = 0

    async def __aenter__(self) -> "LiveChannels":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._stack.aclose()

    @property
    def begun(self) -> bool:
        """Whether audio was begun with, and `finish` was not called."""
        return self._source is not None

    @property
    def seconds(self) -> float:
        """Audio so far, of each channel."""
        return self._samples / SAMPLE_RATE

    async def start(
        self,
        options: AsrOptions,
        sample_rate: int,
        channels: int = 1,
        encoding: Encoding = "pcm16",
        limits: SplitLimits | None = None,
    ) -> None:
        """Begins with raw samples, the first at 0 s. Raises TooLarge for too many channels."""
        most = self._settings.max_channels
        if channels > most:
            raise TooLarge(
                f"{channels} channels, at most {most} are accepted (MAX_CHANNELS)",
                code="too_many_channels",
                param="channels",
            )
        await self._open(options, channels, limits or self._settings.live_limits())
        self._source = _RawSamples(PcmStream(sample_rate, channels, encoding), self._deliver)

    async def start_container(self, options: AsrOptions, pool: ContainerPool) -> None:
        """Begins with a container of any kind that can be read as it comes; its channels are mixed. Raises Overloaded."""
        await self._open(options, 1, self._settings.live_limits())
        stream = ContainerStream(pool, lambda samples: self._deliver([samples]))
        self._source = await self._stack.enter_async_context(stream)

    async def _open(self, options: AsrOptions, channels: int, limits: SplitLimits) -> None:
        self._samples = 0
        for channel in range(channels):

            async def tell(update: Update, channel: int = channel) -> None:
                await self._tell(channel, update)

            stream = LiveTranscription(
                self._transcriber,
                options,
                headers=self._headers,
                settings=self._settings,
                limits=limits,
                tell=tell,
            )
            self._streams.append(await self._stack.enter_async_context(stream))

    async def push(self, data: bytes) -> None:
        """Takes the next packet; waits while enough is waiting already. Raises ServingError for what is wrong so far."""
        assert self._source is not None  # noqa: S101  # `start` was called
        await self._source.push(data)

    async def _deliver(self, per_channel: Sequence[Samples]) -> None:
        """Takes the next samples, as many of each channel; waits. Raises TooLarge."""
        self._samples += len(per_channel[0])
        limit = self._settings.stream_max_seconds
        if limit and self.seconds > limit:
            raise TooLarge(
                f"the live audio is longer than {limit:g} s, the limit here (STREAM_MAX_SECONDS)", code="audio_too_long"
            )
        await asyncio.gather(
            *(stream.push(samples) for stream, samples in zip(self._streams, per_channel, strict=True))
        )

    async def finish(self) -> None:
        """Waits until everything has been told; another start may follow. Raises ServingError for what is wrong at the end."""
        if self._source is None:
            return
        source, self._source = self._source, None
        wrong = None
        try:
            await source.finish()
        except ServingError as error:
            wrong = error  # what came before it is told first
        streams, self._streams = self._streams, []
        await asyncio.gather(*(stream.finish() for stream in streams))
        await self._stack.aclose()
        if wrong is not None:
            raise wrong

    async def wind_up(self) -> None:
        """As `finish`, of audio that ends with an error which is known already."""
        with contextlib.suppress(ServingError):
            await self.finish()

    async def drop(self) -> None:
        """Forgets everything; another start may follow."""
        self._source, self._streams = None, []
        await self._stack.aclose()

    async def drop_utterance(self) -> None:
        """Forgets the utterance that goes on; waits until those that have ended are told. Another start may follow."""
        streams = self._streams
        self._source, self._streams = None, []
        await asyncio.gather(*(stream.drop_utterance() for stream in streams))
        await self._stack.aclose()


class LiveConnections:
    """The live connections of a pod."""

    def __init__(self, settings: AudioSettings, drain: Drain):
        self._settings = settings
        self._drain = drain
        self._open = 0

    async def serve(self, socket: WebSocket, conversation: Conversation, protocol: str | None = None) -> None:
        """Holds a conversation to its end. Raises Overloaded, as the handshake's answer, when there are too many.

        Args:
            socket: the client's.
            conversation: with this client.
            protocol: the subprotocol, which is told to clients that offer it: browsers end connections that choose none.
        """
        most = self._settings.stream_max_connections
        if self._open >= most:
            raise Overloaded(
                f"there are {most} live connections already, the limit here (STREAM_MAX_CONNECTIONS)",
                code="too_many_streams",
            )
        self._open += 1
        try:
            # ASGI lets a server leave out what no client has to offer.
            await socket.accept(protocol if protocol in socket.scope.get("subprotocols", ()) else None)
            code, reason = GOING_AWAY, ""
            async with conversation:
                with contextlib.suppress(WebSocketDisconnect):
                    code, reason = await self._converse(socket, conversation)
            if _connected(socket):
                with contextlib.suppress(TimeoutError):  # of a client that does not read
                    async with asyncio.timeout(self._settings.stream_idle_seconds):
                        await socket.close(code, reason)
        finally:
            self._open -= 1

    async def _converse(self, socket: WebSocket, conversation: Conversation) -> tuple[int, str]:
        try:
            try:
                await conversation.greet()
                return await self._listen(socket, conversation)
            except ServingError as error:
                await conversation.failed(error)
                return next((code for kind, code in _CODES if isinstance(error, kind)), SERVER_ERROR), error.code
        except WebSocketDisconnect:
            raise
        except Exception:  # left to the server, it would end the connection without a close frame
            logger.exception("unhandled error in a live connection")
            return SERVER_ERROR, ServingError.default_code

    async def _listen(self, socket: WebSocket, conversation: Conversation) -> tuple[int, str]:
        idle = self._settings.stream_idle_seconds
        ending = asyncio.create_task(self._until_ending())
        last_call: float | None = None
        now = asyncio.get_running_loop().time
        try:
            while not conversation.over:
                if ending.done() and last_call is None:
                    last_call = now() + _ARRIVING_SECONDS
                message = None
                if last_call is None or now() < last_call:
                    message = await self._next(socket, ending, idle)
                if message is not None:
                    await self._pass_on(message, conversation)
                elif ending.done():
                    await conversation.finish()
                    return COME_AGAIN, ending.result()
                else:
                    await conversation.finish()
                    return GOING_AWAY, f"no message for {idle:g} s (STREAM_IDLE_SECONDS)"
        finally:
            ending.cancel()
        return DONE, ""

    async def _next(self, socket: WebSocket, ending: asyncio.Task[str], idle: float) -> Mapping[str, Any] | None:
        """The client's next message; None: it sends none, for `idle` seconds or at the end."""
        receiving = asyncio.create_task(socket.receive())
        if not ending.done():
            await asyncio.wait({receiving, ending}, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            await asyncio.wait({receiving}, timeout=_QUIET_SECONDS)
        if receiving.done():
            return receiving.result()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        return None

    async def _pass_on(self, message: Mapping[str, Any], conversation: Conversation) -> None:
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        if (text := message.get("text")) is not None:
            await conversation.text(text)
        else:
            await conversation.binary(message["bytes"])

    async def _until_ending(self) -> str:
        """Returns why every connection has to end now, after STREAM_SESSION_SECONDS or as the pod stops."""
        seconds = self._settings.stream_session_seconds or None
        try:
            await asyncio.wait_for(self._drain.draining.wait(), seconds)
        except TimeoutError:
            return f"connect again: a connection lasts {seconds:g} s (STREAM_SESSION_SECONDS)"
        return "connect again: this pod is shutting down"


def _connected(socket: WebSocket) -> bool:
    """Whether there is somebody to send to: a client that vanished shows when it is sent something."""
    return socket.client_state is socket.application_state is WebSocketState.CONNECTED


def json_object(message: str, settings: AudioSettings) -> dict[str, Any]:
    """A text message that must be a JSON object. Raises InvalidInput, or TooLarge for one of very many values."""
    most = settings.stream_max_message_values
    if len(message) > most and sum(message.count(mark) for mark in ",[{:") > most:
        raise TooLarge(
            f"a text message holds at most {most} values and names (STREAM_MAX_MESSAGE_VALUES)",
            code="message_too_large",
        )
    try:
        body = orjson.loads(message)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise InvalidInput("a text message must be a JSON object", code="bad_message")
    return body
