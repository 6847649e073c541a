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
_BOTH, _ROW, _FRAME = range(3)  # a step goes on by
_OPENING = "\"'\u201c\u00bf([{-\u2018"
_CLOSING = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001\u2019"
_UNSPACED_LANGUAGES = {"zh", "ja", "th", "lo", "my", "yue"}
_LONGEST_OF_MEDIAN = 2.0
_LONGEST_MEDIAN = 0.7  # seconds
_ENDS = ".!?\u3002\uff01\uff1f"  # after these a pause is before the next word


def warp(weights: Matrix) -> npt.NDArray[np.int64]:
    """The frame at which each of the rows of [T, S] begins, on the path from corner to corner with the greatest sum.

    Every step goes on by a row, a frame, or both; of equals a frame is preferred, as in openai-whisper. A row is made at once:
    staying in it from k to j costs the difference of its running sums, so the best way in is a running minimum.
    """
    rows, frames = weights.shape
    trace = np.empty((rows, frames), np.int8)
    above = np.full(frames + 1, np.inf)  # the costs of the frames in the row before; before the first, of the corner
    above[0] = 0.0
    for row in range(rows):
        sums = np.concatenate([[0.0], np.cumsum(weights[row], dtype=np.float64)])
        entered = np.minimum(above[:-1], above[1:]) + sums[:-1]
        best = np.minimum.accumulate(entered)
        trace[row] = np.where(above[:-1] <= above[1:], _BOTH, _ROW)
        trace[row, 1:][best[:-1] <= entered[1:]] = _FRAME
        above = np.concatenate([[np.inf], best - sums[1:]])
    begins = np.zeros(rows, np.int64)
    row, frame = rows - 1, frames - 1
    while row >= 0 and frame >= 0:
        begins[row] = frame
        step = trace[row, frame]
        row -= step != _FRAME
        frame -= step != _ROW
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
