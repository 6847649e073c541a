"""The way of one recording: decode → voice activity → split → predictor → merge, as a pipeline with bounded look-ahead.

Blocks of samples come from the decoder, windows leave the splitter as soon as their end is known, a few of them are at
the predictor at a time, and their segments are final in order. A ten-hour file is never in memory; a cancelled caller
stops the decoder and the calls in flight. Not here: forms, formats and routes.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal

from serving import telemetry
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples, Task
from serving.deadline import CURRENT, Deadline
from serving.errors import InvalidInput
from serving.hop import PredictorClient
from serving.threads import in_thread
from transformers_pre.audio import merge
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.merge import Transcript, TranscriptBuilder, TranscriptSegment
from transformers_pre.audio.ordered import ordered
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.source import Source, channels, opened
from transformers_pre.audio.split import Splitter, Window
from transformers_pre.audio.vad import VoiceActivity

_MOST_REDECODINGS = (
    10  # of one window: that many sentences fit; on ten minutes of conversation none needed a second one
)


@dataclass(frozen=True)
class TranscriptionRequest:
    """What a client asks for, whatever route it came by. The caller closes `source`, a file of the system or samples."""

    source: Source
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

    @property
    def model_name(self) -> str:
        """The predictor's model, the label of the metrics."""
        return self._client.model_name

    def language(self, asked: str | None) -> str | None:
        """LANGUAGE_FORCE, or the language that a client asks for."""
        return self._settings.language_force or asked

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
        updates = self._stream_channel(request, headers, deadline, None, _Heard())
        async with contextlib.aclosing(deadline.each(updates)) as timed:
            async for update in timed:
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
        named = self.language(request.language)
        language = SpokenLanguage(named, settled=request.per_window_language)
        builder = TranscriptBuilder(request.task, self._limits, words=request.words)

        async def recognise(item: tuple[Window, Samples]) -> AsrResult | None:
            window, samples = item
            if not window.has_speech:
                telemetry.WINDOWS.labels(self._client.model_name, "silent").inc()
                return None
            telemetry.WINDOWS.labels(self._client.model_name, "decoded").inc()
            wanted = options.model_copy(update={"language": await language.ask()})
            result = await self.recognise(window, samples, wanted, headers, deadline)
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
        if transcript.language is None:  # nobody spoke; it is still the language that was named
            transcript = transcript.model_copy(update={"language": named})
        telemetry.AUDIO_SECONDS.labels(self._client.model_name).inc(heard.seconds)
        for segment in rest:
            yield segment
        yield transcript

    async def _windows(
        self, source: Source, channel: int | None, heard: "_Heard"
    ) -> AsyncGenerator[tuple[Window, Samples], None]:
        """Windows with their samples (context included), each as soon as its end is known.

        The decoder is given back after the last block: others need it, while the last windows are at the predictor.
        """
        with VoiceActivity() as voice:
            splitter = Splitter(self._limits)
            limit = self._settings.max_audio_seconds
            async with opened(source, self._media, limit, channel) as audio:
                heard.channels = channels(audio)
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

    async def recognise(
        self, window: Window, samples: Samples, options: AsrOptions, headers: Mapping[str, str], deadline: Deadline
    ) -> AsrResult:
        """One window's result; speech that the decoder stopped short of is decoded again, as long as that brings text.

        Args:
            window: the window, positions in samples from the recording's start.
            samples: its samples, context included.
            options: how it is to be recognised.
            headers: the client's, of which the hop forwards some.
            deadline: for all calls together.

        Raises:
            ServingError: as the predictor, or the hop, says.
        """
        result = await self.call(samples, options, headers, deadline)
        first, rate = window.context_start, self._limits.sample_rate
        # A part of a window may sound like another language than the whole.
        again = options.model_copy(update={"language": result.language})
        for _ in range(_MOST_REDECODINGS):
            left_out = merge.uncovered(window, result, self._limits)
            if left_out is None:
                break
            start, end = left_out
            telemetry.REDECODED_SECONDS.labels(self._client.model_name).inc((end - start) / rate)
            extra = await self.call(samples[start - first : end - first], again, headers, deadline)
            known, result = result, merge.with_redecoded(result, (start - first) / rate, extra)
            if result.text == known.text:
                break
        return result

    async def call(
        self, samples: Samples, options: AsrOptions, headers: Mapping[str, str], deadline: Deadline
    ) -> AsrResult:
        """The predictor's result for samples [S], as it comes. Raises ServingError."""
        request = asr.write_request([AsrInput(samples, options)], self._client.model_name)
        (result,) = asr.read_response(await self._client.infer(request, headers, deadline))
        return result


class _Heard:
    """What went by of a recording: its channels, and the seconds of the one that was asked for."""

    channels = 1
    seconds = 0.0


class SpokenLanguage:
    """The language of a recording: the client's, or what the first window with speech turns out to be.

    With neither, the first window goes alone and the others wait for it; `settled` lets each find its own.
    """

    def __init__(self, language: str | None, *, settled: bool = False):
        self._language = language
        self._settled = asyncio.Event()
        self._asked = False
        if language is not None or settled:
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
