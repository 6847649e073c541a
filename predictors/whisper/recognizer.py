"""The engine of the Whisper predictor: windows in, transcripts out, whatever the backend.

A batch is cut into as many parts as the backend has workers. Each part is encoded once, its languages are detected from
that encoding, it climbs the temperature ladder, and its tokens become segments and words.
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from predictors.whisper import windows
from predictors.whisper.fallback import Decoding, climb
from predictors.whisper.segments import Span, Vocabulary, shortened, split, window_result, with_words, without_tail
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import Abilities, Window
from serving.contracts.asr import AsrInput, AsrResult, Samples, Word
from serving.errors import InvalidInput, ServingError

E = TypeVar("E")


class Backend(Protocol[E]):
    """A library that runs Whisper. `E` is its encoding of a few windows; `rows` say which of them are meant."""

    device: str
    workers: int
    """Parts of a batch that are worked on at a time, each from a thread of its own."""
    abilities: Abilities
    vocabulary: Vocabulary

    def load(self) -> None:
        """Loads the weights and fills the attributes. Raises ValueError with one clear sentence."""

    def encode(self, samples: Sequence[Samples]) -> E:
        """Encodes windows of at most 30 s, padded to 30 s."""

    def detect(self, encoded: E) -> list[tuple[str, float]]:
        """The language of each window and its probability. Multilingual models only."""

    def decode(self, encoded: E, rows: Sequence[int], parts: Sequence[Window], temperature: float) -> list[Decoding]:
        """Decodes windows whose search, prompt length and timestamps are alike: beams at 0, samples above."""

    def align(
        self, encoded: E, rows: Sequence[int], parts: Sequence[Window], spans: Sequence[Sequence[Span]]
    ) -> list[list[list[Word]]]:
        """The words of each span of each window, by cross-attention and dynamic time warping."""

    def close(self) -> None:
        """Frees the weights."""


class WhisperRecognizer(Generic[E]):
    """An `asr/1` engine (`serving.engine`) around a backend."""

    device = ""

    def __init__(self, backend: Backend[E], settings: WhisperSettings):
        self._backend = backend
        self._settings = settings
        self._limits = settings.thresholds()
        self._threads: ThreadPoolExecutor | None = None

    def load(self) -> None:
        """Loads the weights. Raises ValueError when they, the device or LANGUAGE_FORCE do not work."""
        self._backend.load()
        self.device = self._backend.device
        self._settings.check_language(self._backend.abilities.languages)
        self._threads = ThreadPoolExecutor(self._backend.workers, thread_name_prefix="whisper")

    def close(self) -> None:
        """Frees the weights."""
        if self._threads is not None:
            self._threads.shutdown()
        self._backend.close()

    def batch_key(self, item: AsrInput) -> Hashable:
        """Windows with the same search and prompt share a batch; their languages may differ."""
        return windows.batch_key(item.options, self._settings)

    def run(self, items: Sequence[AsrInput]) -> list[AsrResult | ServingError]:
        """Recognises windows of one batch key. Those that the model cannot do get an InvalidInput each.

        Windows without a sound are not decoded.
        """
        results: list[AsrResult | ServingError] = [AsrResult(text="") for _ in items]
        planned: list[tuple[int, Window]] = []
        for index, item in enumerate(items):
            try:
                window = windows.plan(item, self._backend.abilities, self._settings)
            except InvalidInput as error:
                results[index] = error
            else:
                results[index] = AsrResult(text="", language=window.language)
                if not window.is_silent:
                    planned.append((index, window))
        recognised = self._spread([window for _, window in planned])
        for (index, _), result in zip(planned, recognised, strict=True):
            results[index] = result
        return results

    def _spread(self, batch: Sequence[Window]) -> list[AsrResult]:
        """Gives each worker an equal part of the batch."""
        assert self._threads is not None  # noqa: S101  # load() made it
        count = min(self._backend.workers, len(batch))
        bounds = [len(batch) * part // count for part in range(count + 1)] if count else []
        parts = [batch[start:end] for start, end in pairwise(bounds)]
        return [result for part in self._threads.map(self._recognise, parts) for result in part]

    def _recognise(self, batch: Sequence[Window]) -> list[AsrResult]:
        encoded = self._backend.encode([window.samples for window in batch])
        heard = self._listen(encoded, batch)

        def decode(rows: Sequence[int], temperature: float) -> list[Decoding]:
            parts = [heard[row] for row in rows]
            found = self._backend.decode(encoded, rows, parts, temperature)
            return self._without_tails(encoded, rows, parts, found)

        decodings = climb(len(heard), heard[0].temperatures, self._limits, decode)
        spans = self._spans(encoded, range(len(heard)), heard, decodings)
        return [
            window_result(window, own, decoding, self._backend.vocabulary)
            for window, own, decoding in zip(heard, spans, decodings, strict=True)
        ]

    def _listen(self, encoded: E, batch: Sequence[Window]) -> list[Window]:
        """The windows with their languages, detected where they were not given."""
        if all(window.language for window in batch):
            return list(batch)
        return [
            window if window.language else replace(window, language=language, language_probability=probability)
            for window, (language, probability) in zip(batch, self._backend.detect(encoded), strict=True)
        ]

    def _without_tails(
        self, encoded: E, rows: Sequence[int], parts: Sequence[Window], decodings: Sequence[Decoding]
    ) -> list[Decoding]:
        """The decodings; those that repeat themselves without what no audio is left for, which often is the repetition.

        So a good decoding with a bad end does not climb the ladder, where it would be drawn by lot.
        """
        found = list(decodings)
        chosen = [i for i, decoding in enumerate(decodings) if decoding.is_repetitive(self._limits)]
        spans = self._spans(
            encoded, [rows[i] for i in chosen], [parts[i] for i in chosen], [decodings[i] for i in chosen]
        )
        for i, own in zip(chosen, spans, strict=True):
            if own and parts[i].is_aligned:
                found[i] = shortened(decodings[i], own, self._backend.vocabulary)
        return found

    def _spans(
        self, encoded: E, rows: Sequence[int], parts: Sequence[Window], decodings: Sequence[Decoding]
    ) -> list[list[Span]]:
        """The spans of windows, with their words, whose times take the place of the decoder's timestamps.

        Those are often wrong by seconds where a window begins with a pause, because Whisper is made to begin within the
        first second. Not for translations, which are not said in the order of the words that are heard, unless asked.
        """
        spans = [
            []
            if decoding.is_silence(self._limits)
            else split(decoding.tokens, self._backend.vocabulary, window.duration)
            for window, decoding in zip(parts, decodings, strict=True)
        ]
        chosen = [i for i, window in enumerate(parts) if spans[i] and window.is_aligned]
        if chosen:
            picked = [rows[i] for i in chosen], [parts[i] for i in chosen], [spans[i] for i in chosen]
            for i, words in zip(chosen, self._backend.align(encoded, *picked), strict=True):
                spans[i] = without_tail(with_words(spans[i], words, parts[i].duration))
        return spans
