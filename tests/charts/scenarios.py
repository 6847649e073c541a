"""What the chart is rendered with: every ci/*-values.yaml, alone and over every platform's overlay. Rendered once each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from charts.tools import helm

CI = sorted(helm.CHART.glob("ci/*-values.yaml"))
OVERLAYS = sorted(helm.CHART.glob("values-*.yaml"))
# Platforms that have no nodes for the profile of a scenario.
UNAVAILABLE = {("aks", "all-models"), ("aks", "gpu-l4")}
Object = dict[str, Any]
# The tag of the images by default.
APP_VERSION: str = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())["appVersion"]


@dataclass(frozen=True)
class Scenario:
    ci: Path
    overlay: Path | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(part for file in (self.overlay, self.ci) if file for part in ("--values", str(file)))

    @property
    def platform(self) -> str:
        return self.overlay.stem.removeprefix("values-") if self.overlay else ""

    def __str__(self) -> str:
        name = self.ci.stem.removesuffix("-values")
        return f"{name}@{self.platform}" if self.overlay else name

    @property
    def available(self) -> bool:
        return (self.platform, self.ci.stem.removesuffix("-values")) not in UNAVAILABLE


ALL = [Scenario(ci, overlay) for ci in CI for overlay in (None, *OVERLAYS)]
AVAILABLE = [scenario for scenario in ALL if scenario.available]
PLAIN = [scenario for scenario in AVAILABLE if scenario.overlay is None]


def named(name: str) -> Scenario:
    """The scenario of ci/<name>-values.yaml, without an overlay."""
    return next(scenario for scenario in PLAIN if str(scenario) == name)


@cache
def _rendered(*arguments: str) -> tuple[Object, ...]:
    return tuple(helm.objects(*arguments))


def objects(scenario: Scenario, *arguments: str) -> tuple[Object, ...]:
    """The objects of a scenario; do not change them."""
    return _rendered(*scenario.files, *arguments)


def services(scenario: Scenario, *arguments: str) -> dict[str, Object]:
    """The InferenceServices of a scenario by name."""
    found = objects(scenario, *arguments)
    return {each["metadata"]["name"]: each for each in found if each["kind"] == "InferenceService"}


def components(scenario: Scenario, *arguments: str) -> Iterator[tuple[str, str, Object]]:
    """(model, predictor or transformer, its spec) of a scenario."""
    for name, service in services(scenario, *arguments).items():
        for role, spec in service["spec"].items():
            yield name, role, spec


def container(spec: Object) -> Object:
    """The one container of a component."""
    (only,) = spec["containers"]
    return only


def environment(spec: Object) -> dict[str, Any]:
    """The environment of a component's container; of a secret, where it is."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(spec)["env"]}
