"""Weights from the model hub, or from a package of the Python index. Every failure is a ValueError with one sentence."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")


def downloaded(model_id: str, download: Callable[[], R]) -> R:
    """What `download` gives. Raises ValueError with its reason when it fails."""
    try:
        return download()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"MODEL_ID={model_id}: the weights cannot be downloaded: {reason}") from None


def snapshot(repository: str, patterns: Sequence[str]) -> Path:
    """The folder of a hub repository's files that fit `patterns`. Raises ValueError."""
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # heavy libraries are imported when they are needed
    except ImportError:
        raise ValueError("a hub id needs the package huggingface_hub, which is not installed") from None
    return Path(downloaded(repository, lambda: snapshot_download(repository, allow_patterns=list(patterns))))


def packaged(model_id: str, package: str) -> Path:
    """The folder `data` of an installed package that carries weights. Raises ValueError when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"MODEL_ID={model_id} needs the package {package.replace('_', '-')}==1.0.0, which is not installed"
        )
    return Path(spec.origin).parent / "data"
