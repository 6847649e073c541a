"""What holds for every pod of every scenario: PodSecurity `restricted`, resources, probes, one worker, GPUs and their nodes."""

import pytest

from charts.tools import helm
from tests.charts import scenarios
from tests.charts.scenarios import Scenario

STARTUP = {"vllm": 1800}  # it compiles
every_scenario = pytest.mark.parametrize("scenario", scenarios.AVAILABLE, ids=str)


@every_scenario
def test_pod_security_restricted(scenario: Scenario):
    for name, role, spec in scenarios.components(scenario):
        assert spec["automountServiceAccountToken"] is False, (name, role)
        assert all(set(volume) <= {"name", "emptyDir", "secret", "persistentVolumeClaim"} for volume in spec["volumes"])
        for each in spec["containers"] + spec.get("initContainers", []):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            }


@every_scenario
def test_resources_and_images(scenario: Scenario):
    for name, role, spec in scenarios.components(scenario):
        for each in spec["containers"] + spec.get("initContainers", []):
            assert set(each["resources"]["requests"]) == {"cpu", "memory"}, (name, role)
            assert set(each["resources"]["limits"]) >= {"cpu", "memory"}
            tag = each["image"].rpartition("/")[2].partition(":")[2]
            assert tag
            assert tag != "latest"
        (tmp,) = (volume for volume in spec["volumes"] if volume["name"] == "tmp")
        assert tmp["emptyDir"]["sizeLimit"]
        mounts = {mount["name"]: mount["mountPath"] for mount in scenarios.container(spec)["volumeMounts"]}
        assert mounts["tmp"] == scenarios.environment(spec)["HOME"]


@every_scenario
def test_flags_and_probes(scenario: Scenario):
    for name, role, spec in scenarios.components(scenario):
        each = scenarios.container(spec)
        assert {f"--model_name={name}", "--workers=1", "--http_port=8080"} <= set(each["args"])
        assert ("--predictor_protocol=v2" in each["args"]) == (role == "transformer")
        ready = {"path": f"/v2/models/{name}/ready", "port": 8080}
        assert each["readinessProbe"]["httpGet"] == ready
        if name != "whisper-base" and role == "predictor":  # weights that take a while
            assert each["startupProbe"]["httpGet"] == ready
            seconds = STARTUP.get(scenarios.environment(spec).get("BACKEND"), 600)
            assert each["startupProbe"]["periodSeconds"] * each["startupProbe"]["failureThreshold"] == seconds
        assert each["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 8080}


@every_scenario
def test_gpu_nodes_if_and_only_if_gpus(scenario: Scenario):
    for name, role, spec in scenarios.components(scenario):
        limits = scenarios.container(spec)["resources"]["limits"]
        gpus = {key: count for key, count in limits.items() if "/" in key}
        assert bool(gpus) == ("nodeSelector" in spec), (name, role)
        assert bool(gpus) == (scenarios.environment(spec).get("DEVICE") == "cuda")
        assert gpus in ({}, {"nvidia.com/gpu": "1"})
        if not gpus:
            assert not {"tolerations", "runtimeClassName"} & set(spec)


@every_scenario
def test_an_overlay_leaves_no_label_of_another_platform(scenario: Scenario):
    prefixes = {
        "": "nvidia.com/gpu.product",
        "kind": "nvidia.com/gpu.present",
        "gke": "cloud.google.com/gke-accelerator",
        "eks": "karpenter.k8s.aws/",
        "aks": "node.kubernetes.io/instance-type",
    }
    labels = {label for _, _, spec in scenarios.components(scenario) for label in spec.get("nodeSelector", {})}
    assert all(label.startswith(prefixes[scenario.platform]) for label in labels)


@pytest.mark.parametrize("overlay", scenarios.OVERLAYS, ids=lambda file: file.stem)
def test_overlays_change_the_way_to_the_nodes_only(overlay):
    """Kind's besides asks for less, on a laptop."""
    plain, over = ("--values", str(scenarios.named("gpu-t4").ci)), ("--values", str(overlay))
    (before,), (after,) = helm.objects(*plain), helm.objects(*over, *plain)
    for service in (before, after):
        service["spec"]["predictor"].pop("nodeSelector")
        service["spec"]["predictor"].pop("tolerations", None)
        if overlay.stem == "values-kind":
            service["spec"]["transformer"]["containers"][0]["resources"].pop("requests")
    assert before == after
