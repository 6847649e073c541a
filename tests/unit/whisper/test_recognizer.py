"""The engine around a backend that is made up: the order of results, refusals alone, workers, ladder and words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from predictors.whisper.fallback import Decoding
from predictors.whisper.recognizer import WhisperRecognizer
from predictors.whisper.segments import Span, Vocabulary
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import Abilities, Window
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples, Word
from serving.errors import InvalidInput

FIRST = 1000


class Echo:
    """Says the value of a window's first sample (times 10), as token and text, from 0.5 s to its end."""

    device = "echo"
    abilities = Abilities(("en", "es"), True, lambda text: [1] * len(text), 448)
    vocabulary = Vocabulary(900, FIRST, lambda tokens: "".join(f" {token}" for token in tokens))

    def __init__(self, workers: int = 1, failing: Sequence[int] = (), silent: Sequence[int] = ()):
        self.workers = workers
        self.failing = failing
        self.silent = silent
        self.encoded: list[list[int]] = []
        self.decoded: list[tuple[list[int], float]] = []
        self.aligned: list[list[int]] = []
        self.closed = False

    def load(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def encode(self, samples: Sequence[Samples]) -> list[int]:
        values = [round(float(window[0]) * 10) for window in samples]
        self.encoded.append(values)
        return values

    def detect(self, encoded: list[int]) -> list[tuple[str, float]]:
        return [("es", 0.75) for _ in encoded]

    def decode(
        self, encoded: list[int], rows: Sequence[int], parts: Sequence[Window], temperature: float
    ) -> list[Decoding]:
        values = [encoded[row] for row in rows]
        assert values == [round(float(window.samples[0]) * 10) for window in parts]
        self.decoded.append((values, temperature))
        return [self._say(value, temperature) for value in values]

    def _say(self, value: int, temperature: float) -> Decoding:
        fails = value in self.failing and temperature == 0
        silent = value in self.silent
        return Decoding(
            (FIRST + 25, value), f" {value}", -2.0 if fails or silent else -0.1, 0.9 if silent else 0.0, temperature
        )

    def align(
        self, encoded: list[int], rows: Sequence[int], parts: Sequence[Window], spans: Sequence[Sequence[Span]]
    ) -> list[list[list[Word]]]:
        self.aligned.append([encoded[row] for row in rows])
        return [
            [[Word(word=f" {encoded[row]}", start=0.6, end=0.9)] for _ in own]
            for row, own in zip(rows, spans, strict=True)
        ]


def recogniser(backend: Echo, **settings: Any) -> WhisperRecognizer[list[int]]:
    made = WhisperRecognizer(backend, WhisperSettings(**settings))
    made.load()
    return made


def window(value: int, seconds: float = 1.0, **options: Any) -> AsrInput:
    return AsrInput(np.full(round(seconds * 16_000), value / 10, np.float32), AsrOptions(**options))


def texts(results: Sequence[object]) -> list[str]:
    assert all(isinstance(result, AsrResult) for result in results)
    return [result.text for result in results if isinstance(result, AsrResult)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_the_order_of_the_windows(workers: int) -> None:
    backend = Echo(workers)
    results = recogniser(backend).run([window(value) for value in (1, 2, 3, 4, 5)])
    assert texts(results) == [" 1", " 2", " 3", " 4", " 5"]
    assert len(backend.encoded) == workers
    assert max(map(len, backend.encoded)) - min(map(len, backend.encoded)) <= 1


def test_refused_windows_fail_alone_and_silent_ones_are_not_decoded() -> None:
    backend = Echo(2)
    results = recogniser(backend).run(
        [window(1), window(2, language="xx"), window(3, 0.0), window(4, 31.0), window(0), window(5)]
    )
    assert isinstance(results[1], InvalidInput)
    assert isinstance(results[3], InvalidInput)
    assert texts([results[0], results[2], results[4], results[5]]) == [" 1", "", "", " 5"]
    assert sorted(backend.encoded) == [[1], [5]]


def test_a_batch_of_refusals_reaches_no_backend() -> None:
    backend = Echo()
    (result,) = recogniser(backend).run([window(1, sample_rate=8000)])
    assert isinstance(result, InvalidInput)
    assert backend.encoded == []


def test_only_the_failing_window_is_decoded_again() -> None:
    backend = Echo(failing=[2])
    results = recogniser(backend).run([window(1), window(2), window(3)])
    assert backend.decoded == [([1, 2, 3], 0.0), ([2], 0.2)]
    assert [segment.temperature for result in results for segment in result.segments] == [0.0, 0.2, 0.0]


class Looping(Echo):
    """Says its value and then, of 8, the same over and over, for which it has no audio."""

    def _say(self, value: int, temperature: float) -> Decoding:
        tokens = (FIRST, value, FIRST + 25, *[value] * (60 if value == 8 else 0))
        return Decoding(tokens, self.vocabulary.text(tokens), -0.1, 0.0, temperature)

    def align(
        self, encoded: list[int], rows: Sequence[int], parts: Sequence[Window], spans: Sequence[Sequence[Span]]
    ) -> list[list[list[Word]]]:
        super().align(encoded, rows, parts, spans)
        return [[[Word(word=" x", start=0.1 if n == 0 else 1.0, end=1.0)] for n in range(len(own))] for own in spans]


def test_a_repetition_that_no_audio_is_left_for_does_not_climb() -> None:
    backend = Looping()
    results = recogniser(backend).run([window(7, timestamps="word"), window(8, timestamps="word")])
    assert texts(results) == [" 7", " 8"]
    assert backend.decoded == [([7, 8], 0.0)]
    assert backend.aligned == [[8], [7, 8]]


def test_languages_are_detected_only_where_they_are_not_given() -> None:
    given, found = recogniser(Echo()).run([window(1, language="en"), window(2)])
    assert (given.language, given.language_probability) == ("en", None)
    assert (found.language, found.language_probability) == ("es", 0.75)


def test_a_forced_language_is_echoed() -> None:
    results = recogniser(Echo(), language_force="en").run([window(1, language="es"), window(2, 0.0)])
    assert [(result.language, result.language_probability) for result in results] == [("en", None), ("en", None)]


def test_a_forced_language_that_the_model_does_not_know_stops_the_start() -> None:
    with pytest.raises(ValueError, match=r"LANGUAGE_FORCE=ru .* knows: en, es"):
        recogniser(Echo(), language_force="ru")


def test_silence_has_a_language_but_no_text() -> None:
    backend = Echo(silent=[2])
    spoken, silent = recogniser(backend).run([window(1), window(2)])
    assert spoken.text == " 1"
    assert (silent.text, silent.segments, silent.language) == ("", [], "es")
    assert backend.aligned == [[1]]


def test_segment_times_come_from_words_which_are_told_when_asked_for() -> None:
    engine = recogniser(Echo())
    (plain,) = engine.run([window(7)])
    (worded,) = engine.run([window(7, timestamps="word")])
    assert [(segment.start, segment.end, segment.words) for segment in plain.segments] == [(0.6, 0.9, None)]
    assert worded.segments[0].words == [Word(word=" 7", start=0.6, end=0.9)]
    assert plain.text == worded.text == " 7"


def test_without_timestamps_the_window_is_one_segment() -> None:
    backend = Echo()
    (result,) = recogniser(backend).run([window(7, 2.0, timestamps="none")])
    assert (result.segments[0].end, backend.aligned) == (2.0, [])


def test_one_segment_a_window_ends_with_its_last_word_which_is_not_told() -> None:
    backend = Echo()
    (result,) = recogniser(backend, timestamps="none").run([window(7, 2.0, timestamps="word")])
    assert [(segment.start, segment.end, segment.words) for segment in result.segments] == [(0.6, 0.9, None)]
    assert (result.text, backend.aligned) == (" 7", [[7]])


def test_translations_keep_the_decoder_s_times() -> None:
    backend = Echo()
    (result,) = recogniser(backend).run([window(7, 2.0, task="translate")])
    assert (result.segments[0].start, result.segments[0].end, backend.aligned) == (0.5, 2.0, [])


def test_closing_frees_the_backend() -> None:
    backend = Echo()
    recogniser(backend).close()
    assert backend.closed
