"""What is let into the cluster: the pods under PodSecurity `restricted`, and what their network policies select.

The policies' effect is not tested: that is the network plugin's, and kind's stand-in here enforces none.
"""

import pytest

from tests.e2e import kubectl
from tests.e2e.conftest import Deployed
from tests.e2e.service import ROLES, Role

pytestmark = pytest.mark.usefixtures("awake")
AS_ROOT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "as-root"},
    "spec": {"containers": [{"name": "c", "image": "dev.local/none:1", "securityContext": {"runAsUser": 0}}]},
}


def test_the_namespace_is_restricted_and_the_pods_are_in_it(deployed: Deployed) -> None:
    namespace = deployed.service.namespace
    with pytest.raises(kubectl.KubectlError, match='violates PodSecurity "restricted'):
        kubectl.run("-n", namespace, "create", "--dry-run=server", "-f", "-", stdin=AS_ROOT)
    for role in ROLES:
        assert deployed.service.until_pod(role)["metadata"]["namespace"] == namespace


@pytest.mark.parametrize("role", ROLES)
def test_a_network_policy_selects_the_pods_of_its_part(deployed: Deployed, role: Role) -> None:
    service = deployed.service
    pod = service.until_pod(role)
    spec = kubectl.get("-n", service.namespace, "networkpolicy", f"{service.name}-{role}")["spec"]
    selected = kubectl.items("-n", service.namespace, "pods", "-l", _selector(spec["podSelector"]["matchLabels"]))
    parts = {each["metadata"]["labels"]["serving.knative.dev/service"] for each in selected}
    assert parts == {f"{service.name}-{role}"}
    assert pod["metadata"]["name"] in {each["metadata"]["name"] for each in selected}


@pytest.mark.parametrize("role", ROLES)
def test_a_network_policy_lets_the_data_plane_in(deployed: Deployed, role: Role) -> None:
    service = deployed.service
    spec = kubectl.get("-n", service.namespace, "networkpolicy", f"{service.name}-{role}")["spec"]
    (rule,) = spec["ingress"]
    ((expression,),) = [peer["namespaceSelector"]["matchExpressions"] for peer in rule["from"]]
    for namespace in expression["values"]:
        running = kubectl.items("-n", namespace, "pods", "--field-selector", "status.phase=Running")
        assert running, f"nothing runs in {namespace}: dataPlaneNamespaces are not this cluster's"
    proxies = [each for each in service.until_pod(role)["spec"]["containers"] if each["name"] == "queue-proxy"]
    (listening,) = [{port["name"]: port["containerPort"] for port in proxy["ports"]} for proxy in proxies]
    open_ports = {port["port"] for port in rule["ports"]}
    assert {listening["queue-port"], listening["https-port"], listening["http-autometric"]} == open_ports


def _selector(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())
