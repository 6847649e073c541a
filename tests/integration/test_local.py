"""`python -m serving.local`: one line when it is ready, a clean end however it ends, and nothing left running."""

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.integration.clips import HELLO, clip, words
from tests.integration.locally import ROOT, Local, command_line, running
from tests.pods import wait_for

LOGGED = re.compile(r"(?:predictor  |transformer) \| ")


def nothing_is_left_of(pids: dict[int, str]) -> None:
    """The last ones, the decoders, are killed by the kernel when the transformer ends."""
    wait_for(f"the end of {pids}", lambda: not any(command_line(pid) == line for pid, line in pids.items()), 10)


def pid_of(local: Local, module: str) -> int:
    """The process that runs a module, once it is there, and not still its guard, which has no name while it becomes it."""

    def find() -> list[int]:
        started = local.processes().items()
        return [pid for pid, line in started if f" -m {module} " in line and " -m serving.guard " not in line]

    found = wait_for(module, find)
    (pid,) = found
    return int(pid)


def test_it_serves_until_ctrl_c() -> None:
    with running() as local:
        url = f"http://127.0.0.1:{local.port}"
        local.until_ready()
        answer = httpx.post(f"{url}/v1/audio/transcriptions", files={"file": clip(HELLO)}, timeout=60, trust_env=False)
        assert words(answer.json()["text"]) == ["hello", "world"]
        started = local.processes()
        assert {"predictors.whisper", "transformers_pre.audio", "transformers_pre.audio.decoder"} == {
            line.split(" -m ")[1].split()[0] for line in started.values()
        }
        local.process.send_signal(signal.SIGINT)
        assert local.wait() == 0
        assert local.out == [f"ready {url}"]
        assert [line for line in local.err if not LOGGED.match(line)] == []
        nothing_is_left_of(started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_stopped_while_it_starts(number: signal.Signals) -> None:
    with running() as local:
        wait_for("a log line of both", lambda: len({line.split()[0] for line in local.err}) == 2)
        started = local.processes()
        assert len(started) >= 2
        local.process.send_signal(number)
        assert local.wait(120) == 0  # each process has STOPPING_SECONDS of its own
        assert local.out == []
        nothing_is_left_of(started)


def test_a_predictor_that_cannot_start_says_why() -> None:
    with running(env={"MODEL_ID": "/no/such/folder"}) as local:
        assert local.wait(120) == 1
        assert local.out == []
        (reason,) = [line for line in local.err if "cannot start" in line]
        assert reason.startswith("predictor   | ")
        assert "MODEL_ID" in reason
        assert "the predictor ended with exit code 1" in local.err
        assert local.processes() == {}


def test_a_predictor_that_dies_takes_the_transformer_along() -> None:
    with running() as local:
        predictor = pid_of(local, "predictors.whisper")
        transformer = pid_of(local, "transformers_pre.audio")
        started = local.processes()
        assert {predictor, transformer} <= set(started)
        subprocess.run(["kill", "-KILL", str(predictor)], check=True)
        assert local.wait() == 128 + signal.SIGKILL
        assert "the predictor ended with exit code 137" in local.err
        nothing_is_left_of(started)


def test_its_processes_go_with_it_when_it_is_killed() -> None:
    with running(port=0) as local:
        local.until_ready()
        url = re.fullmatch(r"ready (http://127\.0\.0\.1:[1-9]\d+)", local.out[0])  # a free port for 0
        assert url
        assert httpx.get(f"{url[1]}/health", timeout=10, trust_env=False).json()["status"] == "ok"
        started = local.processes()
        assert len(started) >= 3
        local.process.kill()
        local.wait()
        nothing_is_left_of(started)


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, running(port=taken.getsockname()[1]) as local:
        assert local.wait(120) == 1
        assert local.out == []
        assert [line for line in local.err if f"cannot start: port {local.port} cannot be opened" in line]
        assert "the transformer ended with exit code 1" in local.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["whispers"], "there is no service 'whispers' in predictors/, there are: "),
        ([], "the following arguments are required: NAME"),
        (["whisper", "--port", "many"], "argument --port: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments(arguments: list[str], line: str) -> None:
    command = [sys.executable, "-m", "serving.local", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.returncode in (1, 2)
    assert line in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
