"""Speech of known content for tests and benches: espeak-ng, and running speech made of its words with known spans.

It is no recording of a person: real recordings are in `.data/recordings`. What it has instead is the exact place of every
word, any length, and many languages. espeak-ng comes from the package `espeakng_loader` and is called through ctypes.
"""

import _ctypes
import contextlib
import ctypes
import functools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import espeakng_loader
import numpy as np
import numpy.typing as npt
import soxr

Samples = npt.NDArray[np.float32]
Span = tuple[int, int]

SAMPLE_RATE = 16000

# ruff: noqa: RUF001  # Russian is written in Cyrillic
VOCABULARY = {
    "en-us": "the of water people after because little mountain river yesterday remember question number thirty history we "
    "station morning together between children important window paper travelling under system music another seven always "
    "garden letter doctor possible evening summer money country should never listen ask your bring large street voice",
    "ru": "и не что вода человек потому маленький гора река вчера помнить вопрос число тридцать история мы станция утро вместе "
    "между дети важный окно бумага дорога система музыка другой семь всегда сад письмо врач можно вечер лето деньги страна "
    "никогда слушать спросить твой принести большой улица голос работа завтра хорошо сегодня пожалуйста",
    "de": "der und nicht wasser mensch weil klein berg fluss gestern erinnern frage nummer dreißig geschichte wir bahnhof morgen "
    "zusammen zwischen kinder wichtig fenster papier reise unter system musik anderer sieben immer garten brief arzt abend",
    "es": "el de agua gente porque pequeño montaña río ayer recordar pregunta número treinta historia estación mañana juntos "
    "entre niños importante ventana papel viaje sistema música otro siete siempre jardín carta médico posible noche verano",
}
"""Words of running speech by espeak-ng voice."""

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback runs inside espeak_Synth
_UTF8 = 1
_RATE = 1  # espeakRATE, words a minute
_LEVEL = 2  # espeakVOLUME, 0-200
_PITCH = 3  # espeakPITCH, 0-100
_SILENCE = 10 ** (-50 / 20)  # samples this far below a word's peak are not part of it

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


def speak(
    text: str, language: str = "en-us", *, words_a_minute: int = 175, pitch: int = 50, level: int = 100
) -> Samples:
    """`text` spoken by the espeak-ng voice `language`: float32 [n], mono, 16 kHz, always the same.

    Raises ValueError for an unknown voice.
    """
    blocks: list[npt.NDArray[np.int16]] = []

    def collect(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(collect)
    with _lock, _library() as library:
        sample_rate = int(library.espeak_Initialize(_SYNCHRONOUS, 200, espeakng_loader.get_data_path().encode(), 0))
        if sample_rate <= 0:
            raise RuntimeError("espeak-ng did not start")
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(language.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {language!r}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise is drawn
        library.espeak_SetParameter(_RATE, words_a_minute, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_LEVEL, level, 0)
        data = text.encode()
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
    samples = np.concatenate([np.zeros(0, np.int16), *blocks]).astype(np.float32) / np.float32(32768)
    return np.asarray(soxr.resample(samples, sample_rate, SAMPLE_RATE), np.float32)


@contextlib.contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """espeak-ng, loaded for one text: its oscillators go on from where they were, even when it is started anew."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        yield library
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)  # ctypes has no public way to unload


@functools.cache
def spoken_word(word: str, language: str, pitch: int) -> Samples:
    """One word without the silence around it, at running speed; read-only."""
    samples = speak(word, language, words_a_minute=190, pitch=pitch)
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    samples.flags.writeable = False
    return samples


@dataclass(frozen=True)
class Phrase:
    """6-18 words with no gap between them and the pause after them; `words` are (text, start, end) in samples."""

    samples: Samples
    words: tuple[tuple[str, int, int], ...]
    language: str


def phrases(seed: int, languages: tuple[str, ...] = tuple(VOCABULARY)) -> Iterator[Phrase]:
    """Running speech without end: phrases of 6-18 words, a pause of 200-800 ms of digital silence after each."""
    draw = random.Random(seed)
    while True:
        language, pitch = draw.choice(languages), draw.choice((30, 50, 70))
        vocabulary = VOCABULARY[language].split()
        parts: list[Samples] = []
        words: list[tuple[str, int, int]] = []
        position = 0
        for word in draw.choices(vocabulary, k=draw.randint(6, 18)):
            parts.append(spoken_word(word, language, pitch))
            words.append((word, position, position + len(parts[-1])))
            position += len(parts[-1])
        parts.append(np.zeros(draw.randint(SAMPLE_RATE * 200 // 1000, SAMPLE_RATE * 800 // 1000), np.float32))
        yield Phrase(np.concatenate(parts), tuple(words), language)


def fluent(
    seconds: float, seed: int, languages: tuple[str, ...] = tuple(VOCABULARY)
) -> tuple[Samples, list[tuple[str, int, int]]]:
    """Exactly `seconds` of `phrases`, held in memory: (samples [n], the words that begin in them as (text, start, end))."""
    length = round(seconds * SAMPLE_RATE)
    samples = np.zeros(length, np.float32)
    words: list[tuple[str, int, int]] = []
    position = 0
    for phrase in phrases(seed, languages):
        if position >= length:
            break
        part = phrase.samples[: length - position]
        samples[position : position + len(part)] = part
        words += [
            (word, position + a, min(position + b, length)) for word, a, b in phrase.words if position + a < length
        ]
        position += len(part)
    return samples, words
