"""Words from tokens and their starts."""

# ruff: noqa: RUF001  # Russian is written in Cyrillic
import math

import pytest

from predictors.kaldi_asr.words import from_tokens


def spans(*args: object, **kwargs: object) -> list[tuple[str, float, float]]:
    return [(word.word, word.start, word.end) for word in from_tokens(*args, **kwargs)]  # type: ignore[arg-type]


def test_a_leading_space_begins_a_word_and_may_be_a_token_of_its_own() -> None:
    letters = spans(["д", "а", " ", "н", "е", "т"], [0.1, 0.2, 0.3, 0.5, 0.6, 0.7], 1.0)
    pieces = spans([" да", " не", "т"], [0.1, 0.5, 0.7], 1.0)
    assert letters == [(" да", 0.1, 0.32), (" нет", 0.5, 0.82)]
    assert pieces == [(" да", 0.1, 0.22), (" нет", 0.5, 0.82)]


def test_a_word_ends_before_the_next_begins_and_inside_the_window() -> None:
    assert spans([" a", " b"], [0.1, 0.15], 0.2) == [(" a", 0.1, 0.15), (" b", 0.15, 0.2)]
    assert spans([" a"], [0.5], 0.4) == [(" a", 0.4, 0.4)]


def test_durations_and_probabilities_are_used_where_there_are_any() -> None:
    (word,) = from_tokens([" a", "b"], [0.1, 0.3], 2.0, [0.2, 0.5], [math.log(0.5), math.log(0.5)])
    assert (word.end, word.probability) == (0.8, pytest.approx(0.5))
    assert from_tokens([" a"], [0.1], 1.0)[0].probability is None


def test_no_tokens_are_no_words() -> None:
    assert from_tokens([], [], 1.0) == []
    assert from_tokens([" ", " "], [0.0, 0.1], 1.0) == []
