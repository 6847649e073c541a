"""Joins over forced cuts: no word is lost, none doubled, with and without times of words, in windows of the real splitter."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contracts.asr import AsrResult, Segment, Word
from tests.unit.audio.merging import LIMITS, RATE, forced_pair, merged, result
from tests.unit.audio.splitting import split
from transformers_pre.audio.split import Window

COMMON_WORDS = (
    "the a of and to in is you that it he was for on are as with his they I at be this have from or one had by word but not "
    "what all were we when your can said there use an each which she do how their if will up other about out many then them"
)
VOCABULARY = COMMON_WORDS.split()

Spoken = tuple[str, float, float]


def spoken(seed: int, seconds: float, vocabulary: Sequence[str]) -> list[Spoken]:
    """Words without a gap between them, 0.12-0.5 s each."""
    draw = random.Random(seed)
    words: list[Spoken] = []
    time = 0.0
    while time < seconds - 1:
        length = draw.uniform(0.12, 0.5)
        words.append((draw.choice(vocabulary), time, time + length))
        time += length
    return words


def recognised(each: Window, words: Sequence[Spoken], draw: random.Random, *, timed: bool, space: str) -> AsrResult:
    """What a recogniser makes of a window: its words, times a little off, what is cut at an edge wrong or left out."""
    first, last = each.context_start / RATE, each.context_end / RATE
    found: list[Word] = []
    for text, start, end in words:
        if end <= first or start >= last:
            continue
        whole = start >= first and end <= last
        if whole or draw.random() < 0.5:
            begins, ends = max(start, first) - first, min(end, last) - first
            shift = draw.uniform(-0.04, 0.04)
            heard = text if whole else "Ξ"
            found.append(Word(word=f"{space}{heard}", start=max(0, begins + shift), end=max(0, ends + shift)))
    segments: list[Segment] = []
    while found:
        count = draw.randint(1, 25)
        part, found = found[:count], found[count:]
        text = "".join(word.word for word in part)
        words_of_it = part if timed else None
        segments.append(Segment(start=part[0].start, end=part[-1].end, text=text, words=words_of_it, tokens=[1, 2]))
    return AsrResult(text="".join(segment.text for segment in segments), language="en", segments=segments)


def unbroken(seconds: float) -> list[Window]:
    """The windows of speech without any pause: every cut is forced."""
    samples = np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32)
    windows = split(samples, np.ones(-(-len(samples) // LIMITS.chunk_samples), np.float32), LIMITS)
    assert all(left.forced_end for left in windows[:-1])
    return windows


@pytest.mark.parametrize("timed", [True, False], ids=["word times", "segment times"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_forced_joins_lose_and_double_no_word(timed: bool, seed: int) -> None:
    windows = unbroken(120)
    assert len(windows) > 4
    words = spoken(seed, 120, VOCABULARY)
    draw = random.Random(seed)
    pieces = [(each, recognised(each, words, draw, timed=timed, space=" ")) for each in windows]
    transcript = merged(pieces)
    assert transcript.text.split() == [word for word, _, _ in words]
    if timed:
        shown = [word for segment in transcript.segments for word in segment.words or []]
        assert [word.word.strip() for word in shown] == [word for word, _, _ in words]
        assert max(abs(word.start - start) for word, (_, start, _) in zip(shown, words, strict=True)) < 0.1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_forced_joins_of_text_without_spaces(seed: int) -> None:
    words = spoken(seed, 90, [chr(0x4E00 + code) for code in range(300)])
    draw = random.Random(seed)
    pieces = [(each, recognised(each, words, draw, timed=False, space="")) for each in unbroken(90)]
    assert merged(pieces).text == "".join(word for word, _, _ in words)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_word_times_tell_repeated_words_apart(seed: int) -> None:
    words = spoken(seed, 90, ["no", "yes"])
    draw = random.Random(seed)
    pieces = [(each, recognised(each, words, draw, timed=True, space=" ")) for each in unbroken(90)]
    assert merged(pieces).text.split() == [word for word, _, _ in words]


def test_readings_that_agree_on_nothing_are_joined_by_the_middles_of_words() -> None:
    left, right = forced_pair()
    heard = [Word(word=f" l{n}", start=18.5 + n, end=19.5 + n) for n in range(3)]  # middles 19, 20, 21
    other = [Word(word=f" r{n}", start=0.1 + n, end=1.1 + n) for n in range(4)]  # middles 19.1, 20.1, 21.1, 22.1
    pieces = [
        (left, AsrResult(text=" l0 l1 l2", segments=[Segment(start=18.5, end=21.5, text=" l0 l1 l2", words=heard)])),
        (right, AsrResult(text=" r0 r1 r2 r3", segments=[Segment(start=0, end=4.1, text=" r0 r1 r2 r3", words=other)])),
    ]
    transcript = merged(pieces)
    assert transcript.text == "l0 r1 r2 r3"
    assert [(segment.start, segment.end) for segment in transcript.segments] == [(18.5, 19.5), (19.6, 22.6)]


def test_what_one_side_alone_heard_is_kept() -> None:
    left, right = forced_pair()
    early = (left, result((10, 12, " before")))
    late = (right, result((0.2, 3, " around the cut and on")))
    assert merged([early, late]).text == "before around the cut and on"
    nothing = (right, result())
    assert merged([(left, result((18, 21.4, " around the cut"))), nothing]).text == "around the cut"
    assert merged([(left, result((18, 21.4, " around the cut"))), (right, None)]).text == "around the cut"
    assert merged([(left, result((18, 21.4, " around the cut")))], 40.0).text == "around the cut"
    assert merged([(left, None), late]).text == "around the cut and on"


def test_punctuation_and_case_do_not_hide_equal_words() -> None:
    left, right = forced_pair()
    first = (left, result((15, 21.5, " and then she said Hello, my friend, how")))
    second = (right, result((0, 4, " Said hello my friend. How are you")))
    assert merged([first, second]).text.lower().replace(",", "").replace(".", "") == (
        "and then she said hello my friend how are you"
    )


def test_trimmed_segments_have_no_tokens_and_whole_ones_keep_theirs() -> None:
    windows = unbroken(60)
    words = spoken(1, 60, VOCABULARY)
    draw = random.Random(1)
    pieces = [(each, recognised(each, words, draw, timed=True, space=" ")) for each in windows]
    given_texts = {segment.text.strip() for _, found in pieces for segment in found.segments}
    for segment in merged(pieces).segments:
        assert segment.tokens == ([1, 2] if segment.text.strip() in given_texts else [])
