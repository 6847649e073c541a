"""Knative and Standard: scaling, canary, ports, shutdown, weights, keys and networks as each mode wants them."""

import pytest

from charts.tools import helm
from tests.charts import scenarios

BASE = ("--set", "models.whisper-base.enabled=true")
STANDARD = (
    *("--set", "deploymentMode=Standard"),
    *("--set", "models.whisper-base.predictor.scaling.min=1"),
    *("--set", "transformers.audio.scaling.min=1"),
)


def service(*arguments: str) -> scenarios.Object:
    (only,) = helm.objects(*BASE, *arguments)
    return only


def test_knative_scaling_and_annotations():
    (made,) = scenarios.services(scenarios.named("scale-to-zero")).values()
    assert made["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Knative"}
    predictor, transformer = made["spec"]["predictor"], made["spec"]["transformer"]
    assert (predictor["minReplicas"], predictor["scaleMetric"], predictor["scaleTarget"]) == (0, "concurrency", 4)
    assert predictor["annotations"] == {
        "serving.knative.dev/progress-deadline": "1200s",
        "autoscaling.knative.dev/window": "30s",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "1m",
    }
    assert predictor["labels"] == {"networking.knative.dev/visibility": "cluster-local"}
    assert transformer["annotations"]["autoscaling.knative.dev/window"] == "30s"
    assert "labels" not in transformer
    for spec in (predictor, transformer):
        assert "containerConcurrency" not in spec
        assert "terminationGracePeriodSeconds" not in spec
        assert "lifecycle" not in scenarios.container(spec)
        assert "periodSeconds" not in scenarios.container(spec)["readinessProbe"]
        assert scenarios.container(spec)["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
        assert "--enable_grpc=false" in scenarios.container(spec)["args"]


def test_a_startup_probe_is_a_choice():
    """Knative's activator leaves its quick way to a pod that has one."""
    assert "startupProbe" not in scenarios.container(service()["spec"]["predictor"])
    made = service("--set", "models.whisper-base.predictor.startupProbe=true")
    assert scenarios.container(made["spec"]["predictor"])["startupProbe"]["failureThreshold"] == 600


def test_a_hard_limit_is_passed_to_knative():
    spec = service("--set", "models.whisper-base.predictor.scaling.concurrency=8")["spec"]
    assert spec["predictor"]["containerConcurrency"] == 8


@pytest.mark.parametrize("percent", [0, 20, 100])
def test_canary_of_the_predictor(percent):
    spec = service("--set", f"models.whisper-base.canary.trafficPercent={percent}")["spec"]
    assert spec["predictor"]["canaryTrafficPercent"] == percent
    assert "canaryTrafficPercent" not in spec["transformer"]


def test_canary_of_the_transformer():
    spec = service("--set", "models.whisper-base.canary.transformerTrafficPercent=5")["spec"]
    assert spec["transformer"]["canaryTrafficPercent"] == 5
    assert "canaryTrafficPercent" not in spec["predictor"]


def test_no_canary_is_no_field():
    assert all("canaryTrafficPercent" not in part for part in service()["spec"].values())


def test_a_canary_changes_nothing_but_image_and_share():
    """A field that changed besides would make a revision of its own."""
    before = service()
    (after,) = scenarios.services(scenarios.named("canary")).values()
    assert after["spec"]["transformer"] == before["spec"]["transformer"]
    assert after["spec"]["predictor"].pop("canaryTrafficPercent") == 20
    changed = scenarios.container(after["spec"]["predictor"])
    image = scenarios.container(before["spec"]["predictor"])["image"]
    assert changed["image"] != image
    assert changed["image"].partition(":")[0] == image.partition(":")[0]
    changed["image"] = image
    assert after == before


def test_a_chart_version_makes_no_revision():
    """KServe copies labels and annotations of the InferenceService into its pods."""
    metadata = service()["metadata"]
    assert set(metadata["labels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert set(metadata["annotations"]) == {"serving.kserve.io/deploymentMode"}


def test_standard_mode():
    made = service(*STANDARD, "--set", "models.whisper-base.timeout=100")
    assert made["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "hpa",
    }
    for spec in made["spec"].values():
        assert (spec["minReplicas"], spec["scaleMetric"], spec["scaleTarget"]) == (1, "cpu", 80)
        assert "annotations" not in spec
        each = scenarios.container(spec)
        assert [port["containerPort"] for port in each["ports"]] == [8080, 8081]
        assert "--enable_grpc=true" in each["args"]
        assert each["startupProbe"]["httpGet"] == each["readinessProbe"]["httpGet"]
        pause = each["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = float(scenarios.environment(spec)["GRACE_SECONDS"])
        assert grace == 100
        assert spec["terminationGracePeriodSeconds"] > pause + grace


def test_both_pods_give_up_before_the_mesh_does():
    spec = service("--set", "models.whisper-base.timeout=100")["spec"]
    assert spec["predictor"]["timeout"] == spec["transformer"]["timeout"] == 100
    assert {scenarios.environment(part)["REQUEST_TIMEOUT_SECONDS"] for part in spec.values()} == {"95"}


def test_weights_from_an_image():
    (made,) = scenarios.services(scenarios.named("cpu-demo")).values()
    predictor = made["spec"]["predictor"]
    (copy,) = predictor["initContainers"]
    assert copy["image"] == f"dev.local/sonotome/demo-weights:{scenarios.APP_VERSION}"
    assert {"name": "weights", "mountPath": "/mnt/models", "readOnly": True} in scenarios.container(predictor)[
        "volumeMounts"
    ]
    assert scenarios.environment(predictor)["MODEL_ID"] == "/mnt/models"
    assert scenarios.environment(predictor)["HF_HUB_OFFLINE"] == "1"
    assert "initContainers" not in made["spec"]["transformer"]


def test_weights_by_kserve():
    (made,) = scenarios.services(scenarios.named("gpu-t4")).values()
    assert scenarios.environment(made["spec"]["predictor"])["STORAGE_URI"] == "pvc://weights/whisper-medium"
    assert scenarios.environment(made["spec"]["predictor"])["MODEL_ID"] == "/mnt/models"
    assert "STORAGE_URI" not in scenarios.environment(made["spec"]["transformer"])


def test_weights_from_a_hub():
    environment = scenarios.environment(service()["spec"]["predictor"])
    assert environment["MODEL_ID"] == "base"
    assert not {"STORAGE_URI", "HF_HUB_OFFLINE"} & set(environment)


def test_an_entry_has_the_last_word_on_its_environment():
    own = "models.whisper-base.predictor.env"
    made = service("--set", f"{own}.HOME=", "--set", f"{own}.LOG_LEVEL=DEBUG")
    environment = scenarios.environment(made["spec"]["predictor"])
    assert environment["HOME"] == ""
    assert environment["LOG_LEVEL"] == "DEBUG"
    assert environment["BACKEND"] == "ctranslate2"


def test_a_forced_language_is_known_to_the_transformer_too():
    made = service("--set", "models.whisper-base.predictor.env.LANGUAGE_FORCE=fa")
    assert {scenarios.environment(spec)["LANGUAGE_FORCE"] for spec in made["spec"].values()} == {"fa"}
    assert not any("LANGUAGE_FORCE" in scenarios.environment(spec) for spec in service()["spec"].values())


def test_what_only_speech_has_goes_to_no_other_pipeline():
    forced = ("--set", "models.audio-caption.predictor.env.LANGUAGE_FORCE=fa")
    (made,) = helm.objects("--set", "models.audio-caption.enabled=true", *forced)
    assert not {"LANGUAGE_FORCE", "STREAM_SESSION_SECONDS"} & set(scenarios.environment(made["spec"]["transformer"]))
    speech = scenarios.environment(
        service("--set", "models.whisper-base.transformer.env.PIPELINE=speech")["spec"]["transformer"]
    )
    assert "STREAM_SESSION_SECONDS" in speech


def test_api_keys_on_both_pods():
    for _, _, spec in scenarios.components(scenarios.named("locked-down")):
        (volume,) = (volume for volume in spec["volumes"] if "secret" in volume)
        assert volume["secret"]["secretName"] == "sonotome-api-keys"
        (mount,) = (mount for mount in scenarios.container(spec)["volumeMounts"] if mount["name"] == volume["name"])
        assert mount["readOnly"] is True
        assert scenarios.environment(spec)["API_KEYS_FILE"] == mount["mountPath"] + "/keys"
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert scenarios.container(spec)["image"].startswith("registry.example.com/speech/")


def test_no_user_is_left_to_the_cluster():
    spec = service("--set", "global.podSecurity.runAsUser=null", "--set", "global.podSecurity.runAsGroup=null")["spec"]
    context = scenarios.container(spec["predictor"])["securityContext"]
    assert not {"runAsUser", "runAsGroup"} & set(context)
    assert context["runAsNonRoot"] is True


def test_a_secret_setting_comes_from_its_secret():
    spec = scenarios.services(scenarios.named("locked-down"))["ct-clip"]["spec"]["transformer"]
    (found,) = (each for each in scenarios.container(spec)["env"] if each["name"] == "DICOMWEB_AUTHORIZATION")
    assert found == {
        "name": "DICOMWEB_AUTHORIZATION",
        "valueFrom": {"secretKeyRef": {"name": "pacs", "key": "authorization"}},
    }
