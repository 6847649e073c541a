"""Decoder tokens to segments: every text token is kept, in time order, whatever the timestamps do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.whisper.fallback import Decoding
from predictors.whisper.segments import Span, Vocabulary, segments, shortened, split, with_words, without_tail
from serving.contracts.asr import Word

END, SPECIAL, FIRST = 1000, 1010, 1100
"""Text below 1000, control tokens from 1000, timestamps from 1100."""


def decode(tokens: list[int]) -> str:
    return "".join(f" w{token}" for token in tokens)


VOCABULARY = Vocabulary(END, FIRST, decode)


def at(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


def spans(*tokens: int, duration: float = 30.0) -> list[tuple[float, float, str]]:
    found = split(tokens, VOCABULARY, duration)
    return [(round(span.start, 3), round(span.end, 3), VOCABULARY.text(span.tokens)) for span in found]


def test_paired_timestamps_make_segments() -> None:
    assert spans(at(0), 1, 2, at(2), at(2.5), 3, at(4)) == [(0, 2, " w1 w2"), (2.5, 4, " w3")]


def test_text_after_the_last_timestamp_ends_with_the_window() -> None:
    assert spans(at(0), 1, at(2), at(2), 2, 3, duration=7.5) == [(0, 2, " w1"), (2, 7.5, " w2 w3")]


def test_text_before_the_first_timestamp_begins_with_the_window() -> None:
    assert spans(1, 2, at(3), 4, at(5)) == [(0, 3, " w1 w2"), (3, 5, " w4")]


def test_without_timestamps_the_window_is_one_segment() -> None:
    assert spans(1, 2, 3, duration=12.34) == [(0, 12.34, " w1 w2 w3")]


def test_a_lone_timestamp_ends_one_segment_and_begins_the_next() -> None:
    assert spans(at(0), 1, at(2), 2, at(3), 3, at(5)) == [(0, 2, " w1"), (2, 3, " w2"), (3, 5, " w3")]


def test_of_several_opening_timestamps_the_last_counts() -> None:
    assert spans(at(0), at(1), at(2), 1, at(3)) == [(2, 3, " w1")]


def test_a_timestamp_that_goes_backwards_does_not_take_time_back() -> None:
    assert spans(at(4), 1, at(2), at(1), 2, at(6)) == [(4, 4, " w1"), (4, 6, " w2")]


def test_times_beyond_the_window_end_with_it() -> None:
    assert spans(at(0), 1, at(6), at(6), 2, at(9), duration=5.3) == [(0, 5.3, " w1"), (5.3, 5.3, " w2")]


def test_control_tokens_make_no_text_and_no_segment() -> None:
    assert spans(SPECIAL, at(0), SPECIAL, at(2), 1, SPECIAL, at(3), SPECIAL) == [(2, 3, " w1")]


@pytest.mark.parametrize("tokens", [(), (at(0),), (at(0), at(30)), (SPECIAL,), (at(1), SPECIAL, at(2))])
def test_no_text_no_segments(tokens: tuple[int, ...]) -> None:
    assert spans(*tokens) == []


@pytest.mark.parametrize("text", ["  ", " ...", " ... -", "。"])
def test_a_segment_without_a_letter_or_digit_is_left_out(text: str) -> None:
    wordless = Vocabulary(END, FIRST, lambda tokens: text)
    assert split((at(0), 1, at(2)), wordless, 30) == []


@pytest.mark.parametrize("text", [" a", " 5", "行", "हाँ"])
def test_a_letter_or_digit_of_any_script_is_text(text: str) -> None:
    wordy = Vocabulary(END, FIRST, lambda tokens: text)
    assert len(split((at(0), 1, at(2)), wordy, 30)) == 1


def test_segments_carry_their_own_tokens_with_the_timestamps() -> None:
    found = split((at(0), 1, at(2), at(3), 2, at(4)), VOCABULARY, 30)
    assert [span.tokens for span in found] == [(at(0), 1, at(2)), (at(3), 2, at(4))]


@given(
    st.lists(st.one_of(st.integers(0, 50), st.integers(SPECIAL, SPECIAL + 5), st.integers(FIRST, FIRST + 1600))),
    st.floats(0.01, 30),
)
def test_any_tokens_keep_their_text_and_rising_times(tokens: list[int], duration: float) -> None:
    found = split(tokens, VOCABULARY, duration)
    assert "".join(VOCABULARY.text(span.tokens) for span in found) == decode([token for token in tokens if token < END])
    times = [time for span in found for time in (span.start, span.end)]
    assert times == sorted(times)
    assert all(0 <= time <= duration for time in times)


def word(text: str, start: float, end: float) -> Word:
    return Word(word=text, start=start, end=end, probability=0.5)


def test_words_give_a_span_its_times() -> None:
    (span,) = with_words([Span(0, 2, (1, 2))], [[word(" a", 0.4, 0.7), word(" b", 0.8, 1.1)]], 5)
    assert (span.start, span.end) == (0.4, 1.1)
    assert span.words is not None
    assert [w.word for w in span.words] == [" a", " b"]


def test_words_neither_overlap_nor_leave_the_window() -> None:
    first = [word(" a", -0.2, 1.0), word(" b", 0.5, 3.0)]
    second = [word(" c", 2.5, 2.8), word(" d", 4.0, 9.0)]
    one, two = with_words([Span(0, 3, (1,)), Span(3, 5, (2,))], [first, second], 5.0)
    assert [(w.start, w.end) for w in (*(one.words or ()), *(two.words or ()))] == [
        (0.0, 1.0), (1.0, 3.0), (3.0, 3.0), (4.0, 5.0),
    ]  # fmt: skip


def test_a_span_without_words_keeps_its_times_between_its_neighbours() -> None:
    found = with_words([Span(0, 2, (1,)), Span(1, 3, (2,))], [[word(" a", 0.5, 2.2)], []], 5)
    assert [(span.start, span.end, span.words) for span in found][1] == (2.2, 3, ())


def test_what_no_audio_is_left_for_was_not_said() -> None:
    decoding = Decoding((at(0), 1, at(2), 2, 1, 2, at(3)), " w1 w2 w1 w2", -0.5, 0.0, 0.0, (-1.0,) * 3 + (0.0,) * 4)
    spans = split(decoding.tokens, VOCABULARY, 30)
    said = with_words(
        spans, [[word(" w1", 28, 29.98)], [word(text, 29.98, 29.98) for text in (" w2", " w1", " w2")]], 30
    )
    kept = without_tail(said)
    assert [(span.start, span.end) for span in kept] == [(28, 29.98)]
    left = shortened(decoding, kept, VOCABULARY)
    assert (left.tokens, left.text, left.avg_logprob) == ((at(0), 1, at(2)), " w1", -1.0)
    assert left.compression_ratio < decoding.compression_ratio
    assert shortened(decoding, said, VOCABULARY) is decoding
    assert without_tail(said[1:]) == said[1:]  # something was said
    untimed = with_words(spans, [[], []], 30)
    assert without_tail(untimed) == untimed


def test_segments_have_text_and_the_statistics_of_the_decoding() -> None:
    decoding = Decoding((at(0), 1, at(2)), " w1", -0.25, 0.125, 0.4)
    (segment,) = segments([Span(0, 2, (at(0), 1, at(2)))], decoding, VOCABULARY, words=False)
    assert segment.text == " w1"
    assert segment.tokens == [at(0), 1, at(2)]
    assert (segment.avg_logprob, segment.no_speech_prob, segment.temperature) == (-0.25, 0.125, 0.4)
    assert segment.compression_ratio == decoding.compression_ratio
    assert segment.words is None


def test_words_are_told_only_when_asked_for() -> None:
    span = with_words([Span(0, 2, (1,))], [[word(" a", 0, 1)]], 5)
    decoding = Decoding((1,), " w1", -0.1, 0.0, 0.0)
    assert segments(span, decoding, VOCABULARY, words=False)[0].words is None
    told = segments(span, decoding, VOCABULARY, words=True)[0].words
    assert told is not None
    assert [w.word for w in told] == [" a"]
