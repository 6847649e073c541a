"""The figures that the tests measure: printed at the end of the run, and one section of docs/benchmarks.md when asked for."""

import re
from pathlib import Path

from tests.bench.report import Section

TITLE = "On a cluster"


def new_section(about: str) -> Section:
    """The section, empty."""
    return Section(TITLE, about)


def write(section: Section, report: Path) -> None:
    """Replaces the section in the report, or adds it as the last one; the others stay as they are."""
    text = report.read_text()
    found = re.search(rf"^## {TITLE}$.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        report.write_text(f"{text.rstrip()}\n\n{section.markdown()}")
    else:
        rest = text[found.end() :]
        report.write_text(text[: found.start()] + section.markdown() + ("\n" + rest if rest else ""))
