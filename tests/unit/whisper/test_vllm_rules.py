"""The rules as vLLM's worker applies them to a batch, against the rules of each request alone."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from predictors.whisper.vllm_tokens import Rules, extra_args

FIRST, SIZE = 16, 116
RULES = Rules(end_of_text=10, no_timestamps=15, first_timestamp=FIRST, never=(3, 11, 12, 13, 14), not_first=(2, 10))
# What each request of a batch has said, and whether it tells times.
BATCH: list[tuple[list[int], bool]] = [
    ([], True), ([], False), ([16], True), ([16, 4, 5], True), ([16, 4, 30], True), ([16, 4, 30, 30], True), ([4, 5], False),
]  # fmt: skip


@pytest.fixture
def processor() -> Any:
    """vLLM's logits processor; torch warns of itself while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from predictors.whisper.backends.vllm_rules import WhisperRules
    config: Any = SimpleNamespace(
        additional_config=RULES.config(), model_config=SimpleNamespace(get_vocab_size=lambda: SIZE)
    )
    return WhisperRules(config, torch.device("cpu"), is_pin_memory=False)


def follow(processor: Any, batch: list[tuple[list[int], bool] | None]) -> None:
    """Tells the processor what is in the batch; None is a request of somebody else's, without our arguments."""
    added = [
        (row, SimpleNamespace(extra_args=each and extra_args(timestamps=each[1], said=each[0])), [], [])
        for row, each in enumerate(batch)
    ]
    processor.update_state(SimpleNamespace(added=added, removed=[], moved=[]))


def possible(row: torch.Tensor) -> set[int]:
    return set(torch.nonzero(row > -torch.inf)[:, 0].tolist())


def test_a_batch_is_masked_as_each_request_alone(processor: Any) -> None:
    follow(processor, BATCH)
    logits = torch.zeros(len(BATCH), SIZE)
    logits[:, FIRST:] = -100.0  # so that times do not outweigh text
    for (said, timestamps), row in zip(BATCH, processor.apply(logits), strict=True):
        allowed = {token for token in range(SIZE) if RULES.allows(token, said, SIZE, timestamps=timestamps)}
        assert possible(row) == allowed


def test_times_that_outweigh_the_text_together_are_said(processor: Any) -> None:
    follow(processor, [([16, 4], True), ([4], False)])
    with_times, without = processor.apply(torch.zeros(2, SIZE))
    assert possible(with_times) == set(range(FIRST + 1, SIZE))
    assert possible(without) == set(range(FIRST)) - set(RULES.never)


def test_rows_of_others_stay_as_they_are(processor: Any) -> None:
    follow(processor, [None, ([], True), None])
    masked = processor.apply(torch.ones(3, SIZE))
    assert torch.equal(masked[[0, 2]], torch.ones(2, SIZE))
    assert possible(masked[1]) == set(range(FIRST, FIRST + 51))
