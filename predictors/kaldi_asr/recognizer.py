"""The engine of the Kaldi-family predictor: windows in, transcripts out, whatever the backend."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from predictors.kaldi_asr.folder import ModelFolder, examine
from predictors.kaldi_asr.hotwords import phrases
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples, Segment, Word
from serving.errors import InvalidInput, ServingError

RATES = (8_000, 16_000)
"""Samples a second that are taken; the models work at 16000, telephone sound is resampled by the engine."""
_SHORTEST_SECONDS = 0.03  # less holds no speech, and the features of less than 80 samples cannot be made


class Backend(Protocol):
    """A library that recognises a batch of windows."""

    takes_hotwords: bool
    why_no_hotwords: str
    """What to do for hotwords, where they are not taken."""

    def recognise(self, batch: Sequence[Samples], rate: int, hotwords: Sequence[str]) -> list[tuple[str, list[Word]]]:
        """Text and words of each window, times in seconds from its start. `batch` has at least one, each of 30 ms or more.

        `hotwords` are phrases to favour, none where they are not taken.
        """

    def close(self) -> None:
        """Frees the model."""


class KaldiRecognizer:
    """An `asr/1` engine (`serving.engine`)."""

    def __init__(self, settings: KaldiSettings):
        self._settings = settings
        self._backend: Backend | None = None
        self.device = settings.provider.lower()

    def load(self) -> None:
        """Examines MODEL_ID and loads it. Raises ValueError when it, or PROVIDER, does not work."""
        self._backend = _backend(examine(Path(self._settings.model_id), self._settings.model_kind), self._settings)

    def close(self) -> None:
        """Frees the model."""
        if self._backend is not None:
            self._backend.close()

    def batch_key(self, item: AsrInput) -> Hashable:
        """Windows of one sample rate and with the same hotwords share a batch."""
        return item.options.sample_rate, item.options.hotwords or None

    def run(self, items: Sequence[AsrInput]) -> list[AsrResult | ServingError]:
        """Recognises windows of one batch key. What the model cannot do gets an InvalidInput each."""
        assert self._backend is not None  # noqa: S101  # load() made it
        language = self._settings.language or None
        results: list[AsrResult | ServingError] = [AsrResult(text="", language=language) for _ in items]
        planned: list[tuple[int, Samples]] = []
        for index, item in enumerate(items):
            try:
                self._check(item.options)
            except InvalidInput as error:
                results[index] = error
                continue
            if len(item.samples) >= _SHORTEST_SECONDS * item.options.sample_rate and item.samples.any():
                planned.append((index, item.samples))
        if planned:
            options = items[planned[0][0]].options
            padded = [self._padded(samples, options.sample_rate) for _, samples in planned]
            found = self._backend.recognise(padded, options.sample_rate, phrases(options.hotwords))
            for (index, samples), (text, words) in zip(planned, found, strict=True):
                duration = len(samples) / options.sample_rate
                results[index] = _result(text, words, duration, language, items[index].options)
        return results

    def _padded(self, samples: Samples, rate: int) -> Samples:
        padding = round(self._settings.tail_padding_seconds * rate)
        return np.concatenate([samples, np.zeros(padding, np.float32)])

    def _check(self, options: AsrOptions) -> None:
        assert self._backend is not None  # noqa: S101  # load() made it
        own = self._settings.language
        if options.sample_rate not in RATES:
            raise InvalidInput(
                f"sample_rate must be {' or '.join(map(str, RATES))}, got {options.sample_rate}", param="sample_rate"
            )
        if options.task != "transcribe":
            raise InvalidInput("this model transcribes, it does not translate", param="task")
        if own and options.language not in (None, own):
            raise InvalidInput(
                f"this model knows the language {own!r} only, got {options.language!r}", param="language"
            )
        if phrases(options.hotwords) and not self._backend.takes_hotwords:
            raise InvalidInput(f"hotwords are not taken here: {self._backend.why_no_hotwords}", param="hotwords")


def _backend(model: ModelFolder, settings: KaldiSettings) -> Backend:
    if model.kind == "vosk":
        from predictors.kaldi_asr.backends.vosk import VoskBackend  # noqa: PLC0415  # imported when it is needed

        return VoskBackend(model, settings)
    from predictors.kaldi_asr.backends.sherpa_onnx import SherpaBackend  # noqa: PLC0415

    return SherpaBackend(model, settings)


def _result(text: str, words: list[Word], duration: float, language: str | None, options: AsrOptions) -> AsrResult:
    text = " ".join(text.split())
    if not text:
        return AsrResult(text="", language=language)
    inside = [
        word.model_copy(update={"start": min(word.start, duration), "end": min(word.end, duration)}) for word in words
    ]
    first, last = (inside[0].start, inside[-1].end) if inside else (0.0, duration)
    timed = options.timestamps != "none"
    segment = Segment(
        start=first if timed else 0.0,
        end=last if timed else duration,
        text=f" {text}",
        words=inside if options.timestamps == "word" else None,
    )
    return AsrResult(
        text=f" {text}", language=language, language_probability=1.0 if language else None, segments=[segment]
    )
