"""Log-mel filter banks as sherpa-onnx computes them for GigaAM and for Vosk 5, in NumPy: what the small models are trained on.

Kaldi's frames of 25 ms every 10 ms at 16 kHz, without dither; the sound is mirrored at its ends (`snip_edges=false`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
_FRAME, _STEP, _FFT = 400, 160, 512  # samples
_PRE_EMPHASIS = np.float32(0.97)
_LEAST = np.finfo(np.float32).eps  # power below it has no logarithm
_PHASE = np.arange(_FRAME) / _FRAME


@dataclass(frozen=True, eq=False)
class FilterBank:
    """How a model wants its features."""

    bins: int
    lowest: float
    """Hz."""
    highest: float
    """Hz."""
    window: Array
    """[400]"""
    remove_offset: bool
    """Whether a frame's mean is taken out of it."""


GIGAAM = FilterBank(64, 0.0, 8000.0, (0.5 - 0.5 * np.cos(2 * np.pi * _PHASE)).astype(np.float32), remove_offset=False)
"""A periodic Hann window."""
VOSK5 = FilterBank(
    80,
    20.0,
    7600.0,
    ((0.5 - 0.5 * np.cos(2 * np.pi * _PHASE * _FRAME / (_FRAME - 1))) ** 0.85).astype(np.float32),
    remove_offset=True,
)
"""Kaldi's own window, "povey"."""


def log_mel(samples: Array, bank: FilterBank) -> Array:
    """The features of mono float32 `samples` [n] in [-1, 1] at 16 kHz: [(n + 80) // 160, `bank.bins`]."""
    count = (len(samples) + _STEP // 2) // _STEP
    if count == 0:
        return np.zeros((0, bank.bins), np.float32)
    before = (_FRAME - _STEP) // 2  # the first frame is centred on the first step
    mirrored = np.pad(samples, (before, _FRAME - _STEP // 2 - before), mode="symmetric")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, _FRAME)[::_STEP][:count].astype(np.float32)
    if bank.remove_offset:
        frames = frames - frames.mean(axis=1, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.fft.rfft((frames - _PRE_EMPHASIS * previous) * bank.window, _FFT)
    power = np.square(np.abs(spectrum[:, :-1])).astype(np.float32)  # Kaldi leaves the last frequency out
    return np.log(np.maximum(power @ _triangles(bank).T, _LEAST))


@cache
def _triangles(bank: FilterBank) -> Array:
    """Weights of the frequencies in each bin: [bins, 256]."""
    lowest, highest = _mel(np.array([bank.lowest, bank.highest]))
    corners = np.linspace(lowest, highest, bank.bins + 2)
    left, centre, right = (corners[start : start + bank.bins, None] for start in range(3))
    frequencies = _mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log(1.0 + frequency / 700.0)
