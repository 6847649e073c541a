"""The way of one recording: decode → voice activity → split → predictor → merge, as a pipeline with bounded look-ahead.

Blocks of samples come from the decoder, windows leave the splitter as soon as their end is known, a few of them are at
the predictor at a time, and their segments are final in order. A ten-hour file is never in memory; a cancelled caller
stops the decoder and the calls in flight. Not here: forms, formats and routes.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeVar

import soxr

from serving import telemetry
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples, Task
from serving.deadline import CURRENT, Deadline
from serving.errors import InvalidInput, TooLarge
from serving.hop import PredictorClient
from serving.threads import in_thread
from transformers_pre.audio import merge
from transformers_pre.audio.media import SAMPLE_RATE, DecoderPool
from transformers_pre.audio.merge import Transcript, TranscriptBuilder, TranscriptSegment
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import Splitter, Window
from transformers_pre.audio.vad import VoiceActivity

T = TypeVar("T")
R = TypeVar("R")

SAMPLE_RATES = range(4_000, 192_001)
"""What a client may send samples at, in Hz; files may have other rates, which their decoder knows."""
_MOST_REDECODINGS = (
    10  # of one window: that many sentences fit; on ten minutes of conversation none needed a second one
)


@dataclass(frozen=True, eq=False)
class Waveform:
    """Mono float32 samples [S] in [-1, 1] that a client sent as a tensor, `sample_rate` of them a second."""

    samples: Samples
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True)
class TranscriptionRequest:
    """What a client asks for, whatever route it came by. The caller closes `source`, a file of the system or samples."""

    source: BinaryIO | Waveform
    language: str | None = None
    task: Task = "transcribe"
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float | None = None
    beam_size: int | None = None
    best_of: int | None = None
    words: bool = False
    """Whether the transcript lists words with times of their own."""
    per_window_language: bool = False
    """Whether the language is detected in each window; otherwise the first window with speech decides."""
    channels: Literal["mix", "split"] = "mix"

    def options(self) -> AsrOptions:
        """The contract's options. Times of words are always asked for: Whisper's own segment times may be seconds off.

        On the sample call of `make demo` they are up to 8 s early, those of its words, from cross-attention, 0.1 s off. The
        rules of `merge` (silence, uncovered speech, forced cuts) need times that are true.
        """
        return AsrOptions(
            language=self.language,
            task=self.task,
            prompt=self.prompt,
            hotwords=self.hotwords,
            temperature=self.temperature,
            beam_size=self.beam_size,
            best_of=self.best_of,
            timestamps="word",
        )


class Transcriber:
    """Transcribes recordings with one predictor."""

    def __init__(self, client: PredictorClient, media: DecoderPool, settings: AudioSettings):
        self._client = client
        self._media = media
        self._settings = settings
        self._limits = settings.split_limits()

    async def transcribe(self, request: TranscriptionRequest, headers: Mapping[str, str]) -> Transcript:
        """The whole transcript. Raises ServingError, by the deadline at the latest."""
        deadline = self._deadline()
        async with deadline.enforced():
            if request.channels == "split":
                return await self._transcribe_channels(request, headers, deadline)
            return await self._transcribe_channel(request, headers, deadline, None, _Heard())

    async def stream(
        self, request: TranscriptionRequest, headers: Mapping[str, str]
    ) -> AsyncGenerator[TranscriptSegment | Transcript, None]:
        """The segments as they become final, then the transcript that they make. Raises ServingError."""
        deadline = self._deadline()
        async with contextlib.aclosing(self._stream_channel(request, headers, deadline, None, _Heard())) as updates:
            ended = False
            while not ended:
                async with deadline.enforced():
                    update = await anext(updates)
                ended = isinstance(update, Transcript)
                yield update

    def _deadline(self) -> Deadline:
        """The request's; a new one for a caller that is no request."""
        return CURRENT.get() or Deadline(self._settings.request_timeout_seconds)

    async def _transcribe_channels(
        self, request: TranscriptionRequest, headers: Mapping[str, str], deadline: Deadline
    ) -> Transcript:
        """Each channel by itself, then all segments in the order of their starts."""
        heard = _Heard()
        first = await self._transcribe_channel(request, headers, deadline, 0, heard)
        others = [
            await self._transcribe_channel(request, headers, deadline, channel, _Heard())
            for channel in range(1, heard.channels)
        ]
        return merge.interleave([first, *others])

    @contextlib.asynccontextmanager
    async def _open(
        self, source: BinaryIO | Waveform, channel: int | None, heard: "_Heard"
    ) -> AsyncIterator[AsyncIterable[Samples]]:
        if isinstance(source, Waveform):
            yield _blocks(source, self._settings.max_audio_seconds)
            return
        async with self._media.open(source, channel=channel) as audio:
            heard.channels = audio.channels
            yield audio

    async def _transcribe_channel(
        self,
        request: TranscriptionRequest,
        headers: Mapping[str, str],
        deadline: Deadline,
        channel: int | None,
        heard: "_Heard",
    ) -> Transcript:
        async with contextlib.aclosing(self._stream_channel(request, headers, deadline, channel, heard)) as updates:
            parts = [update async for update in updates]
        transcript = parts[-1]
        assert isinstance(transcript, Transcript)  # noqa: S101  # the stream ends with it
        return transcript

    async def _stream_channel(
        self,
        request: TranscriptionRequest,
        headers: Mapping[str, str],
        deadline: Deadline,
        channel: int | None,
        heard: "_Heard",
    ) -> AsyncGenerator[TranscriptSegment | Transcript, None]:
        options = request.options()
        language = _Language(request)
        builder = TranscriptBuilder(request.task, self._limits, words=request.words)

        async def recognise(item: tuple[Window, Samples]) -> AsrResult | None:
            window, samples = item
            if not window.has_speech:
                telemetry.WINDOWS.labels(self._client.model_name, "silent").inc()
                return None
            telemetry.WINDOWS.labels(self._client.model_name, "decoded").inc()
            wanted = options.model_copy(update={"language": await language.ask()})
            result = await self._recognise(window, samples, wanted, headers, deadline)
            if request.words and any(segment.words is None for segment in result.segments):
                raise InvalidInput(
                    "times of words were asked for, but the model, as it is set up, gives none; ask for segments only",
                    code="no_word_times",
                )
            language.tell(result.language)
            return result

        windows = self._windows(request.source, channel, heard)
        async with contextlib.aclosing(ordered(windows, recognise, self._settings.hop_concurrency)) as results:
            async for (window, _samples), result in results:
                for segment in builder.add(window, result):
                    yield segment
        rest, transcript = builder.finish(heard.seconds)
        if transcript.language is None:  # nobody spoke; it is still the language that the client named
            transcript = transcript.model_copy(update={"language": request.language})
        telemetry.AUDIO_SECONDS.labels(self._client.model_name).inc(heard.seconds)
        for segment in rest:
            yield segment
        yield transcript

    async def _windows(
        self, source: BinaryIO | Waveform, channel: int | None, heard: "_Heard"
    ) -> AsyncGenerator[tuple[Window, Samples], None]:
        """Windows with their samples (context included), each as soon as its end is known.

        The decoder is given back after the last block: others need it, while the last windows are at the predictor.
        """
        with VoiceActivity() as voice:
            splitter = Splitter(self._limits)
            async with self._open(source, channel, heard) as audio:
                async for block in audio:
                    heard.seconds += len(block) / self._limits.sample_rate
                    probabilities = await in_thread(voice.push, block)
                    for item in splitter.push(block, probabilities):
                        yield self._count(item)
            for item in splitter.finish(voice.finish()):
                yield self._count(item)

    def _count(self, item: tuple[Window, Samples]) -> tuple[Window, Samples]:
        if item[0].forced_end:
            telemetry.FORCED_CUTS.labels(self._client.model_name).inc()
        return item

    async def _recognise(
        self, window: Window, samples: Samples, options: AsrOptions, headers: Mapping[str, str], deadline: Deadline
    ) -> AsrResult:
        """One window's result; speech that the decoder stopped short of is decoded again, as long as that brings text."""
        result = await self._call(samples, options, headers, deadline)
        first, rate = window.context_start, self._limits.sample_rate
        # A part of a window may sound like another language than the whole.
        again = options.model_copy(update={"language": result.language})
        for _ in range(_MOST_REDECODINGS):
            left_out = merge.uncovered(window, result, self._limits)
            if left_out is None:
                break
            start, end = left_out
            telemetry.REDECODED_SECONDS.labels(self._client.model_name).inc((end - start) / rate)
            extra = await self._call(samples[start - first : end - first], again, headers, deadline)
            known, result = result, merge.with_redecoded(result, (start - first) / rate, extra)
            if result.text == known.text:
                break
        return result

    async def _call(
        self, samples: Samples, options: AsrOptions, headers: Mapping[str, str], deadline: Deadline
    ) -> AsrResult:
        request = asr.write_request([AsrInput(samples, options)], self._client.model_name)
        (result,) = asr.read_response(await self._client.infer(request, headers, deadline))
        return result


