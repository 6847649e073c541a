"""Pods as real processes, for tests: started with `python -m MODULE --flags`, watched, read, and always stopped.

Waiting is polling with a deadline for something that can be seen from outside (an answer, a metric, a log line), never a
pause of a fixed length. No pytest here: the demo and the benches may use it too.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from serving.guard import guarded

STARTING_SECONDS = 60.0
STOPPING_SECONDS = 30.0
_POLL_SECONDS = 0.02


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, check: Callable[[], Any], seconds: float = STARTING_SECONDS) -> Any:
    """The first truthy value of `check`. Raises TimeoutError that says `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return value


class Pod:
    """One process of the kit on loopback ports of its own; leaving the `with` block stops it.

    Args:
        module: what `python -m` runs, e.g. "serving.testing".
        model_name: the model's name, and the name in the log of a failed test.
        env: environment variables besides those of this process.
        flags: settings as command line flags; ports are free ones where they are not given.
    """

    def __init__(self, module: str, model_name: str = "fake", env: Mapping[str, str] | None = None, **flags: Any):
        self.model_name = model_name
        self.http_port = int(flags.pop("http_port", 0)) or free_port()
        self.grpc_port = int(flags.pop("grpc_port", 0)) or free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.grpc_url = f"127.0.0.1:{self.grpc_port}"
        ports = {"http_port": self.http_port, "grpc_port": self.grpc_port, "host": "127.0.0.1"}
        settings = {"model_name": model_name, **ports, **flags}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        self.lines: list[str] = []
        """What it wrote so far, stdout and stderr together."""
        self.process = subprocess.Popen(
            guarded("-m", module, *arguments),
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a signal for the test run does not reach it; this class stops it, the guard if it cannot
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- starting ---

    def until_ready(self, seconds: float = STARTING_SECONDS) -> Self:
        """Returns once the model is ready. Raises RuntimeError with the log if the process ends first."""
        return self.until(lambda: self.status(f"/v2/models/{self.model_name}/ready") == 200, "ready", seconds)

    def until_open(self, seconds: float = STARTING_SECONDS) -> Self:
        """Returns once the port is open: the process lives, its model may still be loading."""
        return self.until(lambda: self.status("/v2/health/live") == 200, "live", seconds)

    def until(self, check: Callable[[], Any], what: str, seconds: float = STOPPING_SECONDS) -> Self:
        """Returns once `check` is true. Raises RuntimeError with the log if the process ends first, or TimeoutError."""

        def alive_and_checked() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the pod ended with {self.process.returncode} before {what}:\n{self.text()}")
            return bool(check())

        try:
            wait_for(what, alive_and_checked, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.text()}") from None
        return self

    def status(self, path: str) -> int | None:
        """The status of a GET; None while nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, timeout=5, trust_env=False).status_code
        return None

    # --- looking at it ---

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 when it has none for these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in httpx.get(self.url + "/metrics", timeout=5, trust_env=False).text.splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and wanted <= set((found[1] or "").split(",")):
                return float(found[2])
        return 0.0

    def until_in_flight(self, count: int) -> None:
        """Returns once exactly `count` requests, streams and WebSockets are being worked on."""
        self.until(lambda: self.metric("sonotome_requests_in_flight") == count, f"{count} in flight")

    def peak_rss_mb(self) -> float:
        """The most memory that it had so far, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def text(self) -> str:
        """Everything it wrote so far."""
        return "\n".join(self.lines)

    def records(self) -> list[dict[str, Any]]:
        """Its log, parsed. Raises ValueError for a line that is not JSON."""
        return [json.loads(line) for line in list(self.lines)]

    def records_but_grpcs(self) -> list[dict[str, Any]]:
        """`records` without the plain lines that gRPC's C core writes to stderr by itself."""
        return [
            json.loads(line) for line in list(self.lines) if not re.match(r"[EIW]\d{4} |I0000|WARNING: All log", line)
        ]

    def until_logged(self, **fields: Any) -> dict[str, Any]:
        """The first record that has these fields; it waits for it."""

        def find() -> dict[str, Any] | None:
            return next((record for record in self.records() if fields.items() <= record.items()), None)

        found: dict[str, Any] = wait_for(f"a log line with {fields}", find, STOPPING_SECONDS)
        return found

    # --- stopping ---

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = STOPPING_SECONDS) -> int:
        """Its exit code, once it has ended and its log is read. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def stop(self) -> int:
        """Its exit code after SIGTERM, or SIGKILL if that does not end it in time."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()


def stock_grpc_client(pod: Pod) -> dict[str, Any]:
    """What `tests.triton_grpc` got from the pod, by case. Raises CalledProcessError."""
    command = [sys.executable, "-m", "tests.triton_grpc", pod.grpc_url, pod.model_name]
    outcomes: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    return outcomes


@contextlib.contextmanager
def running(module: str, model_name: str = "fake", env: Mapping[str, str] | None = None, **flags: Any) -> Iterator[Pod]:
    """A pod that is ready; stopped at the end of the block."""
    with Pod(module, model_name, env, **flags) as pod:
        yield pod.until_ready()
