"""Encodings that vLLM's worker keeps: each window is encoded once, however many requests it makes."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch


class Encoder:
    """Stands in for the model's; counts the windows that it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        self.encoded += len(windows)
        return torch.stack([window.mean() * torch.ones(3, 2) for window in windows])


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def encodings(encoder: Encoder) -> Any:
    """Room for two; torch warns of itself while vLLM is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from predictors.whisper.backends.vllm_worker import _Encodings
    return _Encodings(encoder, 2)


def window(value: float) -> torch.Tensor:
    return torch.full((4, 5), value)


def test_a_window_is_encoded_once(encodings: Any, encoder: Encoder) -> None:
    first = encodings([window(1.0)])
    again = encodings([torch.stack([window(1.0), window(2.0)])])
    assert torch.equal(first[0], again[0])
    assert (tuple(again.shape), encoder.encoded) == ((2, 3, 2), 2)


def test_a_window_that_is_done_makes_room_for_those_still_at_work(encodings: Any, encoder: Encoder) -> None:
    encodings([window(1.0)])
    for number in range(2, 6):  # come and go, while the first one is still decoded
        encodings([window(float(number))])
        assert torch.equal(encodings.last_use(window(float(number))), torch.full((3, 2), float(number)))
    assert torch.equal(encodings([window(1.0)])[0], torch.ones(3, 2))
    assert encoder.encoded == 5


def test_what_had_to_go_is_encoded_again(encodings: Any, encoder: Encoder) -> None:
    for number in range(4):
        encodings([window(float(number))])
    assert torch.equal(encodings.last_use(window(0.0)), torch.zeros(3, 2))
    assert encoder.encoded == 5
