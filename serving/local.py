"""`python -m serving.local NAME [--port P]`: the transformer and the predictor of a service on this machine, no cluster.

NAME is a folder in `predictors/`; its `service.toml` says which transformer goes with it and its settings for a local
run. Both processes' logs come out prefixed; `ready http://127.0.0.1:P` is printed once both are ready; signals are
passed on, and if one process dies the other is stopped and its exit code becomes ours.
"""

import argparse
import asyncio
import importlib.util
import os
import signal
import socket
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTING_SECONDS = 600.0
STOPPING_SECONDS = 45.0


@dataclass(frozen=True)
class Service:
    """What `service.toml` says."""

    name: str
    contract: str
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
            name, text["contract"], text["transformer"], local.get("transformer_env", {}), local.get("env", {})
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _start(
    label: str, module: str, flags: dict[str, object], environment: dict[str, str]
) -> asyncio.subprocess.Process:
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        env={**environment, **os.environ},  # the caller's environment wins over service.toml
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20,
        start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
    )  # fmt: skip
    asyncio.create_task(_prefix(label, process.stdout))  # noqa: RUF006  # it ends with the process's output
    return process


async def _prefix(label: str, output: asyncio.StreamReader | None) -> None:
    assert output is not None  # noqa: S101  # it was asked for as a pipe
    async for line in output:
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


async def run(service: Service, port: int) -> int:
    """Runs both processes until a signal comes or one ends; the exit code for the shell."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    predictor_port = _free_port()
    common = {"model_name": service.name, "host": "127.0.0.1", "enable_grpc": "false", "workers": 1}
    predictor = await _start(
        "predictor", f"predictors.{service.name}", {**common, "http_port": predictor_port}, service.predictor_env
    )
    address = {"http_port": port, "predictor_host": f"127.0.0.1:{predictor_port}"}
    transformer = await _start("transformer", service.transformer, {**common, **address}, service.transformer_env)
    processes = (predictor, transformer)
    ended = [asyncio.create_task(process.wait()) for process in processes]
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_both_ready(service.name, port, predictor_port))
    try:
        await asyncio.wait({*ended, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and ready.exception() is None:
            print(f"ready http://127.0.0.1:{port}", flush=True)  # noqa: T201  # the line that callers wait for
            await asyncio.wait({*ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        return next((task.result() or 1 for task in ended if task.done()), 1)
    finally:
        for task in (stopped, ready):
            task.cancel()
        # The transformer first: what it has in flight still needs the predictor.
        for process in (transformer, predictor):
            await _terminate(process)


async def _both_ready(name: str, port: int, predictor_port: int) -> None:
    deadline = asyncio.get_running_loop().time() + STARTING_SECONDS
    for each in (predictor_port, port):
        await _until_ready(f"http://127.0.0.1:{each}/v2/models/{name}/ready", deadline)


async def _terminate(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOPPING_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def main() -> None:
    """Entry point."""
    known = services()
    parser = argparse.ArgumentParser(prog="python -m serving.local", description="Run a service on this machine.")
    parser.add_argument("name", choices=sorted(known), help="a folder of predictors/")
    parser.add_argument("--port", type=int, default=8000, help="port of the transformer, on 127.0.0.1")
    options = parser.parse_args()
    sys.exit(asyncio.run(run(known[options.name], options.port)))


if __name__ == "__main__":
    main()
