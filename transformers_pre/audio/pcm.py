"""Raw samples as a client sends them, in packets of any size: each channel's own stream of float32 at 16 kHz.

The stream does not depend on where the packets end, not even inside a sample.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import soxr

from serving.errors import InvalidInput, shown
from transformers_pre.audio.wire import SAMPLE_RATE

Samples = npt.NDArray[np.float32]
Encoding = Literal["pcm16", "float32"]

RATES = range(4_000, 192_001)
"""Samples a second that a client may send, in Hz."""


class PcmStream:
    """Interleaved samples in, one array a channel out.

    Args:
        sample_rate: samples a second of each channel, in `RATES`.
        channels: how many, at least one.
        encoding: little-endian 16-bit integers, or 32-bit floats in [-1, 1].
    """

    def __init__(self, sample_rate: int, channels: int = 1, encoding: Encoding = "pcm16"):
        self._type = np.dtype("<i2" if encoding == "pcm16" else "<f4")
        self._frame = self._type.itemsize * channels
        self._channels = channels
        self._rest = b""
        self._resampler = None
        if sample_rate != SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ")

    def push(self, data: bytes) -> list[Samples]:
        """The next samples of each channel, float32 [n] in [-1, 1], equal n. Raises InvalidInput for what is no number."""
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % self._frame
        self._rest = data[whole:]
        values = np.frombuffer(data, self._type, whole // self._type.itemsize).reshape(-1, self._channels)
        return self._converted(self._scaled(values), last=False)

    def finish(self) -> list[Samples]:
        """What the resampler still holds. Raises InvalidInput when the stream stopped inside a sample."""
        if self._rest:
            raise InvalidInput(
                f"the audio stops {len(self._rest)} bytes into a sample of {self._frame} bytes",
                code="incomplete_sample",
            )
        return self._converted(np.zeros((0, self._channels), np.float32), last=True)

    def _scaled(self, values: npt.NDArray[np.int16] | Samples) -> Samples:
        if self._type.kind == "i":
            return values.astype(np.float32) * np.float32(2**-15)
        if not np.isfinite(values).all():
            raise InvalidInput("the audio holds samples that are no finite numbers", code="bad_samples")
        return np.clip(values, -1.0, 1.0)

    def _converted(self, frames: Samples, *, last: bool) -> list[Samples]:
        if self._resampler is not None:
            # soxr takes one channel as [n], not as [n, 1]
            given = frames[:, 0] if self._channels == 1 else frames
            frames = np.clip(self._resampler.resample_chunk(given, last=last), -1.0, 1.0).reshape(-1, self._channels)
        return [np.ascontiguousarray(frames[:, channel]) for channel in range(self._channels)]


def sample_rate(value: object, default: int) -> int:
    """A client's sample rate: a whole number in `RATES`, also as a float or text (vosk's clients); `default` for None.

    Raises InvalidInput.
    """
    if value is None:
        return default
    try:
        rate = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        rate = math.nan
    if rate not in RATES:
        raise InvalidInput(
            f"sample_rate must be a whole number from {RATES[0]} to {RATES[-1]}, got {shown(value, 20)}",
            code="unsupported_value",
            param="sample_rate",
        )
    return int(rate)
