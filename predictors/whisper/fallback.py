"""The temperature ladder: a window whose decoding fails is decoded again, alone, at the next temperature.

The rules are openai-whisper's (`transcribe.decode_with_fallback`), for batches. Pure: the decoder is a function.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Thresholds:
    """When a decoding fails, and when it is silence."""

    compression_ratio: float = 2.4
    logprob: float = -1.0
    no_speech: float = 0.6


@dataclass(frozen=True)
class Decoding:
    """What the decoder said about one window.

    `tokens` are the sampled ones, timestamps included; `avg_logprob` is their mean log-probability, the end token
    counted; `no_speech_prob` is the probability of <|nospeech|> at the start of the transcript.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float
    logprobs: tuple[float, ...] | None = None
    """Of each token, where the engine tells them."""

    @cached_property
    def compression_ratio(self) -> float:
        """Of the whole text."""
        return compression_ratio(self.text)

    def is_silence(self, limits: Thresholds) -> bool:
        """Whether nothing was said: silence is probable, and the decoder was not sure of its words."""
        return self.no_speech_prob > limits.no_speech and self.avg_logprob < limits.logprob

    def is_repetitive(self, limits: Thresholds) -> bool:
        """Whether the text repeats itself."""
        return self.compression_ratio > limits.compression_ratio

    def failed(self, limits: Thresholds) -> bool:
        """Whether another temperature should be tried."""
        if self.is_silence(limits):
            return False
        return self.is_repetitive(limits) or self.avg_logprob < limits.logprob


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of it compressed; high for text that repeats itself."""
    plain = text.strip().encode()
    return len(plain) / len(zlib.compress(plain))


def climb(
    count: int,
    temperatures: Sequence[float],
    limits: Thresholds,
    decode: Callable[[Sequence[int], float], Sequence[Decoding]],
) -> list[Decoding]:
    """The accepted decoding of each of `count` windows.

    Args:
        count: windows, known by their index.
        temperatures: the ladder, lowest first; at least one.
        limits: when a decoding fails.
        decode: decodings of the windows with these indices, in their order, at this temperature.

    Returns:
        The `best` of each window's.
    """
    tried: list[list[Decoding]] = [[] for _ in range(count)]
    left: Sequence[int] = range(count)
    for temperature in temperatures:
        for window, decoding in zip(left, decode(left, temperature), strict=True):
            tried[window].append(decoding)
        left = [window for window in left if tried[window][-1].failed(limits)]
        if not left:
            break
    return [best(decodings, limits) for decodings in tried]


def best(decodings: Sequence[Decoding], limits: Thresholds) -> Decoding:
    """The last of a window's decodings if it does not fail; else the most probable of those without repetition, or of all."""
    if not decodings[-1].failed(limits):
        return decodings[-1]
    varied = [decoding for decoding in decodings if not decoding.is_repetitive(limits)]
    return max(varied or decodings, key=lambda decoding: decoding.avg_logprob)
