"""What is open in a folder although it has no name there; for tests that nothing is left. No assertions."""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO


def spooled(folder: Path, process: int | str = "self") -> list[Path]:
    """The descriptors by which a process holds files open that lie in `folder` without a name."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime, the listing's own one among them
            target = str(descriptor.readlink())
            if target.startswith(f"{folder}/") and target.endswith(" (deleted)"):
                found.append(descriptor)
    return found


def named(folder: Path) -> list[str]:
    """What lies in `folder` with a name."""
    return [path.name for path in folder.iterdir()]


def content(file: BinaryIO) -> bytes:
    """All of a file, read as the decoder does: by its descriptor, past any buffer."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
