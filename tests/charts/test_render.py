"""Every scenario renders, and what comes out is what the API server takes, field by field."""

import copy

import kubernetes_validate
import pytest

from charts.tools import helm, manifests
from tests.charts import scenarios, strict
from tests.charts.scenarios import Scenario

KUBERNETES = "1.34"
POD_MONITOR_ENDPOINT = {"port", "path", "interval"}


@pytest.mark.parametrize("ci", scenarios.CI, ids=lambda file: file.stem)
def test_lint(ci):
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(helm.CHART), "--values", str(ci))


@pytest.mark.parametrize("scenario", scenarios.AVAILABLE, ids=str)
def test_inference_services_by_kserve_models(scenario: Scenario):
    services = scenarios.services(scenario)
    assert services
    for name, service in services.items():
        assert strict.problems(service, "V1beta1InferenceService", name) == []


@pytest.mark.parametrize("scenario", scenarios.PLAIN, ids=str)
def test_inference_services_by_the_crd(scenario: Scenario):
    file = strict.crd_file()
    if file is None:
        pytest.skip(
            f"the CRD comes out of {strict.release()[0]} by Go, which is not installed: the model classes checked alone"
        )
    for service in scenarios.services(scenario).values():
        errors = strict.crd_validator(file).iter_errors(service)
        assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("scenario", scenarios.PLAIN, ids=str)
def test_everything_else_by_kubernetes(scenario: Scenario):
    for each in scenarios.objects(scenario):
        if each["kind"] not in ("InferenceService", "PodMonitor"):
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_pods_by_kubernetes():
    """KServe passes the pod's fields on: as a Pod they must be valid too, quantities and probes included."""
    for scenario in scenarios.PLAIN:
        for name, role, spec in scenarios.components(scenario):
            pod = {
                key: value
                for key, value in spec.items()
                if key in strict.kubernetes.client.V1PodSpec.attribute_map.values()
            }
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-{role}"}, "spec": pod}
            kubernetes_validate.validate(made, KUBERNETES, strict=True)


def test_pod_monitor_has_known_fields():
    """Prometheus Operator's CRD has them since its first version with PodMonitor."""
    (monitor,) = (each for each in scenarios.objects(scenarios.named("locked-down")) if each["kind"] == "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == POD_MONITOR_ENDPOINT
    assert endpoint["port"] == "user-port"


def test_one_service_a_model():
    kinds = [each["kind"] for each in scenarios.objects(scenarios.named("all-models"))]
    assert kinds == ["InferenceService"] * len(manifests.models())
    assert helm.objects() == []


@pytest.mark.parametrize("scenario", [each for each in scenarios.ALL if not each.available], ids=str)
def test_a_platform_without_the_nodes_refuses_by_name(scenario: Scenario):
    with pytest.raises(
        helm.HelmError, match=r"gpu\.profile is l4, which is none of gpuProfiles: a100-40gb, a100-80gb, h100, t4"
    ):
        helm.template(*scenario.files)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("spec", "predictor", "canaryTraficPercent"), 20, "V1beta1PredictorSpec has no such field"),
        (("spec", "predictor", "minReplicas"), "0", "'0' is no int"),
        (("spec", "predictor", "automountServiceAccountToken"), "false", "'false' is no bool"),
    ],
)
def test_the_strict_checks_can_fail(path, value, expected):
    service = copy.deepcopy(scenarios.services(scenarios.named("cpu-demo"))["whisper-base"])
    at = service
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (problem,) = strict.problems(service, "V1beta1InferenceService", "service")
    assert problem == f"service.{'.'.join(path)}: {expected}"
    file = strict.crd_file()
    if file is not None:
        assert not strict.crd_validator(file).is_valid(service)
