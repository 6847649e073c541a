"""The merge: what holds for any results, texts and times, silence, second readings, channels. Forced cuts: test_overlap."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contracts.asr import AsrResult, Segment, Word
from tests.unit.audio.merging import LIMITS, RATE, check, forced_pair, merged, result, timed, window
from tests.unit.audio.splitting import split
from transformers_pre.audio import merge
from transformers_pre.audio.merge import Transcript, TranscriptBuilder, TranscriptSegment

# What holds for any results


@st.composite
def any_results(draw: st.DrawFn) -> AsrResult | None:
    """Results as bad recognisers give them: times out of order and out of range, empty texts, odd white space."""
    if draw(st.integers(0, 5)) == 0:
        return None
    times = st.floats(-5, 40)
    texts = st.text(alphabet="ab .\n\u4f60\u0e01\u0301", max_size=8)
    words = st.none() | st.lists(st.builds(Word, word=texts, start=times, end=times), max_size=4)
    segments = draw(st.lists(st.builds(Segment, start=times, end=times, text=texts, words=words), max_size=6))
    return AsrResult(text="".join(segment.text for segment in segments), segments=segments)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 120))
def test_any_results_make_a_sound_transcript(data: st.DataObject, seed: int, voiced: float, seconds: float) -> None:
    samples = np.ones(int(seconds * RATE), np.float32)
    found = np.random.default_rng(seed).random(-(-len(samples) // LIMITS.chunk_samples)).astype(np.float32)
    windows = split(samples, np.where(found < voiced, 0.9, found).astype(np.float32), LIMITS)
    pieces = [(each, data.draw(any_results())) for each in windows]
    merged([piece for piece in pieces if piece[1] is not None or data.draw(st.booleans())], len(samples) / RATE)


def test_the_end_is_held_back_until_the_other_side_is_there() -> None:
    left, right = forced_pair()
    builder = TranscriptBuilder("transcribe", LIMITS)
    now = builder.add(left, result((1, 5, " One."), (5, 9, " Two."), (17, 21, " three four")))
    assert [segment.text for segment in now] == ["One.", " Two."]
    later = builder.add(right, result((0, 2.5, " three four"), (3, 5, " five.")))
    assert "".join(segment.text for segment in later) == " three four five."


# Texts and times


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (" Hello.", " World.", "Hello. World."),
        ("Hello.", "World.", "Hello. World."),
        ("Hello. ", "World. ", "Hello. World."),
        ("Hello", ", world", "Hello, world"),
        ("你好。", "世界。", "你好。世界。"),
        ("こんにちは", "世界", "こんにちは世界"),
        ("สวัสดี", "ครับ", "สวัสดีครับ"),
        ("안녕", "하세요", "안녕 하세요"),
        ("Привет", "мир", "Привет мир"),
        ("नमस्ते", "दुनिया", "नमस्ते दुनिया"),
    ],
)
def test_a_space_is_put_between_windows_where_the_script_has_one(first: str, second: str, joined: str) -> None:
    pieces = [(window(0, 20), result((0, 5, first))), (window(20, 40), result((0, 5, second)))]
    assert merged(pieces).text == joined


def test_segments_of_one_window_are_joined_as_they_are() -> None:
    assert (
        merged([(window(0, 30), result((0, 2, " New"), (2, 3, "-York"), (3, 4, " is big")))]).text == "New-York is big"
    )


def test_times_are_the_recordings_and_seek_is_the_windows() -> None:
    pieces = [
        (window(0, 25.5), result((0, 4.123456, " One."), (4.5, 30.0, " Two."))),
        (window(25.5, 40), result((0.25, 3, " Three."))),
    ]
    transcript = merged(pieces)
    assert [(segment.start, segment.end) for segment in transcript.segments] == [
        (0.0, 4.123),
        (4.5, 25.5),
        (25.75, 28.5),
    ]
    assert [segment.seek for segment in transcript.segments] == [0, 0, 2550]


def test_statistics_and_words_are_passed_on() -> None:
    word = Word(word=" Hi", start=1.0, end=1.5, probability=0.75)
    segment = Segment(
        start=1.0,
        end=2.0,
        text=" Hi",
        tokens=[5, 6],
        temperature=0.2,
        avg_logprob=-0.3,
        compression_ratio=1.1,
        no_speech_prob=0.05,
        words=[word],
    )
    found = AsrResult(text=" Hi", language="de", language_probability=0.9, segments=[segment])
    transcript = merged([(window(10, 20), found)])
    assert transcript.segments == [
        TranscriptSegment(
            id=0,
            seek=1000,
            start=11.0,
            end=12.0,
            text="Hi",
            tokens=[5, 6],
            temperature=0.2,
            avg_logprob=-0.3,
            compression_ratio=1.1,
            no_speech_prob=0.05,
            words=[Word(word=" Hi", start=11.0, end=11.5, probability=0.75)],
        )
    ]
    assert transcript.language == "de"


def test_the_language_is_that_of_the_first_window_with_text() -> None:
    pieces = [
        (window(0, 10), None),
        (window(10, 20), result(language="cy")),
        (window(20, 30), result((0, 1, " Ja."), language="de")),
        (window(30, 40), result((0, 1, " Yes."), language="en")),
    ]
    assert merged(pieces).language == "de"
    assert merged(pieces[:2]).language == "cy"
    assert merged(pieces[:1]).language is None


def test_text_in_silence_is_dropped() -> None:
    speech = [(2.0, 6.0)]
    heard = timed((2, 5.5, " Real."), (5.8, 6.4, " Near."), (12, 15, " Thank you."), (28, 30, " Bye."))
    assert merged([(window(0, 30, speech), heard)]).text == "Real. Near."
    unknown = merged([(window(0, 30, []), heard)])
    assert unknown.text == "Real. Near. Thank you. Bye."


def test_text_is_not_dropped_by_times_that_no_word_confirms() -> None:
    heard = result((0, 1, " Hello."), (12, 15, " Real."))
    assert merged([(window(0, 30, [(12, 15)]), heard)]).text == "Hello. Real."


def test_a_drop_leaves_a_space() -> None:
    heard = timed((2, 5, "One "), (12, 15, "Thank you."), (20, 22, "two"))
    assert merged([(window(0, 30, [(2, 5), (20, 22)]), heard)]).text == "One two"


def test_no_windows_make_an_empty_transcript() -> None:
    assert merged([]) == Transcript(text="", duration=0.0, segments=[])


# Speech that a result leaves out


@pytest.mark.parametrize(
    ("ends", "speech", "stretch"),
    [
        (22.0, [(1, 30)], (22.0, 30.0)),
        (29.0, [(1, 30)], None),
        (22.0, [(1, 22.4)], None),
        (22.0, [(1, 22.2), (25, 29)], (25.0, 30.0)),
        (22.0, [(1, 22.2), (24, 24.9), (26, 26.9)], None),  # 0.3 s of speech each, the rest is padding
        (30.0, [(1, 30)], None),
    ],
)
def test_speech_after_the_last_segment_is_uncovered(
    ends: float, speech: list[tuple[float, float]], stretch: tuple[float, float] | None
) -> None:
    shifted = window(100, 130, [(100 + a, 100 + b) for a, b in speech])
    expected = stretch and (int((100 + stretch[0]) * RATE), int((100 + stretch[1]) * RATE))
    assert merge.uncovered(shifted, result((1, 5, " One."), (5, ends, " Two.")), LIMITS) == expected


def test_an_empty_result_is_tried_again_only_on_less_audio() -> None:
    assert merge.uncovered(window(0, 30, [(12, 20)]), result(), LIMITS) == (12_000, 30_000)
    assert merge.uncovered(window(0, 30), result(), LIMITS) is None


def test_a_stretch_before_a_forced_cut_has_its_context() -> None:
    left, _ = forced_pair()
    assert merge.uncovered(left, result((0, 15, " One.")), LIMITS) == (15_000, 21_500)


def test_a_second_reading_follows_the_first() -> None:
    extra = AsrResult(
        text=" Three four.",
        segments=[Segment(start=0.5, end=2, text=" Three four.", words=[Word(word=" Three", start=0.5, end=1)])],
    )
    joined = merge.with_redecoded(result((0, 20, " One two.")), 20.0, extra)
    assert joined.text == " One two. Three four."
    assert [(segment.start, segment.end) for segment in joined.segments] == [(0, 20), (20.5, 22)]
    assert joined.segments[1].words == [Word(word=" Three", start=20.5, end=21)]
    assert joined.language == "en"


def test_a_second_reading_does_not_repeat_the_first() -> None:
    first = result((17, 20, " It was what can I say"))
    again = result((0, 4, " Can I say? That is all."))
    assert merge.with_redecoded(first, 20.0, again).text == " It was what can I say That is all."
    assert merge.with_redecoded(first, 20.0, result((0, 4, " Say what?"))).text == " It was what can I say Say what?"
    assert merge.with_redecoded(first, 20.0, result((0, 1, "can I say."))).text == first.text
    assert merge.with_redecoded(result((0, 1, "Yes")), 1.0, result((0, 1, "No"))).text == "Yes No"


def test_what_is_said_twice_is_no_repetition() -> None:
    def saying(start: float) -> AsrResult:
        found = [Word(word=text, start=start + n, end=start + n + 0.9) for n, text in enumerate((" All", " right"))]
        return AsrResult(
            text=" All right", segments=[Segment(start=start, end=start + 1.9, text=" All right", words=found)]
        )

    again = merge.with_redecoded(saying(0), 2.0, saying(0.1))
    assert again.text == " All right All right"
    assert [segment.start for segment in again.segments] == [0, 2.1]
    assert merge.with_redecoded(saying(0), 0.5, saying(0)).text == " All right"  # the times of one, a little off


def test_what_is_said_twice_is_no_repetition_without_times_of_words_either() -> None:
    first, again = result((8, 10, " All is well. All right")), result((0, 1, " All right"))
    assert merge.with_redecoded(first, 14.0, again).text == " All is well. All right All right"
    assert merge.with_redecoded(first, 10.0, again).text == first.text
    sentence = " The quick brown fox jumps over the lazy dog."  # said in three seconds, and once more
    both = merge.with_redecoded(result((7, 10, sentence)), 10.5, result((0, 3, sentence)))
    assert both.text == sentence * 2


def test_a_second_reading_reaches_the_transcript() -> None:
    each = window(0, 30)
    first = result((0, 20, " One two."))
    stretch = merge.uncovered(each, first, LIMITS)
    assert stretch == (20_000, 30_000)
    joined = merge.with_redecoded(first, stretch[0] / RATE, result((0, 9, " Three.")))
    transcript = merged([(each, joined)])
    assert transcript.text == "One two. Three."
    assert transcript.segments[-1].end == 29.0


# Channels


def test_channels_are_interleaved_by_time() -> None:
    def channel(*segments: tuple[float, float, str], language: str | None) -> Transcript:
        return merged([(window(0, 30), result(*segments, language=language))], 30.0)

    one = channel((0, 2, " Hello?"), (5, 7, " Fine."), language=None)
    two = channel((2.5, 4, "How are you?"), language="en")
    both = merge.interleave([one, two])
    assert [segment.text for segment in both.segments] == ["Hello?", " How are you?", " Fine."]
    assert (both.language, both.duration) == ("en", 30.0)
    check(both)
    starts = [segment.start for segment in both.segments]
    assert all(a <= b for a, b in itertools.pairwise(starts))
