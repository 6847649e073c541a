"""Clients that call a service over and over while a test does something to it; no call's outcome is lost."""

import threading
import time
from collections.abc import Callable
from typing import Self

import httpx

from tests.e2e.gateway import Gateway, Outcome
from tests.e2e.waiting import until

_PAUSE_SECONDS = 0.2  # a client's own, between its calls: the cluster needs some of the two cores to roll out


class Load:
    """`clients` callers, each with one call at a time on a connection of its own, for as long as the block lasts.

    `call` makes one with the client that it is given: a recording is transcribed.
    """

    def __init__(self, gateway: Gateway, call: bytes | Callable[[httpx.Client], Outcome], clients: int = 1):
        self._gateway = gateway
        self._call = call if callable(call) else lambda client: gateway.transcribe(client, call)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self.outcomes: list[Outcome] = []
        """In the order in which they ended."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with self._gateway.http() as client:
            while not self._stop.is_set():
                self.outcomes.append(self._call(client))
                self._stop.wait(_PAUSE_SECONDS)

    def until_answered(self, count: int, seconds: float) -> list[Outcome]:
        """The next outcomes, once `count` more calls of each client have been answered with 200."""
        before, wanted = len(self.outcomes), count * len(self._threads)

        def answered() -> list[Outcome] | None:
            new = self.outcomes[before:]
            return new if sum(each.status == 200 for each in new) >= wanted else None

        return until(f"{wanted} answers", answered, seconds)

    def from_now(self, count: int, seconds: float) -> list[Outcome]:
        """The outcomes of the calls that begin from now on, once there are `count` of them."""
        now = time.monotonic()

        def ended() -> list[Outcome] | None:
            begun = [each for each in self.outcomes if each.begun >= now]
            return begun if len(begun) >= count else None

        return until(f"{count} calls", ended, seconds)

    @property
    def failed(self) -> list[Outcome]:
        """Calls that were not answered with 200."""
        return [each for each in self.outcomes if each.status != 200]
