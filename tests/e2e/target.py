"""Which cluster the tests run on and how it is reached: environment variables, whose defaults are the cluster of `make kind`."""

import os
from dataclasses import dataclass
from pathlib import Path

from charts.tools.helm import CHART, ROOT

OWN_VALUES = Path(__file__).parent / "values.yaml"


@dataclass(frozen=True)
class Target:
    """Settings of a run. The cluster itself is that of KUBECONFIG."""

    gateway: str
    """Address of the ingress gateway, `E2E_GATEWAY`; services are told apart by the Host header."""
    namespace: str
    """Namespace that is made and removed, `E2E_NAMESPACE`; others begin with its name."""
    values: Path
    """Values of the chart for this cluster, `E2E_VALUES`: registry, tags, weights. They lie over `values.yaml` of this folder."""
    report: Path | None
    """File whose section of figures is written anew, `E2E_REPORT`."""

    @classmethod
    def from_environment(cls) -> "Target":
        """The settings of this process."""
        report = os.environ.get("E2E_REPORT")
        return cls(
            gateway=os.environ.get("E2E_GATEWAY", "http://127.0.0.1:31080").rstrip("/"),
            namespace=os.environ.get("E2E_NAMESPACE", "sonotome-e2e"),
            values=ROOT / os.environ.get("E2E_VALUES", CHART / "values-kind.yaml"),
            report=ROOT / report if report else None,
        )
