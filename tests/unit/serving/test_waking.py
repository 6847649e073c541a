"""How a transformer's pod wakes its predictor before it has imported anything: from flags alone, over a real socket."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from serving import waking

PROGRAM = (
    "import sys\n"
    "from serving import waking\n"
    "waking.wake_predictor()\n"
    "assert not {'fastapi', 'kserve', 'numpy', 'pydantic'} & set(sys.modules)\n"
    "sys.stdin.read()\n"
)


@pytest.mark.parametrize(
    ("flags", "environment", "host"),
    [
        (["--predictor_host=a:80", "--model_name=m"], {}, "a:80"),
        (["--model_name", "m", "--predictor_host", "b"], {"PREDICTOR_HOST": "c"}, "b"),
        ([], {"PREDICTOR_HOST": "c"}, "c"),
        (["--predictor_host"], {}, ""),
        ([], {}, ""),
    ],
)
def test_the_predictor_is_found_as_the_settings_find_it(
    flags: list[str], environment: dict[str, str], host: str
) -> None:
    assert waking.predictor_host(flags, environment) == host


def started(host: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "--predictor_host", host]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_one_request_reaches_it_before_anything_is_imported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, started(f"127.0.0.1:{server.getsockname()[1]}") as process:
        server.settimeout(30)
        with server.accept()[0] as connection:
            asked = connection.recv(4096)
        assert asked.startswith(b"GET /v2/health/live HTTP/1.1\r\n")
        _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid", "127.0.0.1:x", "bad host\r\n"])
def test_an_address_that_does_not_answer_is_no_error(host: str) -> None:
    with started(host) as process:
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")


def test_a_predictor_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(sys, "argv", ["pod", f"--predictor_host=127.0.0.1:{server.getsockname()[1]}"])
        waking.wake_predictor()
        (thread,) = [each for each in threading.enumerate() if each.name == "waking"]
        assert thread.daemon
        thread.join(30)
        assert not thread.is_alive()
