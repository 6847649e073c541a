"""A predictor that is killed while it works: calls are repeated or refused, none is lost, and it comes back by itself."""

import json
import time

import pytest

from tests.bench.report import Section
from tests.e2e import kubectl
from tests.e2e.conftest import Deployed
from tests.e2e.kubectl import Object
from tests.e2e.load import Load
from tests.e2e.service import container
from tests.e2e.waiting import until
from tests.integration.clips import words

CLIENTS = 4
KILL = """
import os, pathlib, signal, sys, time
killed = 0
for cgroup in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
    try:
        if sys.argv[1] in cgroup.read_text():
            os.kill(int(cgroup.parent.name), signal.SIGKILL)
            killed += 1
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
print(time.time())
sys.exit(not killed)
"""


def sigkill(pod: Object, namespace: str) -> float:
    """Kills the container as the node's kernel would, from a pod that sees the node's processes: PID 1 is safe from its own.

    The Unix time at which it did.
    """
    chosen = container(pod)
    killer = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sigkill", "namespace": namespace},
        "spec": {
            "hostPID": True,
            "nodeName": pod["spec"]["nodeName"],
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "sigkill",
                    "image": next(c["image"] for c in pod["spec"]["containers"] if c["name"] == chosen["name"]),
                    "command": ["python", "-c", KILL, chosen["containerID"].rpartition("/")[2]],
                    "securityContext": {"runAsUser": 0},
                }
            ],
        },
    }
    kubectl.run("create", "-f", "-", stdin=killer)

    def ended() -> bool:
        phase = kubectl.get("-n", namespace, "pod", "sigkill")["status"]["phase"]
        assert phase != "Failed"
        return bool(phase == "Succeeded")

    until("the container killed", ended, 60)
    return float(kubectl.run("-n", namespace, "logs", "sigkill"))


@pytest.mark.timeout(420)
def test_a_killed_predictor(deployed: Deployed, hello: bytes, figures: Section) -> None:
    service, gateway = deployed.service, deployed.gateway
    with kubectl.namespace(f"{service.namespace}-node") as beside, Load(gateway, hello, CLIENTS) as load:
        load.until_answered(2, 120)
        pod = service.until_pod("predictor")
        before = len(load.outcomes)
        killed = sigkill(pod, beside)

        def restarted() -> bool:
            return any(
                container(each).get("restartCount") == 1 and container(each)["ready"]
                for each in service.pods("predictor")
            )

        until("the container started again", restarted, 120)
        back = time.time()
        load.until_answered(2, 120)
    assert all(each.status == 200 for each in load.outcomes[:before])
    refused = load.failed
    figures.row("predictor killed → ready again", f"{back - killed:.1f} s")
    figures.row(
        f"calls of {CLIENTS} clients meanwhile",
        f"{len(load.outcomes) - before}, of which refused with 503: {len(refused)}",
    )
    assert {each.status for each in refused} <= {503}, refused
    for each in refused:
        assert json.loads(each.body)["error"]["type"] == "server_error"
        assert each.retry_after is not None
    answered = [each for each in load.outcomes if each.status == 200]
    assert {" ".join(words(json.loads(each.body)["text"])) for each in answered} == {"hello world"}