async def _blocks(waveform: Waveform, max_seconds: float) -> AsyncIterator[Samples]:
    """A tensor's samples at 16 kHz in pieces of a second, as a decoder would give them. Raises TooLarge."""
    samples, rate = waveform.samples, waveform.sample_rate
    if max_seconds and len(samples) > max_seconds * rate:
        raise TooLarge(
            f"the audio is longer than {max_seconds:g} s, the limit here (MAX_AUDIO_SECONDS): it has {len(samples) / rate:.1f} s",
            code="audio_too_long",
        )
    resampler = (
        None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    )
    for start in range(0, len(samples), rate):
        block = samples[start : start + rate]
        yield block if resampler is None else resampler.resample_chunk(block, last=start + rate >= len(samples))


class _Heard:
    """What went by of a recording: its channels, and the seconds of the one that was asked for."""

    channels = 1
    seconds = 0.0


class _Language:
    """The language of a file: the client's, or what the first window with speech turns out to be.

    With neither, the first window goes alone and the others wait for it; `per_window_language` lets each find its own.
    """

    def __init__(self, request: TranscriptionRequest):
        self._language = request.language
        self._settled = asyncio.Event()
        self._asked = False
        if request.language is not None or request.per_window_language:
            self._settled.set()

    async def ask(self) -> str | None:
        """The language to decode the next window in; None lets the predictor detect it."""
        if self._asked or self._settled.is_set():
            await self._settled.wait()
        self._asked = True
        return self._language

    def tell(self, language: str | None) -> None:
        """Notes what the predictor found; only the first answer counts."""
        if not self._settled.is_set():
            self._language = language
            self._settled.set()


async def ordered(
    source: AsyncGenerator[T, None], work: Callable[[T], Awaitable[R]], concurrency: int
) -> AsyncGenerator[tuple[T, R], None]:
    """`work` on the items of `source`, `concurrency` at a time, results in the order of the items.

    At most twice as many items are held; closing the generator, or an error, cancels what is under way.
    """
    running = asyncio.Semaphore(concurrency)

    async def limited(item: T) -> R:
        async with running:
            return await work(item)

    pending: deque[tuple[T, asyncio.Task[R]]] = deque()
    try:
        async with contextlib.aclosing(source) as items:
            async for item in items:
                pending.append((item, asyncio.create_task(limited(item))))
                if len(pending) >= 2 * concurrency or pending[0][1].done():
                    first, task = pending.popleft()
                    yield first, await task
            while pending:
                first, task = pending.popleft()
                yield first, await task
    finally:
        for _, task in pending:
            task.cancel()
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
