"""`python -m serving.local` as a process: started, watched, and never left running. No assertions."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from serving.guard import guarded
from tests.pods import free_port, wait_for

ROOT = Path(__file__).parents[2]


class Local:
    """One run. `out` and `err` are the lines that it wrote so far."""

    def __init__(self, name: str = "whisper", port: int | None = None, env: Mapping[str, str] | None = None):
        self.port = free_port() if port is None else port
        self.out: list[str] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            guarded("-m", "serving.local", name, "--port", str(self.port)),
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=_read, args=each, daemon=True) for each in pipes]
        for reader in self._readers:
            reader.start()

    def until_ready(self, seconds: float = 120) -> "Local":
        """Returns once it said so. Raises RuntimeError with its log if it ends first."""
        wait_for("ready", lambda: self.out or self.process.poll() is not None, seconds)
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with {self.process.returncode}:\n" + "\n".join(self.err))
        return self

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, once all it wrote is read."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return code

    def processes(self) -> dict[int, str]:
        """Everything that it has started and that lives, processes of processes too: command lines by process id."""
        found: dict[int, str] = {}
        parents = {self.process.pid}
        while parents:
            parents = {pid for pid, parent in _parents().items() if parent in parents} - set(found)
            found |= {pid: command for pid in parents if (command := command_line(pid))}
        return found


@contextlib.contextmanager
def running(name: str = "whisper", port: int | None = None, env: Mapping[str, str] | None = None) -> Iterator[Local]:
    """A run that ends with the block, and its processes with it."""
    local = Local(name, port, env)
    try:
        yield local
    finally:
        started = [*local.processes(), local.process.pid]
        if local.process.poll() is None:
            local.process.send_signal(signal.SIGTERM)
        try:
            local.wait()
        except subprocess.TimeoutExpired:
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        for pipe in (local.process.stdout, local.process.stderr):
            if pipe is not None:
                pipe.close()


def command_line(pid: int) -> str:
    """How a process was started; "" when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal():
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _read(pipe: TextIO, lines: list[str]) -> None:
    for line in pipe:
        lines.append(line.rstrip("\n"))  # noqa: PERF401  # extend would show them at the end only
