"""A release of the chart by Helm, as the README has users do it."""

from dataclasses import dataclass

from charts.tools import helm
from tests.e2e.target import OWN_VALUES, Target


@dataclass(frozen=True)
class Release:
    """A release in a namespace that is there."""

    target: Target
    namespace: str
    name: str = "sonotome"

    def install(self, *values: str) -> None:
        """`helm install` with the tests' values, the cluster's over them, and `--set` arguments last. Raises HelmError."""
        files = ("--values", str(OWN_VALUES), "--values", str(self.target.values))
        helm.run("install", self.name, str(helm.CHART), "--namespace", self.namespace, *files, *_sets(values))

    def upgrade(self, *values: str) -> None:
        """`helm upgrade` of some values, as the chart's README has it. Raises HelmError."""
        keep = "--reset-then-reuse-values"  # --reuse-values would keep an overlay's nulls, which the schema refuses
        helm.run("upgrade", self.name, str(helm.CHART), "--namespace", self.namespace, keep, *_sets(values))

    def uninstall(self) -> None:
        """`helm uninstall`. Raises HelmError."""
        helm.run("uninstall", self.name, "--namespace", self.namespace)


def _sets(values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in ("--set", value)]
