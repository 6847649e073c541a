"""kubectl as functions: objects in and out as dicts, against the cluster of KUBECONFIG. Not here: what the objects mean."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from charts.tools.helm import TOOLS
from tests.e2e.waiting import until

Object = dict[str, Any]
_NOTABLE = re.compile(r'"(?:level|severity)":"(?!INFO|DEBUG)|Traceback|"status":5')


class KubectlError(Exception):
    """kubectl refused; the text is what it said."""


@cache
def find() -> str:
    """kubectl from PATH or `.tools/bin`. Raises KubectlError without it."""
    if found := shutil.which("kubectl", path=f"{os.environ.get('PATH', '')}:{TOOLS}"):
        return found
    raise KubectlError("kubectl is missing: install it (kubernetes.io/docs/tasks/tools)")


def run(*arguments: str, stdin: Object | None = None, seconds: float = 120) -> str:
    """What `kubectl <arguments>` prints. Raises KubectlError with its error."""
    given = None if stdin is None else json.dumps(stdin)
    done = subprocess.run(
        [find(), *arguments], input=given, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode != 0:
        raise KubectlError(done.stderr.strip())
    return done.stdout


def get(*arguments: str) -> Object:
    """One object. Raises KubectlError, also when it is not there."""
    found: Object = json.loads(run("get", *arguments, "-o", "json"))
    return found


def items(*arguments: str) -> list[Object]:
    """The objects of a list."""
    found: list[Object] = get(*arguments)["items"]
    return found


def condition(thing: Object, kind: str) -> Object:
    """A condition of an object's status; empty while it has none of this type."""
    return next((each for each in thing.get("status", {}).get("conditions", []) if each["type"] == kind), {})


def is_true(thing: Object, kind: str) -> bool:
    """Whether a condition is true."""
    return condition(thing, kind).get("status") == "True"


class PodWatch:
    """Notes every state of the pods of a namespace, and when it got to know of it by this machine's clock.

    The API's own times are whole seconds; these lag by what the kubelet takes to report, up to a second.
    """

    def __init__(self, namespace: str):
        command = [find(), "-n", namespace, "get", "pods", "--watch", "--output-watch-events", "-o", "json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.states: list[tuple[float, Object]] = []
        """(Unix time, pod), in the order of arrival."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.states.append((time.time(), json.loads(line)["object"]))

    def close(self) -> None:
        """Ends the watch."""
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def namespace(name: str, **labels: str) -> Iterator[str]:
    """A namespace that is there for the block, and gone with all that is in it afterwards. One that was left is replaced."""
    remove_namespace(name)
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    run("create", "-f", "-", stdin=made)
    try:
        yield name
    finally:
        remove_namespace(name)


def remove_namespace(name: str) -> None:
    """Returns once it is gone.

    Its services go first, and pods of no service: the controller that removes a namespace with pods in it looks again only
    after half of the time that these may take to end.
    """
    if not run("get", "namespace", name, "--ignore-not-found"):
        return
    run("-n", name, "delete", "inferenceservices", "--all", "--wait")
    run("-n", name, "delete", "pods", "--selector=!serving.knative.dev/revision", "--wait=false")
    until(f"no pods in {name}", lambda: not items("-n", name, "pods"), 180)
    run("delete", "namespace", name, "--wait", "--timeout=120s", seconds=130)


def state(name: str) -> str:
    """What a person would look at first: services, pods, the last events, and what the pods warned of."""
    parts = [
        run("-n", name, "get", "inferenceservices,services.serving.knative.dev,revisions.serving.knative.dev,pods"),
        run("-n", name, "get", "events", "--field-selector=type=Warning"),
    ]
    for pod in items("-n", name, "pods"):
        with contextlib.suppress(KubectlError):  # it has no log yet, or is going
            text = run("-n", name, "logs", pod["metadata"]["name"], "--all-containers", "--tail=200")
            parts += [pod["metadata"]["name"], *(line for line in text.splitlines() if _NOTABLE.search(line))]
    return "\n".join(parts)


def listing(name: str) -> set[str]:
    """Every object of a namespace as `resource/name`, of every kind that there is, but events."""
    kinds = run("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    asked = ",".join(sorted({kind for kind in kinds if kind.partition(".")[0] != "events"} - {"bindings"}))
    return set(run("-n", name, "get", asked, "-o", "name", "--ignore-not-found").split())
