"""`manifests/`: one file a model of the catalog, rendered from the chart's defaults. `--check` says whether they are fresh.

A model is there once Dockerfiles make its images; the others are not built yet.
"""

import argparse
import re
import sys
from pathlib import Path

from charts.tools import helm, stale

FOLDER = helm.ROOT / "manifests"
HEADER = "# Generated from charts/sonotome by `make manifests`: kubectl apply -f {file}\n"
_IMAGES = re.compile(r"^# Images: (.+)$", re.MULTILINE)


def dockerfiles(root: Path = helm.ROOT) -> dict[str, Path]:
    """The images that can be built, and what makes each: those that a Dockerfile names, as for `make images`."""
    files = [file for top in ("predictors", "transformers_pre") for file in root.glob(f"{top}/*/Dockerfile*")]
    return {image: file for file in files for line in _IMAGES.findall(file.read_text()) for image in line.split()}


def models() -> list[str]:
    """The models of the catalog whose images, predictor's and transformer's, can be built."""
    values, built = helm.values(), set(dockerfiles())
    transformers = {name: entry["image"]["repository"] for name, entry in values["transformers"].items()}
    default = values["defaults"]["transformer"]["name"]
    return [
        name
        for name, entry in values["models"].items()
        if {entry["predictor"]["image"]["repository"], transformers[entry.get("transformer", {}).get("name", default)]}
        <= built
    ]


def wanted() -> dict[Path, str | None]:
    """Every file of the folder and the text that it should have, None where nothing makes it any more."""
    texts: dict[Path, str | None] = dict.fromkeys(FOLDER.glob("*.yaml"))
    for name in models():
        rendered = helm.template(*_settings(name))
        body = "".join(line for line in rendered.splitlines(keepends=True) if not line.startswith(("---", "# Source:")))
        texts[FOLDER / f"{name}.yaml"] = HEADER.format(file=f"manifests/{name}.yaml") + body
    return texts


def _settings(name: str) -> list[str]:
    """What makes a model of the catalog whole: an entry without weights gets a volume of its name, to be replaced."""
    values = helm.values()
    entry, most = values["models"][name], values["global"]["maxTimeoutSeconds"]
    settings = ["--set", f"models.{name}.enabled=true"]
    if not entry["predictor"]["weights"]:
        settings += ["--set", f"models.{name}.predictor.weights.storageUri=pvc://models/{name}"]
    if (seconds := entry.get("timeout", 0)) > most:
        settings += ["--set", f"global.maxTimeoutSeconds={seconds}"]
    return settings


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    sys.exit(stale.settle(wanted(), check=parser.parse_args().check))


if __name__ == "__main__":
    main()
