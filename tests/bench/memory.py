"""How much memory processes hold, what they share counted once (PSS)."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_EVERY_SECONDS = 0.02


def held(process: psutil.Process) -> int:
    """Bytes of a process and all below it; 0 where one of them is just ending."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return total


class Peak:
    """The most that a process and all below it hold, in MB, while the block lasts. Looking holds them up a little."""

    def __init__(self, pid: int, every_seconds: float = _EVERY_SECONDS):
        self._process = psutil.Process(pid)
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.mb = max(self.mb, held(self._process) / 1e6)


def own_peak_mb() -> float:
    """The most that this process has held, in MB, what it shares with others included.

    By the kernel's mark for the program that runs; `getrusage` would tell the parent's peak where that was higher.
    """
    return _peak_mb("self")


def family_peak_mb(pid: int) -> float:
    """The sum of what a process and all below it, as far as they live, have held at most each, in MB."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(_peak_mb(str(each.pid)) for each in family)


def _peak_mb(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def settled_mb(pid: int, seconds: float = 1.0) -> float:
    """What a process and all below it hold after `seconds` of rest."""
    time.sleep(seconds)
    return held(psutil.Process(pid)) / 1e6
