"""Runs inside a container of an image, on the image's own Python: what is there, or what it weighs, as JSON.

Standard library only; `tests.images.containers.inside` feeds it to the interpreter.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VENV = Path("/opt/venv/lib")
CODE = Path("/app")
MODELS = Path("/models")
TOOLS = ["pip", "pip3", "uv", "cc", "gcc", "g++", "clang", "ld", "as", "make", "cmake"]
INSTALLERS = ["pip", "setuptools", "wheel"]
BIG = 10_000_000
"""Bytes from which a file that is no library may be weights."""


def contents() -> dict[str, Any]:
    """What a process sees."""
    files = [path for top in (VENV, CODE) for path in top.rglob("*")]
    sources = [path for path in files if path.suffix == ".py" and path.is_file()]
    return {
        "user": [os.getuid(), os.getgid()],
        "distributions": sorted(each.name.lower() for each in importlib.metadata.distributions()),
        "tools": [tool for tool in TOOLS if shutil.which(tool)],
        "installers": [module for module in INSTALLERS if any(has(python, module) for python in pythons())],
        "app": sorted(path.relative_to(CODE).as_posix() for path in files if path.is_relative_to(CODE)),
        "tests": [str(path) for path in files if path.name == "tests" and path.is_dir()],
        "big": [str(path) for path in files if path.is_file() and path.stat().st_size > BIG],
        "sources": len(sources),
        "not compiled": [str(path) for path in sources if not is_compiled(path) and is_python(path)],
        "writable": [str(path) for path in files if not path.is_symlink() and os.access(path, os.W_OK)],
        "closed": [str(path) for path in files if not os.access(path, os.R_OK)],
    }


def pythons() -> set[str]:
    """The venv's interpreter and that of the base."""
    return {sys.executable, sys._base_executable}


def has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def is_compiled(path: Path) -> bool:
    return Path(importlib.util.cache_from_source(str(path))).is_file()


def is_python(path: Path) -> bool:
    """Whether this Python can read it: torch has a file for a later one."""
    try:
        compile(path.read_bytes(), path, "exec")
    except SyntaxError:
        return False
    return True


def sizes() -> dict[str, Any]:
    """Bytes: `total`, `packages` by their part of site-packages, and `rest`, the code or the weights."""
    packages = [part for folder in VENV.glob("python*/site-packages") for part in folder.iterdir()]
    return {
        "total": size(Path("/")),
        "packages": {part.name: size(part) for part in packages},
        "rest": sum(size(folder) for folder in (CODE, MODELS)),
    }


def size(top: Path) -> int:
    """Bytes of a file, or of all files below a folder; what only root may read, a few empty folders, is left out."""
    if not top.is_dir() or top.is_symlink():
        return top.lstat().st_size if top.is_symlink() or top.exists() else 0
    total = 0
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not (Path(folder) / name).is_mount()]
        total += sum((Path(folder) / name).lstat().st_size for name in files)
    return total


if __name__ == "__main__":
    print(json.dumps({"contents": contents, "sizes": sizes}[sys.argv[1]]()))
