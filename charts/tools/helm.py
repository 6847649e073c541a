"""Finds Helm and renders the chart with it. Not here: what is made of the output (`manifests`, `reference`, the tests)."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sonotome"
MODULE = "helm.sh/helm/v3/cmd/helm@v3.21.4"
TOOLS = ROOT / ".tools" / "bin"


class HelmError(Exception):
    """Helm refused; the text is what it said."""


@cache
def find() -> Path:
    """Helm from PATH, or from `.tools/bin`, where Go builds it the first time (a minute). Raises HelmError without both."""
    found = shutil.which("helm", path=f"{os.environ.get('PATH', '')}:{TOOLS}")
    if found:
        return Path(found)
    go = shutil.which("go")
    if go is None:
        raise HelmError("helm is missing: install Helm 3 (helm.sh/docs/intro/install), or Go, which then builds it")
    environment = {**os.environ, "GOBIN": str(TOOLS), "CGO_ENABLED": "0"}
    build = [go, "install", "-trimpath", "-ldflags=-s -w", MODULE]
    built = subprocess.run(build, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # Go itself
    if built.returncode != 0:
        raise HelmError(f"go install {MODULE} failed: {built.stderr.strip()}")
    return TOOLS / "helm"


def run(*arguments: str) -> str:
    """What `helm <arguments>` prints. Raises HelmError with its error."""
    command = [str(find()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # Helm, no shell
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    return done.stdout


def template(*arguments: str, chart: Path = CHART) -> str:
    """The chart's manifests as text, release `sonotome`. Raises HelmError."""
    return run("template", "sonotome", str(chart), *arguments)


def objects(*arguments: str, chart: Path = CHART) -> list[dict[str, Any]]:
    """The chart's objects. Raises HelmError."""
    return [found for found in yaml.safe_load_all(template(*arguments, chart=chart)) if found]


def values() -> dict[str, Any]:
    """The chart's own values."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded
