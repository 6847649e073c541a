"""Log-mel features as Whisper was trained on them, in NumPy: no torch for the CPU image. Held to transformers' own by a test."""

from functools import cache

import numpy as np
import numpy.typing as npt

from serving.contracts.caption import Samples

RATE, SECONDS, FFT, HOP = 16_000, 30, 400, 160
FRAMES = SECONDS * RATE // HOP

Features = npt.NDArray[np.float32]


def log_mel(samples: Samples, mels: int) -> Features:
    """Features [mels, 3000] of a window of at most 30 s, which is padded with zeros.

    Whisper's own: a Hann window of 25 ms every 10 ms, power, mel bands, log10 no lower than 8 below the loudest, (x + 4) / 4.
    """
    padded = np.zeros(SECONDS * RATE, np.float32)
    padded[: len(samples)] = samples
    centred = np.pad(padded, FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(centred, FFT)[::HOP][:FRAMES]
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    bands = _mel_filters(mels) @ power.T
    levels = np.log10(np.maximum(bands, 1e-10))
    scaled: Features = ((np.maximum(levels, levels.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def _mel_filters(mels: int) -> npt.NDArray[np.float64]:
    """Triangles [mels, 201] on Slaney's mel scale up to 8 kHz, each of area one."""
    edges = _hertz(np.linspace(_mel(0.0), _mel(RATE / 2), mels + 2))
    bins = np.linspace(0, RATE / 2, FFT // 2 + 1)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: npt.NDArray[np.float64] = triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters


_LINEAR_HERTZ, _LINEAR_MELS, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0  # linear below, 27 mels for a factor of 6.4 above


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_HERTZ:
        return hertz * _LINEAR_MELS / _LINEAR_HERTZ
    return _LINEAR_MELS + float(np.log(hertz / _LINEAR_HERTZ)) / float(_STEP)


def _hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    below = mel * _LINEAR_HERTZ / _LINEAR_MELS
    above = _LINEAR_HERTZ * np.exp(_STEP * (mel - _LINEAR_MELS))
    return np.where(mel < _LINEAR_MELS, below, above)
