"""The images under test and containers of them, by the container tool's command line. `make test-images` says which.

A container runs as the chart's pods do: read-only root, a writable /tmp, no capabilities, the image's own user.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.pods import free_port, wait_for

TOOL = os.environ.get("CONTAINER_TOOL", "docker")
IMAGES = os.environ.get("IMAGES", "").split()
TMP = "/tmp:mode=1777"  # noqa: S108  # the container's, not this machine's
RESTRICTED = ["--read-only", "--tmpfs", TMP, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


class ContainerError(Exception):
    """The container tool refused; the text is what it said."""


def tool(*arguments: str, stdin: str = "") -> str:
    """What `docker <arguments>` prints. Raises ContainerError with its error."""
    try:
        done = subprocess.run([TOOL, *arguments], input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ContainerError(f"{TOOL} is missing: install Docker, or name another tool by CONTAINER_TOOL") from None
    if done.returncode != 0:
        raise ContainerError(f"{TOOL} {' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def reference(image: str) -> str:
    """The full name of an image."""
    return f"{os.environ['REGISTRY']}/{image}:{os.environ['TAG']}"


def inspect(image: str) -> dict[str, Any]:
    """What the container tool knows of an image."""
    found: dict[str, Any] = json.loads(tool("image", "inspect", reference(image)))[0]
    return found


def inside(image: str, what: str) -> dict[str, Any]:
    """What `inside.py` prints in a container of the image without a network."""
    program = Path(__file__).with_name("inside.py").read_text()
    run = ["run", "--rm", "--interactive", "--network", "none", *RESTRICTED, "--entrypoint", "python"]
    found: dict[str, Any] = json.loads(tool(*run, reference(image), "-", what, stdin=program))
    return found


class Container:
    """An image that runs; leaving the `with` block removes it.

    Args:
        image: its name without registry and tag.
        flags: of the pod.
        options: of `docker run`.
    """

    def __init__(self, image: str, *flags: str, options: Sequence[str] = ()):
        port = free_port()
        run = ["run", "--detach", "--publish", f"127.0.0.1:{port}:8080", *RESTRICTED, *options]
        self._id = tool(*run, reference(image), *flags).strip()
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        tool("rm", "--force", "--volumes", self._id)

    def until(self, path: str, seconds: float = 60) -> Self:
        """Returns once a GET of `path` answers 200. Raises ContainerError with the log if the container ends first."""

        def answers() -> bool:
            if not self.state()["Running"]:
                raise ContainerError(f"the container ended:\n{self.log()}")
            try:
                return httpx.get(self.url + path, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(path, answers, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log()}") from None
        return self

    def state(self) -> dict[str, Any]:
        """Running, ExitCode and the like."""
        found: dict[str, Any] = json.loads(tool("inspect", "--format", "{{json .State}}", self._id))
        return found

    def stop(self, seconds: int = 30) -> int:
        """SIGTERM, and the exit code."""
        tool("stop", "--time", str(seconds), self._id)
        return int(self.state()["ExitCode"])

    def log(self) -> str:
        """What it wrote to stderr and stdout."""
        done = subprocess.run(
            [TOOL, "logs", self._id], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout


def copy_weights(image: str, folder: Path) -> None:
    """Copies an image's weights into a folder as the chart's init container does."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # whatever the umask is: an emptyDir is so, too
    run = ["run", "--rm", "--network", "none", *RESTRICTED, "--volume", f"{folder}:/mnt/models", reference(image)]
    tool(*run, "cp", "-r", "/models/.", "/mnt/models")
