"""The catalog is honest: what it says is built is there, and every setting that it passes is one that the pod has."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from charts.tools import helm, manifests
from serving import VERSION
from serving.settings import PodSettings
from tests.charts import scenarios
from transformers_pre.audio.pod import PODS
from transformers_pre.audio.settings import AudioSettings

VALUES = helm.values()
# Variables of the libraries and of KServe's pod webhook.
FOREIGN = {"HOME", "HF_HOME", "HF_HUB_OFFLINE", "STORAGE_URI", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"}


def settings_of(module: str, environment: Mapping[str, Any]) -> type[PodSettings]:
    """The settings class of a pod, by the module that it runs; an audio transformer's by its pipeline."""
    if module == "transformers_pre.audio":
        module = PODS[environment.get("PIPELINE", "speech")].rpartition(".")[0]
    found = importlib.import_module(f"{module}.settings")
    (own,) = (
        each
        for each in vars(found).values()
        if isinstance(each, type) and issubclass(each, PodSettings) and each.__module__ == found.__name__
    )
    return own


@pytest.mark.parametrize(("name", "entry"), VALUES["models"].items(), ids=VALUES["models"])
def test_what_is_not_built_says_so(name, entry):
    assert entry["enabled"] is False
    assert entry["description"].startswith("Not built yet: ") == (name not in manifests.models())


def test_ci_deploys_what_is_built():
    deployed = {name for scenario in scenarios.PLAIN for name in scenarios.services(scenario)}
    assert deployed == set(manifests.models())
    every = yaml.safe_load(scenarios.named("all-models").ci.read_text())["models"]
    assert set(every) == set(manifests.models())


@pytest.mark.parametrize("name", manifests.models())
def test_modules_exist_and_transformers_fit(name):
    entry = VALUES["models"][name]
    module = entry["predictor"]["module"]
    assert importlib.util.find_spec(f"{module}.__main__")
    package = importlib.util.find_spec(module)
    assert package is not None
    folder = package.submodule_search_locations[0]
    service = tomllib.loads((helm.ROOT / folder / "service.toml").read_text())
    used = entry.get("transformer", {}).get("name", VALUES["defaults"]["transformer"]["name"])
    assert VALUES["transformers"][used]["module"] == service["transformer"]


@pytest.mark.parametrize("scenario", scenarios.PLAIN, ids=str)
def test_every_pod_starts_with_its_flags_and_settings(scenario, monkeypatch):
    """The pod's own settings class reads what the chart passes and what KServe's controller appends."""
    for name, role, spec in scenarios.components(scenario):
        each = scenarios.container(spec)
        given = scenarios.environment(spec)
        settings = settings_of(each["command"][-1], given)
        environment = {key: "Basic a secret" if isinstance(value, dict) else value for key, value in given.items()}
        assert {key.lower() for key in set(environment) - FOREIGN} <= set(settings.model_fields)
        with monkeypatch.context() as patched:
            for key, value in environment.items():
                patched.setenv(key, value)
            appended = ["--predictor_host", f"{name}-predictor.speech"] if role == "transformer" else []
            read = settings.from_command_line([*each["args"], *appended])
        assert (read.model_name, read.http_port) == (name, 8080)
        for key in set(environment) - FOREIGN:
            found = getattr(read, key.lower())
            found = found.get_secret_value() if isinstance(found, SecretStr) else str(found)
            assert found.lower() in (environment[key].lower(), f"{environment[key]}.0")


def test_one_version():
    """A new appVersion is wanted everywhere where an image of ours is named in full."""
    assert scenarios.APP_VERSION == VERSION
    files = [*scenarios.CI, helm.ROOT / "tests" / "e2e" / "values.yaml"]
    named = re.findall(r"dev\.local/sonotome/([\w-]+):([\w.-]+)", "".join(file.read_text() for file in files))
    assert {tag for image, tag in named if image in manifests.dockerfiles()} == {VERSION}


