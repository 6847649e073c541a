"""Spoken Russian of known text for the small models of `tests/models`: their words, by espeak-ng, voices that they were not
trained on. No assertions.
"""

import random
from collections.abc import Sequence

import numpy as np

from tests.synthesis import Samples, speak

# Russian is written in Cyrillic
WORDS = tuple(
    "ноль один два три четыре пять шесть семь восемь девять десять двадцать сто тысяча да нет привет спасибо пожалуйста "  # noqa: SIM905
    "сегодня завтра вчера утро вечер день ночь город дом дорога машина поезд работа время человек вода хлеб молоко новый "
    "большой хорошо плохо красный синий телефон".split()
)
"""All that the models know."""
VOICES = ("+m7", "+m8", "+f5", "+steph", "+ed")
"""Variants of espeak-ng's Russian voice that the models were not trained on."""


def sentence(seed: int, words: int | None = None) -> tuple[str, Samples]:
    """A sentence and how it sounds: float32 [n] at 16 kHz, peak at most 0.7."""
    draw = random.Random(seed)
    chosen = draw.choices(WORDS, k=words or draw.randint(2, 8))
    voice, speed = draw.choice(VOICES), draw.choice((125, 137, 145, 158, 172))
    sound = speak(" ".join(chosen), f"ru{voice}", words_a_minute=speed, pitch=draw.choice((28, 43, 55, 68)))
    loud = np.flatnonzero(np.abs(sound) > 1e-3)
    sound = sound[max(0, loud[0] - 160) : loud[-1] + 160]
    return " ".join(chosen), sound * np.float32(0.7 / max(0.7, float(np.abs(sound).max())))


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[Samples]]:
    """`count` sentences, always the same."""
    pairs = [sentence(seed * 1000 + number) for number in range(count)]
    return [text for text, _ in pairs], [sound for _, sound in pairs]


def joined(sounds: Sequence[Samples], pause_seconds: float = 0.8) -> Samples:
    """Sentences, one after the other, with pauses between and behind them."""
    pause = np.zeros(round(16_000 * pause_seconds), np.float32)
    return np.concatenate([part for sound in sounds for part in (sound, pause)])
