"""Waiting for something to come true in the cluster, the one way these tests wait. `tests.pods.wait_for` is for processes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.3  # a kubectl each; a cluster of two cores has other things to do


def until(what: str, check: Callable[[], T | None], seconds: float) -> T:
    """The first truthy value of `check`. Raises TimeoutError that says `what` and the last value after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s; it was {value!r}")
        time.sleep(_POLL_SECONDS)
    return value