def test_an_image_is_built_once_a_dockerfile_names_it(tmp_path):
    """Its lock alone makes none, nor does the build of a part."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "whisper-vllm.txt").touch()
    for folder, text in {
        "predictors/whisper": "# Images: one two\nFROM x\n",
        "transformers_pre/dicom": "FROM x\n",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "Dockerfile").write_text(text)
    assert set(manifests.dockerfiles(tmp_path)) == {"one", "two"}


def test_what_make_builds():
    listed = subprocess.run(
        ["make", "--silent", "--eval", "listed: ; @echo $(IMAGES)", "listed"],
        cwd=helm.ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) == set(manifests.dockerfiles())


def test_decoders_fit_into_the_memory_of_their_pod():
    limit = VALUES["transformers"]["audio"]["resources"]["limits"]["memory"]
    settings = AudioSettings()
    assert settings.decode_workers * settings.decode_memory_bytes + (512 << 20) <= int(limit.removesuffix("Gi")) << 30


@pytest.mark.parametrize("name", VALUES["models"])
def test_notes_print_calls_that_a_shell_can_read(name, tmp_path):
    chart = with_notes(tmp_path)
    arguments = (
        "--set",
        f"models.{name}.enabled=true",
        "--set",
        "global.maxTimeoutSeconds=3600",
        "--set",
        f"models.{name}.predictor.weights.image=registry/weights:1",
        "--namespace",
        "speech",
    )
    notes = text(*arguments, chart=chart)
    assert VALUES["models"][name]["description"] in notes
    commands = [line.strip() for line in notes.splitlines() if re.match(r" +(curl|python|kubectl|HOST=)", line)]
    assert len(commands) >= 3
    assert all(shlex.split(command) for command in commands)
    assert f"kubectl -n speech get inferenceservices {name}" in commands
    assert "Authorization" not in notes
    assert "Bearer $KEY" in text(*arguments, "--set", "global.apiKeys.secretName=keys", chart=chart)


@pytest.mark.parametrize("closed", [True, False])
def test_notes_tell_of_the_way_past_a_transformer(closed, tmp_path):
    """Which KServe's Ingress has in Standard mode."""
    standard = ("--values", str(scenarios.named("standard-mode").ci))
    policy = ("--set", f"global.networkPolicy.enabled={str(closed).lower()}")
    chart = with_notes(tmp_path)
    assert ("past the transformers" in text(*standard, *policy, chart=chart)) is not closed
    assert "past the transformers" not in text("--set", "models.whisper-base.enabled=true", *policy, chart=chart)


@pytest.mark.parametrize("name", [name for name, each in VALUES["models"].items() if not each["predictor"]["weights"]])
def test_who_has_no_weights_asks_for_some(name):
    timeout = ("--set", "global.maxTimeoutSeconds=3600")
    with pytest.raises(
        helm.HelmError, match=rf"models\.{name}\.predictor\.weights is empty: set modelId, storageUri or image"
    ):
        helm.template("--set", f"models.{name}.enabled=true", *timeout)
    given = ("--set", f"models.{name}.predictor.weights.storageUri=pvc://weights/{name}")
    assert helm.objects("--set", f"models.{name}.enabled=true", *timeout, *given)


def test_notes_without_a_model(tmp_path):
    assert text(chart=with_notes(tmp_path)).startswith(
        "No model is enabled: set models.<name>.enabled=true for one of "
    )


def with_notes(folder):
    """The chart with its notes as an object: Helm prints notes only with a cluster."""
    chart = folder / "sonotome"
    shutil.copytree(helm.CHART, chart)
    (chart / "templates" / "notes.yaml").write_text('kind: Notes\ntext: {{ include "sonotome.notes" . | quote }}\n')
    return chart


def text(*arguments: str, chart) -> str:
    return next(each["text"] for each in helm.objects(*arguments, chart=chart) if each["kind"] == "Notes")
