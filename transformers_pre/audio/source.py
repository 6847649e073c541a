"""Where the samples of a request come from: a recording that is to be decoded, or samples that a client sent.

Not here: how either arrives (`instances`, `serving.uploads`), and how a recording is decoded (`media`).
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soxr

from serving.errors import InvalidInput, TooLarge, shown
from transformers_pre.audio.media import SAMPLE_RATE, DecodedAudio, DecoderPool

SAMPLE_RATES = range(4_000, 192_001)
"""What a client may send samples at, in Hz; files may have other rates, which their decoder knows."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Waveform:
    """Mono float32 samples [S] in [-1, 1] that a client sent as a tensor, `sample_rate` of them a second."""

    samples: Samples
    sample_rate: int = SAMPLE_RATE


Source = BinaryIO | Waveform
"""What a request is about; who made it closes it."""


@contextlib.asynccontextmanager
async def opened(
    source: Source, media: DecoderPool, max_seconds: float, channel: int | None = None
) -> AsyncIterator[AsyncIterable[Samples]]:
    """Mono float32 blocks at 16 kHz, about a second each; those of a recording are a `DecodedAudio`.

    Args:
        source: the recording or samples.
        media: decodes recordings.
        max_seconds: longest samples, MAX_AUDIO_SECONDS; 0 for no limit. The decoders have theirs.
        channel: of a recording, counted from 0; None mixes all.

    Raises:
        ServingError: as `DecoderPool.open` and its blocks do; TooLarge for too many samples, while iterating.
    """
    if isinstance(source, Waveform):
        yield _blocks(source, max_seconds)
        return
    async with media.open(source, channel=channel) as audio:
        yield audio


def channels(audio: AsyncIterable[Samples]) -> int:
    """Channels of what `opened` gave, before mixing."""
    return audio.channels if isinstance(audio, DecodedAudio) else 1


def sample_rate(value: Any) -> int:
    """A parameter `sample_rate` of samples. Raises InvalidInput."""
    try:
        rate = int(value)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if rate not in SAMPLE_RATES:
        accepted = f"{SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} Hz"
        raise InvalidInput(f"sample_rate must be {accepted}, got {shown(value, 20)}", param="sample_rate")
    return rate


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
