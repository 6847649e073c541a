"""Joins two transcripts of one stretch of speech: what two windows say around a forced cut, no word lost, none twice.

It works on contract segments whose times are seconds from the recording's start; windows, ids and transcripts are `merge`'s.

Both windows hold the words around the cut, because both were decoded with context over it. The words that they agree on
are found as a run of equal words at about the same times; the cut lies in that run, so the left side is good up to it and
the right side from it on. Where they agree on nothing, a word belongs to the side whose core holds its middle.
"""

import bisect
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.contracts.asr import Segment, Word

Spans = Sequence[tuple[float, float]]

SLACK_SECONDS = 1.0
"""How far a recogniser's times may be off: what lies this near to the overlap may belong to it."""

_WORD_TOLERANCE = 0.5  # seconds between the middles of one word, timed by both sides
_SPREAD_TOLERANCE = 2.0  # the same where a side has no word times and they were spread over the segment

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, the CJK punctuation, kana and ideographs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_CLOSING = ",.;:!?%)]}\u2026\u00bb\u201d\u2019"  # and the ellipsis and closing quotes
_OPENING = "([{\u00ab\u201c\u2018\u00bf\u00a1"  # and the opening quotes, the inverted ? and !


@dataclass(frozen=True)
class _Unit:
    """A word, or a character where words are not spaced: its slice of the text, leading white space and all."""

    text: str
    start: float
    end: float
    word: Word | None = None

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    @property
    def key(self) -> str:
        """What is compared."""
        return _key(self.text)


def needs_space(before: str, after: str) -> bool:
    """Whether `before` and `after`, texts of two windows, want a space between them."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return False
    if before[-1] in _OPENING or after[0] in _CLOSING:
        return False
    return not (_UNSPACED_CHARACTER.match(before[-1]) or _UNSPACED_CHARACTER.match(after[0]))


def join(
    left: Sequence[Segment],
    right: Sequence[Segment],
    cut: float,
    context: float,
    voiced: tuple[Spans, Spans],
) -> tuple[list[Segment], list[Segment]]:
    """What of both sides of a forced cut makes one transcript.

    Args:
        left: segments of the window before the cut, at least those that reach within `context` + `SLACK_SECONDS` of it.
        right: segments of the window after the cut.
        cut: where it lies, in seconds.
        context: by how much both windows reach over it, in seconds.
        voiced: where speech is in either window, in seconds; words without times are spread over it.

    Returns:
        The segments to keep of either side. Trimmed ones have no tokens, because tokens cannot be assigned to words.
    """
    left_units = [_units(segment, voiced[0]) for segment in left]
    right_units = [_units(segment, voiced[1]) for segment in right]
    before, after = _flat(left_units), _flat(right_units)
    timed = all(unit.word is not None for unit in before + after)
    reach = context + SLACK_SECONDS
    # The parts that may overlap: [first, …) of the left side, […, last) of the right one.
    first = next((index for index, unit in enumerate(before) if unit.end > cut - reach), len(before))
    last = next((index for index, unit in enumerate(after) if unit.start > cut + reach), len(after))
    tolerance = _WORD_TOLERANCE if timed else _SPREAD_TOLERANCE
    run = _best_run(before[first:], after[:last], tolerance)
    if run is None:
        kept, dropped = _by_middle(before, after, cut)
    else:
        left_start, right_start, length = run
        middles = [unit.middle for unit in before[first + left_start : first + left_start + length]]
        taken = bisect.bisect_left(middles, cut)
        kept, dropped = first + left_start + taken, right_start + taken
    return _slice(left, left_units, 0, kept), _slice(right, right_units, dropped, len(after))


def without_repeated_start(left: Sequence[Segment], right: Sequence[Segment]) -> list[Segment]:
    """`right` without the two or more words that `left` ends and `right` begins with.

    For a stretch that was decoded again because the times of `left` ended early, when its text did not. Words whose times lie
    further apart than times may be off were said twice; of a side without times of words they are spread over its segments,
    and rather told twice than lost.
    """
    right_units = [_units(segment, ()) for segment in right]
    tail, head = [unit for segment in left for unit in _units(segment, ())], _flat(right_units)
    lengths = range(min(len(tail), len(head)), 1, -1)
    repeated = next((length for length in lengths if _is_repeated(tail[-length:], head[:length])), 0)
    return _slice(right, right_units, repeated, len(head))


def _is_repeated(first: Sequence[_Unit], second: Sequence[_Unit]) -> bool:
    return all(
        one.key == other.key
        and abs(one.middle - other.middle) <= (SLACK_SECONDS if one.word and other.word else _SPREAD_TOLERANCE)
        for one, other in zip(first, second, strict=True)
    )


def _units(segment: Segment, voiced: Spans) -> list[_Unit]:
    """The segment's text in units, in order; joined they are the text (but for white space at its end)."""
    if segment.words:
        return _timed_units(segment.text, segment.words)
    slices: list[str] = []
    for match in _UNIT.finditer(segment.text):
        key = _key(match[0])
        if slices and (not key or unicodedata.category(key[0])[0] == "M"):  # punctuation or a mark of what is before it
            slices[-1] += match[0]
        else:
            slices.append(match[0])
    return _spread(slices, segment.start, segment.end, voiced)


