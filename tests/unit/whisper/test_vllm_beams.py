"""Beam search over a made-up language."""

import itertools
import math
from collections.abc import Mapping

from predictors.whisper.backends.vllm_beams import search

END = 0
# From what was said to what may follow. Greedy says 1 (0.6), then has nothing good left; 2 leads to something certain.
CHANCES = {
    (): {1: 0.6, 2: 0.4},
    (1,): {END: 0.3, 3: 0.3, 4: 0.4},
    (2,): {5: 1.0},
    (2, 5): {END: 1.0},
}


async def step(said: tuple[int, ...]) -> Mapping[int, float]:
    return {token: math.log(chance) for token, chance in CHANCES.get(said, {END: 1.0}).items()}


async def test_two_beams_find_what_greedy_does_not() -> None:
    assert (await search(step, width=1, end=END, max_tokens=10)).tokens == (1, 4, END)
    found = await search(step, width=2, end=END, max_tokens=10)
    assert found.tokens == (2, 5, END)
    assert found.logprobs == (math.log(0.4), 0.0, 0.0)


async def test_many_beams_find_the_best_of_all() -> None:
    def value(path: tuple[int, ...]) -> float:
        total = sum(math.log(CHANCES.get(path[:i], {END: 1.0}).get(token, 1e-9)) for i, token in enumerate(path))
        return total / len(path)

    everything = [
        (*path, END) for size in range(4) for path in itertools.product(range(1, 6), repeat=size) if END not in path
    ]
    found = await search(step, width=20, end=END, max_tokens=10)
    assert found.tokens == max(everything, key=value)


async def test_it_ends_at_the_most_tokens() -> None:
    async def endless(_said: tuple[int, ...]) -> Mapping[int, float]:
        return {7: -0.1}

    assert (await search(endless, width=3, end=END, max_tokens=5)).tokens == (7,) * 5
