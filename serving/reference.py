"""Tables of settings for the READMEs: `python -m serving.reference` rewrites them, `--check` says whether they are fresh.

A README marks where a table goes: `<!-- settings: module.Class -->` … `<!-- end -->`.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from serving.settings import PodSettings

_MARK = re.compile(r"(<!-- settings: ([\w.]+)\.(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(cls: type[PodSettings]) -> str:
    """A Markdown table of a settings class: its own fields first, what it inherits after them."""
    own = [name for name in cls.model_fields if name in cls.__annotations__]
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name in [*own, *(name for name in cls.model_fields if name not in own)]:
        field = cls.model_fields[name]
        default = "" if field.default in (PydanticUndefined, None, "") else f"`{_plain(field.default)}`"
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name.upper()}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _plain(default: object) -> str:
    """A default as it would be written into a variable."""
    if isinstance(default, tuple):
        return ",".join(str(value) for value in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def refresh(text: str) -> str:
    """`text` with every marked table made anew."""

    def replace(match: re.Match[str]) -> str:
        cls = getattr(importlib.import_module(match[2]), match[3])
        return f"{match[1]}{table(cls)}{match[4]}"

    return _MARK.sub(replace, text)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for file in sorted(
        [*Path().glob("*.md"), *Path().glob("predictors/*/*.md"), *Path().glob("transformers_pre/*/*.md")]
    ):
        before = file.read_text()
        after = refresh(before)
        if after != before:
            stale.append(str(file))
            if not options.check:
                file.write_text(after)
    if stale and options.check:
        sys.exit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
