"""Words that YAML reads as something else, image names, transformers that say little: what comes out is what was meant."""

import json

import kubernetes_validate
import pytest
import yaml

from charts.tools import helm
from tests.charts import scenarios, strict
from tests.charts.test_render import KUBERNETES

WEIGHTS_IMAGE = "models.whisper-base.predictor.weights.image"
DIGEST = f"sha256:{64 * 'a'}"


def rendered(values: dict, release: str = "sonotome", folder=None) -> list[scenarios.Object]:
    """The objects that these values make. Arguments of Helm would need its own escapes."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    return [
        each
        for each in yaml.safe_load_all(helm.run("template", release, str(helm.CHART), "--values", str(file)))
        if each
    ]


@pytest.mark.parametrize("odd", ["null", "true", "yes", "on", "y", "off", "n"])
def test_words_of_yaml_stay_words(odd, tmp_path):
    """As names of a model, a Secret, a runtime class and the like; a release and an account may be numbers, an image a time."""
    made = rendered(
        {
            "global": {
                "registry": "",
                "serviceAccount": "123",
                "pullSecrets": ["007"],
                "apiKeys": {"secretName": odd, "key": odd},
                "networkPolicy": {"enabled": True, "dataPlaneNamespaces": ["123"]},
                "podMonitor": {"enabled": True, "labels": {"release": odd, "app.kubernetes.io/name": odd}},
            },
            "gpuProfiles": {"t4": {"runtimeClassName": odd, "nodeSelector": {"gpu": "true"}}},
            "transformers": {odd: {"module": odd, "image": {"repository": "12", "tag": "30"}}},
            "models": {
                odd: {
                    "enabled": True,
                    "description": odd,
                    "predictor": {
                        "module": odd,
                        "image": {"repository": "12", "tag": "30"},
                        "env": {odd.upper(): odd},
                        "weights": {"image": "12:30"},
                        "gpu": {"profile": "t4", "count": 1},
                        "tmpSize": "8Gi",
                    },
                    "transformer": {"name": odd},
                }
            },
        },
        release="123",
        folder=tmp_path,
    )
    by_kind = {
        kind: [each for each in made if each["kind"] == kind]
        for kind in ("InferenceService", "NetworkPolicy", "PodMonitor")
    }
    assert {kind: len(found) for kind, found in by_kind.items()} == {
        "InferenceService": 1,
        "NetworkPolicy": 2,
        "PodMonitor": 1,
    }
    (service,), (monitor,) = by_kind["InferenceService"], by_kind["PodMonitor"]
    assert strict.problems(service, "V1beta1InferenceService", odd) == []
    for policy in by_kind["NetworkPolicy"]:
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)
        assert policy["metadata"]["name"] == f"{odd}-{policy['spec']['podSelector']['matchLabels']['component']}"
        assert policy["spec"]["podSelector"]["matchLabels"]["serving.kserve.io/inferenceservice"] == odd
    assert monitor["metadata"]["name"] == "123"
    assert monitor["metadata"]["labels"]["release"] == odd
    assert monitor["metadata"]["labels"]["app.kubernetes.io/name"] == "sonotome"  # the chart's own stay
    assert all(each["metadata"]["labels"]["app.kubernetes.io/instance"] == "123" for each in made)
    assert service["metadata"]["name"] == odd
    for role, spec in service["spec"].items():
        each = scenarios.container(spec)
        assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("123", [{"name": "007"}])
        assert (each["image"], each["command"]) == ("12:30", ["python", "-m", odd])
        assert each["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{odd}/ready"
        assert f"--model_name={odd}" in each["args"]
        (keys,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
        assert keys == {"secretName": odd, "items": [{"key": odd, "path": "keys"}]}
        assert scenarios.environment(spec).get(odd.upper()) == (odd if role == "predictor" else None)
    predictor = service["spec"]["predictor"]
    assert (predictor["runtimeClassName"], predictor["nodeSelector"]) == (
        odd,
        {"nvidia.com/gpu.product": "Tesla-T4", "gpu": "true"},
    )
    assert predictor["initContainers"][0]["image"] == "12:30"
    assert predictor["volumes"][0]["emptyDir"]["sizeLimit"] == "8Gi"


@pytest.mark.parametrize(("key", "word"), [("modelId", "on"), ("modelId", "007"), ("storageUri", "hf://a/b?c#d")])
def test_weights_stay_words(key, word, tmp_path):
    predictor = {"weights": {key: word}}
    (service,) = rendered({"models": {"whisper-base": {"enabled": True, "predictor": predictor}}}, folder=tmp_path)
    environment = scenarios.environment(service["spec"]["predictor"])
    assert environment["MODEL_ID" if key == "modelId" else "STORAGE_URI"] == word


@pytest.mark.parametrize(
    "image",
    [
        "weights:1",
        "Registry.example.com:5000/a/b__c/d-e.f:1.0_x",
        f"dev.local/sonotome/weights@{DIGEST}",
        f"dev.local/sonotome/weights:latest@{DIGEST}",
    ],
)
def test_image_names(image, tmp_path):
    values = {"models": {"whisper-base": {"enabled": True, "predictor": {"weights": {"image": image}}}}}
    (service,) = rendered(values, folder=tmp_path)
    assert service["spec"]["predictor"]["initContainers"][0]["image"] == image


@pytest.mark.parametrize(
    ("path", "image"),
    [
        *(
            (WEIGHTS_IMAGE, image)
            for image in ("a b:1", "Weights:1", "a//b:1", "-a:1", "a:1@sha256:12", "http://a/b:1", "a:1\nb: 2")
        ),
        *(("global.registry", registry) for registry in ("https://a", "a//b", "/a", "a/B", "a:port/b")),
        *(("models.whisper-base.predictor.image.repository", name) for name in ("a:1", "A", "a/", "a..b", "_a")),
    ],
)
def test_what_is_no_image_name_is_refused(path, image):
    with pytest.raises(helm.HelmError) as refused:
        helm.template("--set", "models.whisper-base.enabled=true", "--set-json", f"{path}={json.dumps(image)}")
    assert f"at '/{path.replace('.', '/')}'" in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"scaling": {}, "resources": {}},
        {"scaling": {"max": 3}, "resources": {"limits": {"cpu": "3"}}},
    ],
)
def test_a_transformer_of_your_own_has_the_defaults_of_a_predictor(said, tmp_path):
    own = {"module": "transformers_pre.video", "image": {"repository": "video"}, **said}
    model = {"enabled": True, "transformer": {"name": "video"}}
    (service,) = rendered({"transformers": {"video": own}, "models": {"whisper-base": model}}, folder=tmp_path)
    spec, defaults = service["spec"]["transformer"], helm.values()["defaults"]["predictor"]
    assert spec["minReplicas"] == defaults["scaling"]["min"]
    assert spec["maxReplicas"] == said.get("scaling", {}).get("max", defaults["scaling"]["max"])
    resources = scenarios.container(spec)["resources"]
    assert resources["requests"] == defaults["resources"]["requests"]
    assert resources["limits"] == {**defaults["resources"]["limits"], **said.get("resources", {}).get("limits", {})}
    assert scenarios.container(spec)["startupProbe"]["failureThreshold"] == defaults["startupSeconds"]
    assert spec["volumes"][0]["emptyDir"]["sizeLimit"] == defaults["tmpSize"]


@pytest.mark.parametrize(
    "settings",
    [
        ("predictor.resources.requests.cpu=4.0", "predictor.resources.requests.memory=2048Mi"),
        ("predictor.resources.requests.cpu=4000m", "predictor.resources.requests.memory=0.002T"),
        ("predictor.scaling.window=6s", "predictor.scaling.retention=0s"),
        ("predictor.scaling.window=1h", "predictor.scaling.retention=59m60s"),
        ("predictor.scaling.window=010s", "transformer.scaling.retention=3600s"),
    ],
    ids=" ".join,
)
def test_what_is_just_allowed(settings):
    assert helm.objects(
        "--set", "models.whisper-base.enabled=true", *(f"--set=models.whisper-base.{each}" for each in settings)
    )
