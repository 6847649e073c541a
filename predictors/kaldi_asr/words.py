"""Words from what sherpa-onnx gives: tokens, each with the time at which it starts. Pure functions."""

import itertools
import math
from collections.abc import Sequence

from serving.contracts.asr import Word

_TOKEN_SECONDS = (
    0.12  # how long a word's last token sounds: speech ends 0.10-0.13 s after it starts, on models of 40 ms steps
)


def from_tokens(
    tokens: Sequence[str],
    starts: Sequence[float],
    duration: float,
    durations: Sequence[float] = (),
    log_probabilities: Sequence[float] = (),
) -> list[Word]:
    """Words in order, inside [0, `duration`] seconds.

    Args:
        tokens: pieces of the text; one that begins with a space begins a word.
        starts: seconds, one a token.
        duration: of the window.
        durations: seconds, one a token, where the model gives them.
        log_probabilities: natural logarithms, one a token, where the model gives them.
    """
    groups: list[list[int]] = []
    for index, token in enumerate(tokens):
        if not groups or token[:1].isspace():
            groups.append([])
        if token.strip():
            groups[-1].append(index)
    groups = [group for group in groups if group]
    begins = [*(min(max(0.0, starts[group[0]]), duration) for group in groups), duration]
    words = []
    for group, (begin, following) in zip(groups, itertools.pairwise(begins), strict=True):
        last = group[-1]
        length = durations[last] if len(durations) == len(tokens) else _TOKEN_SECONDS
        probability = None
        if len(log_probabilities) == len(tokens):
            probability = math.exp(min(0.0, sum(log_probabilities[index] for index in group) / len(group)))
        text = "".join(tokens[index].strip() for index in group)
        end = max(begin, min(starts[last] + length, following, duration))
        words.append(Word(word=f" {text}", start=round(begin, 3), end=round(end, 3), probability=probability))
    return words
