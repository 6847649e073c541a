"""The way of one recording: decode → sound activity → split → predictor → description, as a pipeline with bounded look-ahead.

Not here: forms, routes, and what is told of windows (`description`).
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from serving import telemetry
from serving.contracts import caption
from serving.contracts.caption import CaptionInput, CaptionOptions, CaptionResult, Samples
from serving.deadline import CURRENT, Deadline
from serving.hop import PredictorClient
from transformers_pre.audio.caption.activity import SoundActivity
from transformers_pre.audio.caption.description import CaptionedWindow, Description, Summary, describe
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.media import DecoderPool
from transformers_pre.audio.ordered import ordered
from transformers_pre.audio.source import Source, opened
from transformers_pre.audio.split import Splitter, Window


@dataclass(frozen=True)
class DescriptionRequest:
    """What a client asks for, whatever route it came by. The caller closes `source`."""

    source: Source
    options: CaptionOptions
    summary: Summary


class Describer:
    """Describes recordings with one predictor."""

    def __init__(self, client: PredictorClient, media: DecoderPool, settings: CaptionSettings):
        self._client = client
        self._media = media
        self._settings = settings
        self._limits = settings.split_limits()

    async def describe(self, request: DescriptionRequest, headers: Mapping[str, str]) -> Description:
        """The whole description. Raises ServingError, by the deadline at the latest."""
        async with contextlib.aclosing(self.stream(request, headers)) as updates:
            *_, last = [update async for update in updates]
        assert isinstance(last, Description)  # noqa: S101  # the stream ends with it
        return last

    async def stream(
        self, request: DescriptionRequest, headers: Mapping[str, str]
    ) -> AsyncGenerator[CaptionedWindow | Description, None]:
        """The windows in their order, each as soon as it can be, then the description. Raises ServingError."""
        deadline = CURRENT.get() or Deadline(self._settings.request_timeout_seconds)
        updates = self._stream(request, headers, deadline)
        async with contextlib.aclosing(deadline.each(updates)) as timed:
            async for update in timed:
                yield update

    async def _stream(
        self, request: DescriptionRequest, headers: Mapping[str, str], deadline: Deadline
    ) -> AsyncGenerator[CaptionedWindow | Description, None]:
        async def captioned(item: tuple[Window, Samples]) -> CaptionResult | None:
            window, samples = item
            # The splitter's speech is sound here, see `CaptionSettings.split_limits`.
            telemetry.WINDOWS.labels(self._client.model_name, "decoded" if window.has_speech else "silent").inc()
            return await self._caption(samples, request.options, headers, deadline) if window.has_speech else None

        rate = self._limits.sample_rate
        windows: list[CaptionedWindow] = []
        style, end = None, 0
        cut = self._windows(request.source)
        async with contextlib.aclosing(ordered(cut, captioned, self._settings.hop_concurrency)) as results:
            async for (window, _samples), result in results:
                captions = result.captions if result else []
                made = CaptionedWindow(
                    start=window.start / rate, end=window.end / rate, silence=not captions, captions=captions
                )
                style, end = result.style if result else style, window.end
                windows.append(made)
                yield made
        telemetry.AUDIO_SECONDS.labels(self._client.model_name).inc(end / rate)
        yield describe(windows, request.summary, style, end / rate)

    async def _windows(self, source: Source) -> AsyncGenerator[tuple[Window, Samples], None]:
        """Windows with their samples, each as soon as its end is known; together they cover the recording."""
        splitter = Splitter(self._limits)
        activity = SoundActivity(self._settings.silence_dbfs)
        async with opened(source, self._media, self._settings.max_audio_seconds) as audio:
            async for block in audio:
                for item in splitter.push(block, activity.push(block)):
                    yield item
        for item in splitter.finish(activity.finish()):
            yield item

    async def _caption(
        self, samples: Samples, options: CaptionOptions, headers: Mapping[str, str], deadline: Deadline
    ) -> CaptionResult:
        """The predictor's result for samples [S]. Raises ServingError."""
        request = caption.write_request([CaptionInput(samples, options)], self._client.model_name)
        (result,) = caption.read_response(await self._client.infer(request, headers, deadline))
        return result
