"""The bounds that a random split must keep."""

import math


def bounds(count: int, share: float, miss: float = 0.001) -> tuple[int, int]:
    """The fewest and most of `count` independent calls that go to a part of `share`, but with a chance of `miss` in all."""
    chances = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    low = next(k for k in range(count + 1) if sum(chances[: k + 1]) > miss / 2)
    high = next(k for k in range(count, -1, -1) if sum(chances[k:]) > miss / 2)
    return low, high
