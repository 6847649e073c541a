"""Words with times out of a matrix of weights: the warp against a plain one, words in spaced and unspaced languages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.whisper.alignment import split_words, timed_words, warp, without_pauses


def plain_warp(weights: np.ndarray) -> list[int]:
    """The same by the textbook, cell by cell."""
    rows, frames = weights.shape
    cost = np.full((rows + 1, frames + 1), np.inf)
    trace = np.full((rows + 1, frames + 1), -1)
    cost[0, 0] = 0
    for j in range(1, frames + 1):
        for i in range(1, rows + 1):
            both, row, frame = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
            step = 0 if both < row and both < frame else 1 if row < both and row < frame else 2
            cost[i, j] = (both, row, frame)[step] - weights[i - 1, j - 1]
            trace[i, j] = step
    begins, i, j = [0] * rows, rows, frames
    while i > 0 and j > 0:
        begins[i - 1] = j - 1
        i, j = i - (trace[i, j] in (0, 1)), j - (trace[i, j] in (0, 2))
    return begins


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_warp_is_the_plain_one(rows: int, frames: int, seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(rows, frames)).astype(np.float32)
    assert warp(weights).tolist() == plain_warp(weights)


def test_each_token_begins_where_it_looks() -> None:
    weights = np.full((3, 9), -1.0, np.float32)
    for row, frames in enumerate((slice(0, 4), slice(4, 6), slice(6, 9))):
        weights[row, frames] = 1.0
    assert warp(weights).tolist() == [0, 4, 6]


TEXTS = {
    1: " Hello",
    2: " wor",
    3: "ld",
    4: ".",
    5: " \u00bf",
    6: "Qu",
    7: "\u4f60",
    8: "\u597d",
    9: "\ufffd",
    10: "\ufffd",
}


def decode(tokens: list[int]) -> str:
    return "".join(TEXTS[token] for token in tokens).replace("\ufffd\ufffd", "\u3042")


def test_words_end_at_spaces() -> None:
    assert split_words([1, 2, 3, 4], decode, "en") == [(" Hello", (1,)), (" world.", (2, 3, 4))]


def test_characters_are_words_where_there_are_no_spaces() -> None:
    assert split_words([7, 8], decode, "zh") == [("\u4f60", (7,)), ("\u597d", (8,))]


def test_a_character_of_two_tokens_is_one() -> None:
    assert split_words([9, 10, 7], decode, "ja") == [("\u3042", (9, 10)), ("\u4f60", (7,))]


def test_a_stray_byte_does_not_hold_up_the_rest() -> None:
    assert split_words([1, 9, 1, 2, 3], decode, "en") == [
        (" Hello\ufffd", (1, 9)),
        (" Hello", (1,)),
        (" world", (2, 3)),
    ]


def test_nothing_is_lost_of_half_a_character() -> None:
    assert split_words([1, 9], decode, "en") == [(" Hello\ufffd", (1, 9))]


def test_times_and_probabilities() -> None:
    words = timed_words([(" a", (1,)), (" bc", (2, 3))], np.array([5, 10, 15, 30]), [0.0, np.log(0.5), np.log(0.5)])
    assert [(word.word, word.start, word.end) for word in words] == [(" a", 0.1, 0.2), (" bc", 0.2, pytest.approx(0.6))]
    assert [word.probability for word in words] == [1.0, pytest.approx(0.5)]


def test_marks_belong_to_their_words() -> None:
    words = timed_words([(" \u00bf", (1,)), ("Qu", (2,)), ("?", (3,))], np.array([0, 10, 20, 30]), [0.0] * 3)
    assert [word.word for word in words] == [" \u00bfQu?"]


def test_a_word_at_a_pause_does_not_last_for_it() -> None:
    pieces = [(f" {letter}", (index,)) for index, letter in enumerate("abcde")]
    words = timed_words(pieces, np.array([0, 500, 510, 520, 530, 540]), [0.0] * 5)
    (first,), (*_, last) = without_pauses([words[:1], words[1:]])
    assert (first.start, first.end) == (pytest.approx(9.6), 10.0)  # it ends where it ended
    assert last == words[-1]
