"""`manifests/`: one file a model of the catalog, rendered from the chart's defaults. `--check` says whether they are fresh.

A model is there once the lock of its image is (`requirements/<image>.txt`); the others are not built yet.
"""

import argparse
import sys
from pathlib import Path

from charts.tools import helm, stale

FOLDER = helm.ROOT / "manifests"
HEADER = "# Generated from charts/sonotome by `make manifests`: kubectl apply -f {file}\n"


def built(repository: str) -> bool:
    """Whether the image `repository` can be built: its lock exists."""
    return (helm.ROOT / "requirements" / f"{repository}.txt").is_file()


def models() -> list[str]:
    """The models of the catalog whose images, predictor's and transformer's, can be built."""
    values = helm.values()
    transformers = {name: built(entry["image"]["repository"]) for name, entry in values["transformers"].items()}
    default = values["defaults"]["transformer"]["name"]
    return [
        name
        for name, entry in values["models"].items()
        if built(entry["predictor"]["image"]["repository"])
        and transformers[entry.get("transformer", {}).get("name", default)]
    ]


def wanted() -> dict[Path, str | None]:
    """Every file of the folder and the text that it should have, None where nothing makes it any more."""
    texts: dict[Path, str | None] = dict.fromkeys(FOLDER.glob("*.yaml"))
    for name in models():
        rendered = helm.template("--set", f"models.{name}.enabled=true")
        body = "".join(line for line in rendered.splitlines(keepends=True) if not line.startswith(("---", "# Source:")))
        texts[FOLDER / f"{name}.yaml"] = HEADER.format(file=f"manifests/{name}.yaml") + body
    return texts


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    sys.exit(stale.settle(wanted(), check=parser.parse_args().check))


if __name__ == "__main__":
    main()
