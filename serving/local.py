"""`python -m serving.local NAME [--host H] [--port P]`: both pods of a service on this machine, no cluster.

NAME is a folder in `predictors/`; its `service.toml` says which transformer goes with it and its settings for a local
run. Both processes' logs come out prefixed; `ready http://H:P` is printed once both are ready; TERM, INT
and HUP stop both, and so does the end of this process, however it comes; if one process dies the other is stopped and its
exit code becomes ours.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from serving.guard import guarded

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104  # only where it is asked for
STARTING_SECONDS = 600.0
STOPPING_SECONDS = 45.0
LOG_SECONDS = 2.0  # for the rest of the log of a process that has ended


@dataclass(frozen=True)
class Service:
    """What `service.toml` says of a local run."""

    name: str
    transformer: str
    transformer_env: dict[str, str]
    predictor_env: dict[str, str]


def services() -> dict[str, Service]:
    """Every folder of `predictors/` that has a `service.toml`, by name (underscores become hyphens)."""
    spec = importlib.util.find_spec("predictors")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("run this from the repository's root: there is no folder 'predictors' here")
    found = {}
    for file in sorted(Path(next(iter(spec.submodule_search_locations))).glob("*/service.toml")):
        text = tomllib.loads(file.read_text())
        local = text.get("local", {})
        name = file.parent.name
        found[name.replace("_", "-")] = Service(
            name, text["transformer"], local.get("transformer_env", {}), local.get("env", {})
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class _Child:
    """One of the two processes; its log comes out prefixed."""

    def __init__(self, label: str, process: asyncio.subprocess.Process):
        self.label = label
        self._process = process
        self._log = asyncio.create_task(_prefix(label, process.stdout))

    @classmethod
    async def start(cls, label: str, module: str, flags: dict[str, object], environment: dict[str, str]) -> Self:
        """Starts `python -m module --flags`."""
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        process = await asyncio.create_subprocess_exec(
            *guarded("-m", module, *arguments),
            env={**environment, **os.environ},  # the caller's environment wins over service.toml
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
        )  # fmt: skip
        return cls(label, process)

    async def ended(self) -> int:
        """Waits for its end and for the last line of its log, which says why. What it leaves the shell is never 0."""
        code = await self._process.wait()
        await asyncio.wait({self._log}, timeout=LOG_SECONDS)
        return code or 1 if code >= 0 else 128 - code  # a signal's number, as shells have it

    async def stop(self) -> None:
        """Ends it, by force if it takes too long."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOPPING_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.wait({self._log}, timeout=LOG_SECONDS)


async def _prefix(label: str, output: asyncio.StreamReader | None) -> None:
    assert output is not None  # noqa: S101  # it was asked for as a pipe
    async for line in output:
        with contextlib.suppress(OSError):  # the terminal was closed; a log that nobody read would hold the process up
            sys.stderr.write(f"{label:<11} | {line.decode(errors='replace').rstrip()}\n")
            sys.stderr.flush()


async def _until_ready(url: str, deadline: float) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while asyncio.get_running_loop().time() < deadline:
            try:
                if (await client.get(url, timeout=5)).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # its port is not open yet
            await asyncio.sleep(0.1)
    raise TimeoutError(f"not ready after {STARTING_SECONDS:g} s")


async def run(service: Service, port: int, host: str = LOOPBACK) -> int:
    """Runs both processes until a signal comes or one ends; the exit code for the shell. Port 0 is a free one.

    The transformer listens on `host`, the predictor on this machine alone.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    heeded = [signal.SIGTERM, signal.SIGINT]
    if (
        signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ):  # under nohup it is: the service is to outlive the terminal
        heeded.append(signal.SIGHUP)
    for number in heeded:
        loop.add_signal_handler(number, stop.set)
    port = port or _free_port()
    predictor_port = _free_port()
    common = {"model_name": service.name, "enable_grpc": "false", "workers": 1}
    predictor = await _Child.start(
        "predictor",
        f"predictors.{service.name}",
        {**common, "host": LOOPBACK, "http_port": predictor_port},
        service.predictor_env,
    )
    address = {"host": host, "http_port": port, "predictor_host": f"{LOOPBACK}:{predictor_port}"}
    transformer = await _Child.start("transformer", service.transformer, {**common, **address}, service.transformer_env)
    ended = {asyncio.create_task(child.ended()): child for child in (predictor, transformer)}
    stopped = asyncio.create_task(stop.wait())
    url = f"http://{LOOPBACK if host == EVERYWHERE else host}:{port}"
    ready = asyncio.create_task(_both_ready(service.name, f"http://{LOOPBACK}:{predictor_port}", url))
    try:
        await asyncio.wait({*ended, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        # Something else may answer on a port that was in use: readiness counts while both processes live.
        if ready.done() and not any(task.done() for task in ended):
            if failure := ready.exception():
                sys.stderr.write(f"{failure}\n")
                return 1
            print(f"ready {url}", flush=True)  # noqa: T201  # the line that callers wait for
            await asyncio.wait({*ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        child, code = next((child, task.result()) for task, child in ended.items() if task.done())
        sys.stderr.write(f"the {child.label} ended with exit code {code}\n")
        return code
    finally:
        # The transformer first: what it has in flight still needs the predictor.
        for child in (transformer, predictor):
            await child.stop()
        for task in (stopped, ready, *ended):
            task.cancel()
        await asyncio.gather(stopped, ready, *ended, return_exceptions=True)


async def _both_ready(name: str, *urls: str) -> None:
    deadline = asyncio.get_running_loop().time() + STARTING_SECONDS
    for url in urls:
        await _until_ready(f"{url}/v2/models/{name}/ready", deadline)


def arguments(known: Iterable[str]) -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description="Run a service on this machine.")
    parser.add_argument("name", metavar="NAME", help=f"a folder of predictors/: {', '.join(known)}")
    parser.add_argument("--port", type=int, default=8000, help="port of the transformer; 0: a free one")
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"IPv4 address that it listens on, {EVERYWHERE} for all; this machine alone"
    )
    return parser


def main() -> None:
    """Entry point."""
    known = services()
    options = arguments(known).parse_args()
    if options.name not in known:
        sys.exit(f"there is no service {options.name!r} in predictors/, there are: {', '.join(known)}")
    sys.exit(asyncio.run(run(known[options.name], options.port, options.host)))


if __name__ == "__main__":
    main()
