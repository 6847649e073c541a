"""A second release, whose predictor wants a GPU: pending without a node for it, scheduled with one, and gone without a trace.

The GPU is a number in a node's status, the pod computes on the CPU: what is tested is where it is scheduled.
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests.bench.report import Section
from tests.e2e import kubectl
from tests.e2e.conftest import MODEL, RESTRICTED, Deployed, deploy, reach
from tests.e2e.kubectl import Object
from tests.e2e.release import Release
from tests.e2e.service import InferenceService
from tests.e2e.target import Target
from tests.e2e.waiting import until

GPU = "nvidia.com/gpu"
LABELS = ("nvidia.com/gpu.present", "nvidia.com/gpu.product")
PRODUCT = "Sonotome-E2E"  # which no node has
PROFILE = "t4"


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A node without GPUs that takes pods; its labels and resources are put back."""
    nodes = [
        each
        for each in kubectl.items("nodes")
        if GPU not in each["status"]["allocatable"] and not each["spec"].get("taints")
    ]
    assert nodes, "every node has GPUs or a taint"
    labels = nodes[0]["metadata"]["labels"]
    name: str = nodes[0]["metadata"]["name"]
    yield name
    _label(name, {label: labels.get(label) for label in LABELS})
    _advertise(name, None)


@pytest.fixture(scope="module")
def release(target: Target) -> Iterator[Release]:
    """A release that is still to be installed, in a namespace of its own."""
    with kubectl.namespace(f"{target.namespace}-gpu", **RESTRICTED) as namespace:
        yield Release(target, namespace)


def _label(node: str, labels: dict[str, str | None]) -> None:
    kubectl.run("label", "node", node, "--overwrite", *(f"{k}={v}" if v else f"{k}-" for k, v in labels.items()))


def _advertise(node: str, count: int | None) -> None:
    """What a device plugin does, and undoes with None."""
    amount = {GPU: count if count is None else str(count)}
    patch = {"status": {"capacity": amount, "allocatable": amount}}
    kubectl.run("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(patch))


def _pending(service: InferenceService, why: str) -> Object | None:
    """The predictor's pod if it waits for a node for the reason given."""
    for pod in service.pods("predictor"):
        scheduled = kubectl.condition(pod, "PodScheduled")
        if scheduled.get("status") == "False" and why in scheduled.get("message", ""):
            return pod
    return None


@pytest.fixture(scope="module")
def scheduled(release: Release, node: str, hello: bytes, figures: Section) -> tuple[list[str], Deployed, Object]:
    """Why the predictor's pod waited, the release once it answers, and the pod."""
    service = deploy(
        release,
        f"gpuProfiles.{PROFILE}.nodeSelector.nvidia\\.com/gpu\\.product={PRODUCT}",
        f"models.{MODEL}.predictor.gpu.profile={PROFILE}",
        f"models.{MODEL}.predictor.gpu.count=1",
        f"models.{MODEL}.predictor.env.DEVICE=auto",
    )
    waited = []
    for why in ("didn't match Pod's node affinity/selector", f"Insufficient {GPU}"):
        until(f"a predictor pod that waits: {why}", lambda: _pending(service, why), 60)  # noqa: B023  # called here only
        waited.append(why)
        _label(node, dict(zip(LABELS, ("true", PRODUCT), strict=True)))
    begun = time.monotonic()
    _advertise(node, 1)
    service.until_ready()
    figures.row("a node gets the GPU that a pod waits for → ready", f"{time.monotonic() - begun:.1f} s")
    return waited, reach(release, service, hello), service.until_pod("predictor")


@pytest.mark.timeout(420)
def test_a_pod_waits_for_its_gpu_and_gets_it(scheduled: tuple[list[str], Deployed, Object], node: str) -> None:
    waited, deployed, pod = scheduled
    assert len(waited) == 2
    assert pod["spec"]["nodeName"] == node
    (limits,) = [
        each["resources"]["limits"] for each in pod["spec"]["containers"] if each["name"] == "kserve-container"
    ]
    assert limits[GPU] == "1"
    assert GPU not in json.dumps([each["spec"] for each in deployed.service.pods("transformer")])


@pytest.mark.timeout(420)
def test_uninstalling_leaves_nothing(
    release: Release, scheduled: tuple[list[str], Deployed, Object], figures: Section
) -> None:
    there = kubectl.listing(release.namespace)
    assert len([each for each in there if each.startswith("networkpolicy")]) == 2
    begun = time.monotonic()
    release.uninstall()
    left = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    until("an empty namespace", lambda: kubectl.listing(release.namespace) <= left, 180)
    figures.row("helm uninstall → nothing left", f"{time.monotonic() - begun:.0f} s")
