"""A window on its way through a backend: what the request asks, the settings' say in it, and what is refused. Pure."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from predictors.whisper.settings import WhisperSettings
from serving.contracts.asr import AsrInput, AsrOptions, Samples, Task
from serving.errors import InvalidInput

SAMPLE_RATE = 16_000
MAX_SECONDS = 30
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE
SAMPLES_PER_FRAME = 160
SILENCE_PEAK = 2.0**-15
"""One step of 16-bit audio: what stays below it is no sound at all. Whisper says "You" to 30 s of zeros."""


@dataclass(frozen=True, eq=False)
class Window:
    """Up to 30 s of 16 kHz mono samples [S] and how to decode them. `language` None is to be detected."""

    samples: Samples
    language: str | None
    task: Task
    previous: tuple[int, ...]
    timestamps: bool
    """Whether the decoder marks times, which make the segments."""
    words: bool
    """Whether the words are told."""
    is_aligned: bool
    """Whether the times of segments come from their words."""
    temperatures: tuple[float, ...]
    beam_size: int
    best_of: int
    language_probability: float | None = None
    """Only when the language was detected."""

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def frames(self) -> int:
        """Frames of 10 ms to align words with; no fewer than the two that are one step of the encoder."""
        return max(2, len(self.samples) // SAMPLES_PER_FRAME)

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to decode: no samples, or digital silence."""
        return not len(self.samples) or float(np.abs(self.samples).max()) < SILENCE_PEAK


@dataclass(frozen=True)
class Abilities:
    """What a loaded model can do. An English-only model has the one language `en` and cannot translate."""

    languages: tuple[str, ...]
    multilingual: bool
    encode: Callable[[str], Sequence[int]]
    """Tokens of a text."""
    context: int
    """Tokens that prompt and transcript share; half of them are the prompt's."""


def batch_key(options: AsrOptions, settings: WhisperSettings) -> Hashable:
    """What windows of one batch have in common: the search and the prompt, but not the language or the task."""
    return (
        _timestamps(options, settings),
        options.temperature or 0.0,
        options.beam_size or settings.beams(),
        options.best_of or settings.best_of,
        options.prompt,
        options.hotwords,
    )


def plan(item: AsrInput, abilities: Abilities, settings: WhisperSettings) -> Window:
    """The window of an item. Raises InvalidInput when this model cannot do what it asks."""
    options = item.options
    if options.sample_rate != SAMPLE_RATE:
        raise InvalidInput(
            f"sample_rate {options.sample_rate} is not accepted, send {SAMPLE_RATE}",
            code="sample_rate",
            param="sample_rate",
        )
    if len(item.samples) > MAX_SAMPLES:
        raise InvalidInput(
            f"the window has {len(item.samples)} samples, the model takes {MAX_SAMPLES} at most: {MAX_SECONDS} s",
            code="window_too_long",
            param="AUDIO",
        )
    if options.task == "translate" and not abilities.multilingual:
        raise InvalidInput("task 'translate' is not possible: this model only knows English", param="task")
    timestamps = _timestamps(options, settings)
    return Window(
        samples=item.samples,
        language=_language(options, abilities, settings),
        task=options.task,
        previous=_previous(options, abilities),
        timestamps=timestamps,
        words=timestamps and options.timestamps == "word",
        is_aligned=_aligned(options, timestamps),
        temperatures=(options.temperature,) if options.temperature else settings.temperatures,
        beam_size=options.beam_size or settings.beams(),
        best_of=options.best_of or settings.best_of,
    )


def _timestamps(options: AsrOptions, settings: WhisperSettings) -> bool:
    if settings.timestamps == "auto":
        return options.timestamps != "none"
    return settings.timestamps == "segments"


def _aligned(options: AsrOptions, timestamps: bool) -> bool:
    """Whether a window is aligned: where times are asked for, also the one segment of TIMESTAMPS=none.

    By its end a decoder that stopped early tells what it left out. Translations are not said in the order of the words
    that are heard, so only where times of words are asked for.
    """
    wanted = timestamps or options.timestamps != "none"
    return options.timestamps == "word" or (wanted and options.task == "transcribe")


def _language(options: AsrOptions, abilities: Abilities, settings: WhisperSettings) -> str | None:
    if settings.language_force:
        return settings.language_force
    if options.language is None:
        return None if abilities.multilingual else "en"
    code = options.language.lower()
    if code not in abilities.languages:
        accepted = ", ".join(sorted(abilities.languages))
        raise InvalidInput(
            f"language {options.language!r} is not known to this model, it accepts: {accepted}",
            code="unknown_language",
            param="language",
        )
    return code


def _previous(options: AsrOptions, abilities: Abilities) -> tuple[int, ...]:
    """Tokens that go before the transcript as if they had just been said: hotwords, then the prompt.

    They get half of the model's context less one, as in openai-whisper: the first hotwords, the end of the prompt.
    """
    room = abilities.context // 2 - 1
    hotwords, prompt = (
        abilities.encode(" " + text.strip()) if text and text.strip() else []
        for text in (options.hotwords, options.prompt)
    )
    hotwords = hotwords[:room]
    room -= len(hotwords)
    return (*hotwords, *(prompt[-room:] if room else []))
