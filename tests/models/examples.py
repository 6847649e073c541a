"""What the small models are trained on: sentences of espeak-ng in voices that `tests.russian` does not hold out, as microphones
and telephones might give them.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from tests.models.features import SAMPLE_RATE
from tests.russian import WORDS
from tests.synthesis import Samples, speak

VOICES = tuple(
    "+m1 +m2 +m3 +m4 +m5 +m6 +f1 +f2 +f3 +f4 +steph2 +Michael +linda +pablo +belinda +aunty +max +rob +boris "  # noqa: SIM905
    "+adam +victor +Andy +Alicia +norbert +quincy +travis +zac +david +marcelo +gustave".split()
)
"""Variants of espeak-ng's Russian voice, besides the plain one: such as give the same sound every time, and do not clip."""
_SPEEDS = (120, 130, 140, 150, 165, 180, 200)  # words a minute
_PITCHES = (20, 35, 50, 60, 75)
_LEVEL = 45  # of 200; at espeak-ng's own 100 some voices clip
_AUDIBLE = 1e-3
_MARGIN = SAMPLE_RATE // 100  # samples that are left on either side
_MU = 255.0  # of the telephone's logarithmic steps


@dataclass(frozen=True, eq=False)
class Example:
    """Mono float32 `samples` [n] at 16 kHz, and the words in them."""

    text: str
    samples: Samples


def spoken(count: int, seed: int) -> list[Example]:
    """`count` sentences of 2 to 8 words as espeak-ng says them, without silence around them; always the same."""
    draw = random.Random(seed)
    return [_spoken(draw) for _ in range(count)]


def _spoken(draw: random.Random) -> Example:
    words = draw.choices(WORDS, k=draw.randint(2, 8))
    written = " ".join(word + ("," if draw.random() < 0.2 else "") for word in words)  # a comma is a pause
    sound = speak(
        written,
        f"ru{draw.choice(('', *VOICES))}",
        words_a_minute=draw.choice(_SPEEDS),
        pitch=draw.choice(_PITCHES),
        level=_LEVEL,
    )
    loud = np.flatnonzero(np.abs(sound) > _AUDIBLE)
    return Example(" ".join(words), sound[max(0, loud[0] - _MARGIN) : loud[-1] + _MARGIN])


def varied(sentences: Sequence[Example], count: int, seed: int) -> Iterator[Example]:
    """`count` examples of one or two of the sentences with pauses, noise, telephone lines and levels; always the same."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    for _ in range(count):
        chosen = draw.choices(sentences, k=draw.choice((1, 1, 1, 2)))
        sound = _in_pauses([_quieter(each.samples, draw.uniform(0, 6)) for each in chosen], draw)
        if draw.random() < 0.7:
            sound = _noisy(sound, draw, noise)
        if draw.random() < 0.45:
            sound = _telephone(sound, coarse=draw.random() < 0.5)
        sound = _quieter(sound, draw.uniform(0, 20))
        whole = np.round(np.clip(sound, -1, 1) * 32767) / np.float32(32768)  # as 16-bit samples arrive
        yield Example(" ".join(each.text for each in chosen), whole.astype(np.float32))


def _quieter(sound: Samples, decibels: float) -> Samples:
    return sound * np.float32(10 ** (-decibels / 20))


def _in_pauses(sounds: Sequence[Samples], draw: random.Random) -> Samples:
    parts = [_silence(draw.uniform(0, 0.5))]
    for sound in sounds:
        parts += [sound, _silence(draw.uniform(0.05, 0.8))]
    return np.concatenate(parts)


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def _noisy(sound: Samples, draw: random.Random, noise: np.random.Generator) -> Samples:
    """White noise, or such without treble, 12 to 45 dB below the speech."""
    added = noise.standard_normal(len(sound)).astype(np.float32)
    if draw.random() < 0.5:
        added = np.convolve(added, np.full(8, 8**-0.5, np.float32), "same")  # of the same power
    return sound + _quieter(added, draw.uniform(12, 45)) * np.sqrt(np.mean(np.square(sound)))


def _telephone(sound: Samples, *, coarse: bool) -> Samples:
    """The sound through 8 kHz, and with `coarse` through G.711's 8 bits."""
    line = soxr.resample(sound, SAMPLE_RATE, SAMPLE_RATE // 2)
    if coarse:
        compressed = np.sign(line) * np.log1p(_MU * np.minimum(1, np.abs(line))) / np.log1p(_MU)
        steps = np.round(compressed * 127) / 127
        line = np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU
    return np.asarray(soxr.resample(line, SAMPLE_RATE // 2, SAMPLE_RATE), np.float32)
