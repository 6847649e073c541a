"""manifests/cluster: the settings of Knative and KServe that the chart relies on, no more and no less."""

import json
import re

import kubernetes_validate
import pytest
import yaml

from charts.tools import helm
from tests.charts import scenarios

FOLDER = helm.ROOT / "manifests" / "cluster"
FILES = sorted(FOLDER.glob("*/*.yaml"))
# What Knative refuses in a pod unless the flags are enabled (its feature flags; containers checked by hand).
FLAGS = {
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "tolerations": "kubernetes.podspec-tolerations",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "initContainers": "kubernetes.podspec-init-containers",
    "securityContext": "kubernetes.podspec-securitycontext",
    "affinity": "kubernetes.podspec-affinity",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim kubernetes.podspec-persistent-volume-write",
}
# Fields of a pod and of its volumes that Knative always takes.
FREE = {
    *("name", "emptyDir", "secret"),
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "imagePullSecrets",
    "serviceAccountName",
    "volumes",
}
KSERVE = {
    *("annotations", "canaryTrafficPercent", "containerConcurrency", "labels", "maxReplicas", "minReplicas"),
    *("scaleMetric", "scaleTarget", "timeout"),
}


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def test_features_are_those_that_pods_need():
    used = set()
    for scenario in scenarios.AVAILABLE:
        if str(scenario).startswith("standard-mode"):
            continue
        for _, _, spec in scenarios.components(scenario):
            fields = set(spec).union(*spec["volumes"])
            used |= fields - FREE - KSERVE
    features = load("knative/config-features.yaml")["data"]
    assert features == {flag: "enabled" for field in used for flag in FLAGS[field].split()}


def test_timeouts_agree():
    longest = load("knative/config-defaults.yaml")["data"]["max-revision-timeout-seconds"]
    activator = load("knative/activator.yaml")["spec"]["template"]["spec"]
    assert int(longest) == activator["terminationGracePeriodSeconds"]
    assert max(entry.get("timeout", 0) for entry in helm.values()["models"].values()) <= int(longest)


def test_the_default_registry_is_not_asked():
    skipped = load("knative/config-deployment.yaml")["data"]["registries-skipping-tag-resolving"].split(",")
    assert helm.values()["global"]["registry"].split("/")[0] in skipped


def test_kourier():
    ingress = json.loads(load("kserve/with-kourier.yaml")["data"]["ingress"])
    assert ingress["disableIstioVirtualHost"] is True


def test_the_storage_container_passes_restricted():
    context = load("kserve/storage-container.yaml")["spec"]["container"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_setting_has_its_reason_and_its_place(file):
    text = file.read_text()
    assert "# " in text
    each = yaml.safe_load(text)
    if each["kind"] == "ConfigMap":
        kubernetes_validate.validate(each, "1.34", strict=True)
        assert all(isinstance(value, str) for value in each["data"].values())
    readme = (FOLDER / "README.md").read_text()
    assert file.name in readme or re.search(rf"manifests/cluster/{file.parent.name}\s", readme)
