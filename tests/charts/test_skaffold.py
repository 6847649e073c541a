"""skaffold.yaml: every profile is valid, and deploys what it builds. No cluster, no Docker daemon."""

import os
import re
import subprocess

import pytest
import yaml

from charts.tools import helm, manifests
from tests.charts import programs

PROFILES = {
    "cpu": ({"whisper-base"}, {"audio", "whisper-ct2", "demo-weights"}),
    "one-model": ({"whisper-base"}, {"audio", "predictor"}),
    "gpu": (
        {"whisper-large-v3", "whisper-medium-gpu", "whisper-large-v3-vllm"},
        {"audio", "whisper-ct2", "whisper", "whisper-vllm"},
    ),
}
pytestmark = pytest.mark.timeout(1800)  # the first run may build skaffold


@pytest.fixture(scope="module")
def skaffold(tmp_path_factory):
    program = programs.find("skaffold")
    home = tmp_path_factory.mktemp("home")
    (home / ".skaffold").mkdir()
    (home / ".skaffold" / "config").write_text("global: {collect-metrics: false, update-check: false}\n")
    environment = {"HOME": str(home), "PATH": f"{helm.find().parent}:{os.environ['PATH']}"}

    # With `scratch` there is no base image that it would look up in a registry.
    def run(*arguments, file="skaffold.yaml", base="scratch", **more):
        command = [program, *arguments, "--filename", str(file)]
        env = {**environment, "BASE_IMAGE": base, **more}
        return subprocess.run(command, cwd=helm.ROOT, env=env, capture_output=True, text=True, check=False)

    return run


def rendered(skaffold, profile, **more):
    done = skaffold("render", "--profile", profile, "--offline=true", "--digest-source=tag", **more)
    assert done.returncode == 0, done.stderr
    return {each["metadata"]["name"]: each for each in yaml.safe_load_all(done.stdout) if each}


def images(service):
    for role in ("predictor", "transformer"):
        spec = service["spec"][role]
        yield from (each["image"] for each in [*spec.get("initContainers", []), *spec["containers"]])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_is_valid(skaffold, profile):
    done = skaffold("diagnose", "--profile", profile)
    assert done.returncode == 0, done.stderr
    assert f"Number of artifacts: {len(PROFILES[profile][1])}" in done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_built_is_deployed(skaffold, profile):
    models, artifacts = PROFILES[profile]
    services = rendered(skaffold, profile)
    assert set(services) == models
    used = {image for service in services.values() for image in images(service)}
    # Tags are digests of what goes into an image, so none is the chart's own.
    assert all(re.fullmatch(r"dev\.local/sonotome/[a-z0-9-]+:[0-9a-f]{64}", image) for image in used), used
    assert {image.split("/")[-1].split(":")[0] for image in used} == artifacts


def with_weights() -> list[str]:
    """The Whispers, which can all be deployed as they stand in the catalog."""
    catalog = helm.values()["models"]
    return [name for name in manifests.models() if catalog[name]["predictor"]["module"] == "predictors.whisper"]


def test_one_model_has_its_own_image(skaffold):
    """The lock that goes into the image is the one of the catalog; the image's tag, a digest, follows from it."""
    artifacts = yaml.safe_load((helm.ROOT / "skaffold.yaml").read_text())[".artifacts"]
    (lock,) = [each["docker"]["buildArgs"]["LOCK"] for each in artifacts if each["image"].endswith("/predictor")]
    catalog = {name: helm.values()["models"][name]["predictor"]["image"]["repository"] for name in with_weights()}
    assert dict(re.findall(r'"(whisper\S*)" "(whisper\S*)"', lock)) == catalog
    used = {}
    for name, image in catalog.items():
        ((found, service),) = rendered(skaffold, "one-model", MODEL=name).items()
        assert found == name
        used.setdefault(image, set()).add(service["spec"]["predictor"]["containers"][0]["image"])
    assert [len(images) for images in used.values()] == [1] * len(used)
    assert len(set.union(*used.values())) == len(used)


def test_one_model_refuses_what_is_no_whisper(skaffold):
    done = skaffold("build", "--profile", "one-model", MODEL="audio-caption", DOCKER_HOST="unix:///nowhere")
    assert done.returncode != 0
    assert f"MODEL=audio-caption is none of {', '.join(sorted(with_weights()))}" in done.stderr


def test_another_platform(skaffold):
    service = rendered(skaffold, "gpu", PLATFORM="gke")["whisper-large-v3"]
    assert service["spec"]["predictor"]["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}


def test_the_profiles_for_kind_go_nowhere_else(skaffold):
    name = yaml.safe_load((helm.ROOT / "kind-config.yaml").read_text())["name"]
    profiles = {each["name"]: each for each in yaml.safe_load((helm.ROOT / "skaffold.yaml").read_text())["profiles"]}
    assert {each: profiles[each]["deploy"].get("kubeContext") for each in PROFILES} == {
        "cpu": f"kind-{name}",
        "one-model": f"kind-{name}",
        "gpu": None,
    }


def test_the_builder_is_that_of_the_daemon(skaffold):
    assert "useBuildkit" not in skaffold("diagnose", "--profile", "cpu", "--yaml-only").stdout
    assert "useBuildkit: false" in skaffold("diagnose", "--profile", "cpu", "--yaml-only", OFFLINE="1").stdout


def test_an_unknown_field_is_refused(skaffold, tmp_path):
    file = tmp_path / "skaffold.yaml"
    file.write_text((helm.ROOT / "skaffold.yaml").read_text().replace("tagPolicy:", "tagPolicies:"))
    done = skaffold("diagnose", "--profile", "cpu", file=file)
    assert done.returncode != 0
    assert "tagPolicies" in done.stderr
