"""What may follow what was said: openai-whisper's rules, against its own filters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.whisper.vllm_tokens import Rules

END, NO_TIMES, FIRST, SIZE = 10, 15, 16, 116
RULES = Rules(
    end_of_text=END, no_timestamps=NO_TIMES, first_timestamp=FIRST, never=(3, 11, 12, 13, 14), not_first=(2, END)
)


class Tokenizer:
    eot, no_timestamps, timestamp_begin = END, NO_TIMES, FIRST


def allowed_by_openai(said: list[int]) -> set[int]:
    """By `ApplyTimestampRules` on equal logits, which leave the choice between times and text to the caller's caller."""
    from whisper.decoding import ApplyTimestampRules, SuppressTokens

    logits = torch.full((1, SIZE), 0.0)
    logits[:, FIRST:] = -100.0  # so that times do not outweigh text
    start = 1
    tokens = torch.tensor([[99] * start + said])
    SuppressTokens(list(RULES.never)).apply(logits, tokens)
    if not said:
        logits[:, list(RULES.not_first)] = -np.inf
    ApplyTimestampRules(Tokenizer, start, 50).apply(logits, tokens)
    return {token for token in range(SIZE) if logits[0, token] > -np.inf}


@settings(deadline=None)  # the first one imports torch's kernels
@given(st.lists(st.one_of(st.integers(0, 9), st.integers(FIRST, SIZE - 1)), max_size=8))
def test_they_are_openai_whispers(said: list[int]) -> None:
    times = [token for token in said if token >= FIRST]
    if times != sorted(times):
        return  # the rules never let it happen
    ours = {token for token in range(SIZE) if RULES.allows(token, said, SIZE, timestamps=True)}
    assert ours == allowed_by_openai(said)


def test_without_timestamps_there_are_none() -> None:
    allowed = {token for token in range(SIZE) if RULES.allows(token, [1], SIZE, timestamps=False)}
    assert allowed == set(range(FIRST)) - set(RULES.never)


@pytest.mark.parametrize("timestamps", [True, False])
def test_nothing_begins_with_a_space_or_the_end(timestamps: bool) -> None:
    assert not any(RULES.allows(token, [], SIZE, timestamps=timestamps) for token in RULES.not_first)
