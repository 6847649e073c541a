"""From how tokens look at the audio to words with times: dynamic time warping, and which tokens make a word. Pure.

The method is openai-whisper's (`timing.py`); its engines do this themselves, vLLM does not.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from serving.contracts.asr import Word

Matrix = npt.NDArray[np.float32]
SECONDS_PER_FRAME = 0.02
MEDIAN_FRAMES = 7
"""Frames that the weights of a head are smoothed over."""
_OPENING = "\"'\u201c\u00bf([{-\u2018"
_CLOSING = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001\u2019"
_UNSPACED_LANGUAGES = {"zh", "ja", "th", "lo", "my", "yue"}
_LONGEST_OF_MEDIAN = 2.0
_LONGEST_MEDIAN = 0.7  # seconds
_ENDS = ".!?\u3002\uff01\uff1f"  # after these a pause is before the next word


def warp(weights: Matrix) -> npt.NDArray[np.int64]:
    """The frame at which each of the rows of [T, S] begins, on the path from corner to corner with the greatest sum.

    Every step goes on by a row, a frame, or both. The table is filled along its diagonals, whose cells do not need each
    other: 0.02 s for a long window.
    """
    rows, frames = weights.shape
    cost = np.full((rows + 1, frames + 1), np.inf)
    cost[0, 0] = 0.0
    trace = np.zeros((rows + 1, frames + 1), np.int8)
    for diagonal in range(2, rows + frames + 1):
        i = np.arange(max(1, diagonal - frames), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        before = np.stack([cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]])
        best = before.argmin(axis=0)
        # Both at once only where that is really cheaper, as openai-whisper breaks ties towards staying in the row.
        tied = before[2] <= before[best, np.arange(len(i))]
        best[tied] = 2
        cost[i, j] = before[best, np.arange(len(i))] - weights[i - 1, j - 1]
        trace[i, j] = best
    begins = np.zeros(rows, np.int64)
    i, j = rows, frames
    while i > 0 and j > 0:
        begins[i - 1] = j - 1
        step = trace[i, j]
        i -= step in (0, 1)
        j -= step in (0, 2)
    return begins


def split_words(
    tokens: Sequence[int], decode: Callable[[list[int]], str], language: str
) -> list[tuple[str, tuple[int, ...]]]:
    """Words with their tokens, in order: at spaces, or in languages without them, at whole characters."""
    whole = decode(list(tokens))
    place = 0
    pieces: list[tuple[str, tuple[int, ...]]] = []
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = decode(held)
        broken = text.find("\ufffd")
        # A character has begun, unless the whole text has that sign there too: a byte that belongs to none.
        if broken < 0 or whole[place + broken : place + broken + 1] == "\ufffd":
            pieces.append((text, tuple(held)))
            place += len(text)
            held = []
    if held:
        pieces.append((decode(held), tuple(held)))
    if language in _UNSPACED_LANGUAGES:
        return pieces
    words: list[tuple[str, tuple[int, ...]]] = []
    for text, own in pieces:
        if words and not text.startswith(" ") and text.strip():
            words[-1] = (words[-1][0] + text, (*words[-1][1], *own))
        else:
            words.append((text, own))
    return words


def timed_words(
    words: Sequence[tuple[str, tuple[int, ...]]], begins: npt.NDArray[np.int64], logprobs: Sequence[float]
) -> list[Word]:
    """Words with times and probabilities; a punctuation mark belongs to the word that it stands at.

    Args:
        words: text and tokens.
        begins: the frame at which each token begins, and that at which the last one ends.
        logprobs: of each token.
    """
    edges = np.concatenate([[0], np.cumsum([len(tokens) for _, tokens in words])]).astype(int)
    spans = [
        Word(
            word=text,
            start=float(begins[a]) * SECONDS_PER_FRAME,
            end=float(begins[b]) * SECONDS_PER_FRAME,
            probability=float(np.exp(np.mean(logprobs[a:b]))),
        )
        for (text, _), a, b in zip(words, edges, edges[1:], strict=False)
    ]
    return _with_punctuation(spans)


def _with_punctuation(words: Sequence[Word]) -> list[Word]:
    joined: list[Word] = []
    opening = ""
    for word in words:
        mark = word.word.strip()
        if joined and mark and all(each in _CLOSING for each in mark) and not word.word.startswith(" "):
            joined[-1] = joined[-1].model_copy(update={"word": joined[-1].word + word.word})
        elif mark and all(each in _OPENING for each in mark):
            opening += word.word
        else:
            joined.append(word.model_copy(update={"word": opening + word.word}))
            opening = ""
    if opening and joined:
        joined[-1] = joined[-1].model_copy(update={"word": joined[-1].word + opening})
    return joined


def without_pauses(spans: Sequence[Sequence[Word]]) -> list[list[Word]]:
    """A window's words, those that last longer than twice the median cut: at their start after a pause, else at their end.

    A word beside a pause is often given the pause.
    """
    lengths = [word.end - word.start for span in spans for word in span if word.end > word.start]
    longest = min(_LONGEST_MEDIAN, float(np.median(lengths))) * _LONGEST_OF_MEDIAN if lengths else 0.0
    cut = []
    for span in spans:
        words = list(span)
        for index, word in enumerate(words):
            if word.end - word.start <= longest:
                continue
            if index == 0 or words[index - 1].word.rstrip()[-1:] in _ENDS:
                words[index] = word.model_copy(update={"start": word.end - longest})
            else:
                words[index] = word.model_copy(update={"end": word.start + longest})
        cut.append(words)
    return cut