def _timed_units(text: str, words: Sequence[Word]) -> list[_Unit]:
    starts: list[int] = []
    position = 0
    for word in words:
        found = text.find(word.word.strip(), position)
        if found < 0:
            # The words are not spelled as in the text: they make the text.
            return [_Unit(f" {word.word.strip()}", word.start, word.end, word) for word in words]
        starts.append(position)
        position = found + len(word.word.strip())
    ends = [*starts[1:], len(text)]
    return [_Unit(text[a:b], word.start, word.end, word) for a, b, word in zip(starts, ends, words, strict=True)]


def _spread(texts: Sequence[str], start: float, end: float, voiced: Spans) -> list[_Unit]:
    """Units with times in proportion to their lengths, over what is voiced of [start, end]."""
    spans = [(max(a, start), min(b, end)) for a, b in voiced if a < end and b > start] or [(start, end)]
    elapsed = np.cumsum([0.0] + [b - a for a, b in spans])
    known = np.repeat(elapsed, 2)[1:-1]
    lengths = np.cumsum([0] + [len(text) for text in texts])
    share = elapsed[-1] * lengths / max(1, lengths[-1])
    times = np.interp(share, known, [time for span in spans for time in span]).tolist()
    return [_Unit(text, a, b) for text, a, b in zip(texts, times, times[1:], strict=False)]


def _key(text: str) -> str:
    """Letters, digits and marks, whatever their case; "" for punctuation, which equals nothing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LNM")


def _flat(units: Sequence[Sequence[_Unit]]) -> list[_Unit]:
    return [unit for part in units for unit in part]


def _best_run(left: Sequence[_Unit], right: Sequence[_Unit], tolerance: float) -> tuple[int, int, int] | None:
    """Where the best run of equal units at about equal times starts in either, and its length; None without any.

    A unit adds to its run what the two times leave of `tolerance`: long runs win, and of repeated words those in place.
    """
    best, found = 0.0, None
    keys = [unit.key for unit in right]
    above = [(0, 0.0)] * (len(right) + 1)  # of the run that ends here: its length and its worth
    for i, unit in enumerate(left):
        row = [(0, 0.0)]
        key = unit.key
        for j, other in enumerate(right):
            agreement = tolerance - abs(unit.middle - other.middle)
            if key and key == keys[j] and agreement >= 0:
                length, worth = above[j][0] + 1, above[j][1] + agreement
                if found is None or worth > best:
                    best, found = worth, (i + 1 - length, j + 1 - length, length)
                row.append((length, worth))
            else:
                row.append((0, 0.0))
        above = row
    return found


def _by_middle(before: Sequence[_Unit], after: Sequence[_Unit], cut: float) -> tuple[int, int]:
    """How many units of the left side are kept and how many of the right side dropped, by their middles.

    What only one side heard is kept beyond the cut as well, as far as the other side says nothing at that time.
    """
    right_begins = after[0].start if after else float("inf")
    left_ends = before[-1].end if before else float("-inf")
    kept = sum(unit.middle < cut or unit.end <= right_begins for unit in before)
    dropped = sum(unit.middle < cut and unit.start < left_ends for unit in after)
    return kept, dropped


def _slice(segments: Sequence[Segment], units: Sequence[Sequence[_Unit]], first: int, last: int) -> list[Segment]:
    """The segments' units [first, last), counted over all of them; segments without any are left out."""
    kept: list[Segment] = []
    position = 0
    for segment, own in zip(segments, units, strict=True):
        a, b = max(0, first - position), min(len(own), last - position)
        position += len(own)
        if a >= b:
            continue
        kept.append(segment if (a, b) == (0, len(own)) else _trimmed(segment, own[a:b], a == 0, b == len(own)))
    return kept


def _trimmed(segment: Segment, units: Sequence[_Unit], keeps_start: bool, keeps_end: bool) -> Segment:
    words = [unit.word for unit in units if unit.word is not None]
    changes = {
        "start": segment.start if keeps_start else units[0].start,
        "end": segment.end if keeps_end else units[-1].end,
        "text": "".join(unit.text for unit in units),
        "tokens": [],
        "words": words or None,
    }
    return segment.model_copy(update=changes)
