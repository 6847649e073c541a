"""Generated files: write them, or say which are not as they should be."""

from collections.abc import Mapping
from pathlib import Path

from charts.tools.helm import ROOT


def outdated(texts: Mapping[Path, str | None]) -> list[str]:
    """The files whose text differs from the one wanted; None wants no file."""
    return [
        str(file.relative_to(ROOT))
        for file, text in texts.items()
        if (file.read_text() if file.exists() else None) != text
    ]


def settle(texts: Mapping[Path, str | None], *, check: bool) -> str | None:
    """Makes the files as wanted; with `check` changes nothing and gives the sentence to exit with."""
    if check:
        names = outdated(texts)
        return f"stale: {', '.join(names)}; run `make manifests`" if names else None
    for file, text in texts.items():
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
    return None
