"""An InferenceService as the cluster sees it: its parts, their revisions, how the traffic is split, its pods and their logs."""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.e2e import kubectl
from tests.e2e.kubectl import Object
from tests.e2e.waiting import until

Role = Literal["predictor", "transformer"]
ROLES: tuple[Role, Role] = ("predictor", "transformer")
CONTAINER = "kserve-container"
READY_SECONDS = 180.0


@dataclass(frozen=True)
class InferenceService:
    """One InferenceService in Knative mode; `part` names its predictor or its transformer."""

    namespace: str
    name: str

    def get(self) -> Object:
        """The object."""
        return kubectl.get("-n", self.namespace, "inferenceservice", self.name)

    def until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Returns once it is ready."""
        until(f"{self.name} ready", lambda: kubectl.is_true(self.get(), "Ready"), seconds)

    def host(self) -> str:
        """The host name that the gateway knows it by."""
        return urlsplit(str(self.get()["status"]["url"])).netloc

    # --- revisions ---

    def part(self, role: Role) -> Object:
        """The Knative service of a part."""
        return kubectl.get("-n", self.namespace, "services.serving.knative.dev", f"{self.name}-{role}")

    def newest(self, role: Role) -> str:
        """The revision that was made last, ready or not."""
        name: str = self.part(role)["status"]["latestCreatedRevisionName"]
        return name

    def until_newer(self, role: Role, than: str) -> str:
        """The revision that is made after `than`."""
        return until(f"a {role} revision after {than}", lambda: _other(self.newest(role), than), 60)

    def revision(self, name: str) -> Object:
        """A revision."""
        return kubectl.get("-n", self.namespace, "revisions.serving.knative.dev", name)

    def split(self, role: Role) -> dict[str, int]:
        """Percent of the requests by revision, those with none left out; empty while a change is on its way."""
        settled = all(_settled(each) for each in (self.part(role), self._route(role)))
        return self.shares(role) if settled else {}

    def shares(self, role: Role) -> dict[str, int]:
        """The same, also while a change is on its way, or cannot be made."""
        shares: dict[str, int] = {}
        for target in self._route(role)["status"]["traffic"]:
            shares[target["revisionName"]] = shares.get(target["revisionName"], 0) + target.get("percent", 0)
        return {name: percent for name, percent in shares.items() if percent}

    def _route(self, role: Role) -> Object:
        return kubectl.get("-n", self.namespace, "routes.serving.knative.dev", f"{self.name}-{role}")

    def until_split(self, role: Role, wanted: dict[str, int], seconds: float = READY_SECONDS) -> None:
        """Returns once the gateway has the shares `wanted`."""
        until(f"{role} traffic {wanted}", lambda: self.split(role) == wanted, seconds)

    # --- pods ---

    def pods(self, role: Role | None = None) -> list[Object]:
        """The pods, those that are going included."""
        selector = f"serving.kserve.io/inferenceservice={self.name}" + (f",component={role}" if role else "")
        return kubectl.items("-n", self.namespace, "pods", "-l", selector)

    def until_pod(self, role: Role) -> Object:
        """The one pod of a part that stays, ready."""

        def find() -> Object | None:
            staying = [pod for pod in self.pods(role) if "deletionTimestamp" not in pod["metadata"]]
            return staying[0] if len(staying) == 1 and kubectl.is_true(staying[0], "Ready") else None

        return until(f"one {role} pod", find, READY_SECONDS)


def container(pod: Object) -> Object:
    """The state of the container with our code in it; empty before there is one."""
    found = pod.get("status", {}).get("containerStatuses", [])
    return next((each for each in found if each["name"] == CONTAINER), {})


def logs(pod: Object) -> list[Object]:
    """The log of our container, parsed; empty before it runs."""
    if "running" not in container(pod).get("state", {}):
        return []
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    text = kubectl.run("-n", namespace, "logs", name, "-c", CONTAINER, "--tail=-1")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def metrics(pod: Object, name: str) -> dict[str, float]:
    """The values of a metric of a pod by its one label's value."""
    meta = pod["metadata"]
    text = kubectl.run("get", "--raw", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:8080/proxy/metrics")
    return {label: float(value) for label, value in re.findall(rf'^{name}\{{\w+="(.*?)"\}} (\S+)$', text, re.MULTILINE)}


def _settled(thing: Any) -> bool:
    status = thing.get("status", {})
    return status.get("observedGeneration") == thing["metadata"]["generation"] and kubectl.is_true(thing, "Ready")


def _other(name: str, than: str) -> str | None:
    return None if name == than else name
