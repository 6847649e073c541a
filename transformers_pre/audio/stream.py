"""Live speech of one channel: samples in as they come, text out as soon as it is known. No sockets, no protocols.

An utterance ends with a pause, or is cut inside the speech when it grows too long (`split`, `merge`); then its text is final.
Finals depend on the samples alone, not on packets or their timing: decisions are made at positions of the stream, and its
clock counts samples. What still grows is recognised from time to time for a partial text. What is held at a time is bounded:
a caller that is faster than the recogniser waits in `push`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serving import telemetry
from serving.contracts.asr import AsrOptions, AsrResult, Samples
from serving.deadline import Deadline
from serving.errors import PredictorUnavailable, ServingError
from serving.threads import in_thread
from transformers_pre.audio.inlet import Inlet
from transformers_pre.audio.merge import TranscriptBuilder, TranscriptSegment
from transformers_pre.audio.ordered import ordered
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import SplitLimits, Splitter, Window
from transformers_pre.audio.transcribe import SpokenLanguage, Transcriber
from transformers_pre.audio.vad import VoiceActivity
from transformers_pre.audio.wire import SAMPLE_RATE

logger = logging.getLogger(__name__)

_BLOCK = SAMPLE_RATE  # samples that are taken in at a time: a second
_BLOCKS_WAITING = 4
_ON_THE_LOOP = SAMPLE_RATE // 10  # samples whose voice activity takes less than half a millisecond
_PARTIAL_SECONDS = 10.0  # a partial text that takes longer is of no use any more
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Started:
    """Somebody begins to speak at `start` seconds."""

    start: float


@dataclass(frozen=True)
class Ended:
    """The stretch [start, end) in seconds is being recognised; its final text follows."""

    start: float
    end: float
    speech: bool
    """Whether anybody speaks in it."""


@dataclass(frozen=True)
class Partial:
    """What has been said so far of the utterance that goes on."""

    text: str


@dataclass(frozen=True)
class Final:
    """What was said up to `end` seconds and not told before; times from the start of the stream. No segments: nothing."""

    segments: tuple[TranscriptSegment, ...]
    end: float


@dataclass(frozen=True)
class Failed:
    """The stretch [start, end) in seconds could not be recognised."""

    error: ServingError
    start: float
    end: float


Update = Started | Ended | Partial | Final | Failed
Item = tuple[Window, Samples]


class LiveTranscription:
    """Transcribes one channel while it is spoken. Use as a context manager; leaving it stops everything.

    Args:
        transcriber: calls the predictor.
        options: how windows are recognised; times of words are asked for in any case.
        headers: of the client's request.
        settings: how patient it is, and how often there are partial texts.
        limits: how windows are cut; `settings.live_limits()`, unless the client has wishes.
        tell: is called with each update, in order; the stream waits for it.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        options: AsrOptions,
        *,
        headers: Mapping[str, str],
        settings: AudioSettings,
        limits: SplitLimits,
        tell: Callable[[Update], Awaitable[None]],
    ):
        self._transcriber = transcriber
        language = transcriber.language(options.language)
        self._options = options.model_copy(update={"timestamps": "word", "language": language})
        self._headers = headers
        self._settings = settings
        self._limits = limits
        self._tell = tell
        self._language = SpokenLanguage(language)
        self._blocks: Inlet[Samples] = Inlet(_BLOCKS_WAITING)
        self._partials = _Partials(self._ask_partial, tell, settings.stream_partial_seconds)
        self._model = transcriber.model_name
        self._dropped = False

    async def __aenter__(self) -> Self:
        self._blocks.start(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._blocks.stop()

    async def push(self, samples: Samples) -> None:
        """Takes the next samples, float32 [n] at 16 kHz in [-1, 1]; waits while enough is waiting already."""
        for start in range(0, len(samples), _BLOCK):
            await self._blocks.put(samples[start : start + _BLOCK])

    async def finish(self) -> None:
        """The stream has ended: waits until all of it has been told."""
        await self._blocks.finish()

    async def drop_utterance(self) -> None:
        """The stream has ended, and what has not come to a window's end is forgotten: waits until the rest has been told."""
        self._dropped = True
        await self._blocks.finish()

    async def _run(self) -> None:
        builder = TranscriptBuilder("transcribe", self._limits, keep=False)
        try:
            async with contextlib.aclosing(
                ordered(self._windows(), self._recognise, self._settings.hop_concurrency)
            ) as results:
                async for (window, _), result in results:
                    end = window.end / SAMPLE_RATE
                    failure = result if isinstance(result, ServingError) else None
                    recognised = None if isinstance(result, ServingError) else result
                    segments = builder.add(window, recognised)
                    if failure is not None:
                        await self._tell(Failed(failure, window.start / SAMPLE_RATE, end))
                    await self._tell(Final(tuple(segments), end))
                    self._partials.told(window.end)
            if rest := builder.flush():
                await self._tell(Final(tuple(rest), rest[-1].end))
        finally:
            await self._partials.close()

    async def _windows(self) -> AsyncGenerator[Item, None]:
        speaking = False
        with VoiceActivity() as voice:
            splitter = Splitter(self._limits)
            while (block := await self._blocks.get()) is not None and not self._dropped:
                telemetry.AUDIO_SECONDS.labels(self._model).inc(len(block) / SAMPLE_RATE)
                at_once = len(block) <= _ON_THE_LOOP
                probabilities = voice.push(block) if at_once else await in_thread(voice.push, block)
                for item in splitter.push(block, probabilities):
                    speaking = await self._note(item, speaking=speaking)
                    yield item
                if not speaking and splitter.may_hold_speech and (spans := splitter.held()[0].speech):
                    speaking = True
                    await self._tell(Started(spans[0][0] / SAMPLE_RATE))
                if speaking:
                    self._partials.consider(splitter)
            if self._dropped:
                return
            for item in splitter.finish(voice.finish()):
                await self._note(item, speaking=speaking)
                yield item

    async def _note(self, item: Item, *, speaking: bool) -> bool:
        """Tells that a window has ended. Whether somebody still speaks: after a cut inside the speech."""
        window = item[0]
        self._partials.cut(window.end)
        if window.forced_end:
            telemetry.FORCED_CUTS.labels(self._model).inc()
        if window.has_speech and not speaking:  # it began and ended in one packet
            await self._tell(Started(window.speech[0][0] / SAMPLE_RATE))
        await self._tell(Ended(window.start / SAMPLE_RATE, window.end / SAMPLE_RATE, window.has_speech))
        return False

    async def _recognise(self, item: Item) -> AsrResult | ServingError | None:
        window, samples = item
        telemetry.WINDOWS.labels(self._model, "decoded" if window.has_speech else "silent").inc()
        if not window.has_speech:
            return None
        wanted = self._options.model_copy(update={"language": await self._language.ask()})
        language = None
        try:
            result = await self._patiently(window, samples, wanted)
            language = result.language
        except ServingError as error:
            return error
        finally:
            self._language.tell(language)
        return result

    async def _patiently(self, window: Window, samples: Samples, options: AsrOptions) -> AsrResult:
        """The window's result, also when the predictor goes away while it works on it: recognising it again does no harm."""
        deadline = Deadline(self._settings.request_timeout_seconds, "REQUEST_TIMEOUT_SECONDS")
        while True:
            try:
                return await self._transcriber.recognise(window, samples, options, self._headers, deadline)
            except PredictorUnavailable:
                if deadline.left() <= _RETRY_SECONDS:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _ask_partial(self, samples: Samples) -> str:
        result = await self._transcriber.call(samples, self._options, self._headers, Deadline(_PARTIAL_SECONDS))
        return result.text.strip()


class _Partials:
    """Asks for partial texts: one at a time, at a bounded rate, and never for what comes before a final text is told."""

    def __init__(
        self, ask: Callable[[Samples], Awaitable[str]], tell: Callable[[Update], Awaitable[None]], seconds: float
    ):
        self._ask = ask
        self._tell = tell
        self._every = round(seconds * SAMPLE_RATE)
        self._asked_at = 0
        self._cut_at = 0
        self._told_to = 0
        self._asking: asyncio.Task[None] | None = None

    def consider(self, splitter: Splitter) -> None:
        """Asks for the text of what `splitter` holds, if it is time."""
        busy = self._asking is not None and not self._asking.done()
        if not self._every or busy or self._told_to < self._cut_at or splitter.position < self._asked_at + self._every:
            return
        self._asked_at = splitter.position
        self._asking = asyncio.create_task(self._tell_partial(splitter.held()[1]))

    def cut(self, position: int) -> None:
        """A window ends at `position`: the partial text that is under way is none any more."""
        self._cut_at = position
        if self._asking is not None:
            self._asking.cancel()

    def told(self, position: int) -> None:
        """Everything up to `position` has been told."""
        self._told_to = position

    async def close(self) -> None:
        """Stops asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _tell_partial(self, samples: Samples) -> None:
        try:
            text = await self._ask(samples)
        except ServingError as error:  # the final text will say so, if it still is
            logger.info("no partial text", extra={"code": error.code})
            return
        if text:
            await self._tell(Partial(text))
