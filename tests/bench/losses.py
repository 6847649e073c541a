"""Words lost and added near cuts: what was said, with times, against the text that was made of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from tests.bench.speech import RATE

NEAR = 1.0  # seconds


@dataclass(frozen=True)
class Spoken:
    """One word and the middle of its time, in seconds."""

    text: str
    at: float


def placed(said: Sequence[str], heard: Sequence[Spoken]) -> list[Spoken]:
    """The words that were said, at the times of those that were heard for them; others between their neighbours."""
    (aligned,) = jiwer.process_words(" ".join(said), " ".join(word.text for word in heard)).alignments
    known = {
        chunk.ref_start_idx + index: heard[chunk.hyp_start_idx + index].at
        for chunk in aligned
        if chunk.type in ("equal", "substitute")
        for index in range(chunk.ref_end_idx - chunk.ref_start_idx)
    }
    times = np.interp(range(len(said)), list(known), list(known.values())).tolist()
    return [Spoken(word, at) for word, at in zip(said, times, strict=True)]


def count(said: Sequence[Spoken], heard: Iterable[str], cuts: Sequence[int]) -> tuple[int, int]:
    """Words lost and words added within a second of a cut, whose places are in samples.

    What was added lies between the words that were said before and after it.
    """
    (aligned,) = jiwer.process_words(" ".join(word.text for word in said), " ".join(heard)).alignments
    lost = added = 0
    for chunk in aligned:
        first, last = chunk.ref_start_idx, chunk.ref_end_idx
        if chunk.type == "delete":
            lost += sum(_near([word], cuts) for word in said[first:last])
        if chunk.type == "insert" and _near(said[max(0, first - 1) : first + 1], cuts):
            added += chunk.hyp_end_idx - chunk.hyp_start_idx
    return lost, added


def _near(words: Sequence[Spoken], cuts: Sequence[int]) -> bool:
    return any(abs(word.at - cut / RATE) <= NEAR for word in words for cut in cuts)
