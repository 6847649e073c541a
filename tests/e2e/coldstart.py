"""Where the time of a start from zero goes, pod by pod: from the watch of the pods, the pod's own log and its metrics."""

import datetime as dt
import re
from dataclasses import dataclass

from tests.e2e import kubectl
from tests.e2e.kubectl import Object, PodWatch
from tests.e2e.service import logs, metrics

_PULLED = re.compile(r"Successfully pulled image .*? in (?:(\d+)m)?(?:([\d.]+)s)?(?:([\d.]+)ms)?")


@dataclass(frozen=True)
class Start:
    """How a pod came up, in seconds since the call that woke it."""

    wanted: float
    """The pod object was made."""
    scheduled: float
    """It had a node."""
    process: float
    """Our process ran: the weights were there, the sandbox was set up, Python had begun."""
    ready: float
    """The model answered its warm-up, or the transformer had its decoders."""
    pull: float
    """Seconds that pulling images took; 0 for images on the node."""
    phases: dict[str, float]
    """Phase of the process (import, load, warmup, ready) to the seconds after its start at which it was over."""

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.phases.items())
        return (
            f"wanted {self.wanted:.2f}, scheduled {self.scheduled:.2f}, pull {self.pull:.2f}, process {self.process:.2f} "
            f"({phases}), ready {self.ready:.2f}"
        )


def start_of(pod: Object, watch: PodWatch, called: float) -> Start:
    """How `pod` came up after a call at Unix time `called`. The clocks of the node and of this machine should agree."""
    name = pod["metadata"]["name"]
    states = [(when - called, state) for when, state in watch.states if state["metadata"]["name"] == name]
    phases = metrics(pod, "cold_start_seconds")
    (record,) = [each for each in logs(pod) if each.get("message") == "ready"]
    ready = dt.datetime.fromisoformat(record["time"]).replace(tzinfo=dt.UTC).timestamp() - called
    return Start(
        wanted=states[0][0],
        scheduled=next(when for when, state in states if "nodeName" in state["spec"]),
        process=ready - phases["ready"],
        ready=ready,
        pull=_pull_seconds(pod),
        phases=phases,
    )


def _pull_seconds(pod: Object) -> float:
    meta = pod["metadata"]
    chosen = f"involvedObject.name={meta['name']},reason=Pulled"
    events = kubectl.items("-n", meta["namespace"], "events", "--field-selector", chosen)
    found = (_PULLED.search(event["message"]) for event in events)
    units = (60.0, 1.0, 0.001)
    return sum(
        float(part) * unit for match in found if match for part, unit in zip(match.groups(), units, strict=True) if part
    )
