"""Folders that are made once and then found: joined or converted weights. A folder appears complete, or not at all.

They live under `XDG_CACHE_HOME` (default `~/.cache`), where faster-whisper's and openai-whisper's downloads live too.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder(name: str, fill: Callable[[Path], None]) -> Path:
    """The cached folder `name`, which `fill` has filled, now or earlier; several processes may ask at once.

    Raises:
        ValueError: the cache cannot be written.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonotome"
    target = root / name
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=root) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            fill(made)
            _publish(made, target)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"weights cannot be kept in {root} ({reason}); set XDG_CACHE_HOME to a folder with room"
        ) from None
    return target


def made_of(source: Path, name: str, convert: Callable[[Path, Path], None]) -> Path:
    """What `convert` makes of a folder, once for each state of its files. Raises ValueError as `folder` does."""
    files = sorted(file for file in source.iterdir() if file.is_file())
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
    return folder(f"{name}-{key}", lambda target: convert(source, target))


def _publish(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
