"""Programs that the checks of kind-config.yaml and skaffold.yaml run: from PATH, else built with Go. Not Helm: charts.tools."""

import shutil
import subprocess
from pathlib import Path

from charts.tools import helm

BUILD = helm.ROOT / "tests" / "e2e" / "offline" / "build.sh"


def find(name: str) -> Path:
    """The program. The first time Go builds it, which takes seconds for kind and minutes for skaffold."""
    found = shutil.which(name)
    if found:
        return Path(found)
    built = subprocess.run([BUILD, name], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())
