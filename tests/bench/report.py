"""What a bench gives back: a titled table, printed and written to docs/benchmarks.md."""

import datetime as dt
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

CLUSTER = "On a cluster"
"""The title of the section that `make e2e` makes."""
_HEAD = f"""\
# Benchmarks

Made by `make bench`, which replaces the sections of the benches that run (`make bench ARGS="live hop"` for some); the ways that
are compared take turns in one run. Ratios matter, seconds depend on the machine. "{CLUSTER}" is by
`E2E_REPORT=docs/benchmarks.md make e2e`.
"""


@dataclass
class Section:
    """One bench's figures."""

    title: str
    about: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    made: str = field(default_factory=lambda: f"{dt.date.today().isoformat()} · {_machine()}")
    """When and where."""

    def row(self, what: str, figure: str) -> None:
        """Adds a line."""
        self.rows.append((what, figure))

    def markdown(self) -> str:
        """The section as Markdown."""
        lines = [f"## {self.title}", "", self.about, "", self.made, "", "| what | figure |", "|---|---|"]
        return "\n".join([*lines, *(f"| {what} | {figure} |" for what, figure in self.rows)]) + "\n"


def find(report: str, title: str) -> re.Match[str] | None:
    """Where a report has the section of that title, up to the next one."""
    return re.search(rf"^## {re.escape(title)}$.*?(?=^## |\Z)", report, re.DOTALL | re.MULTILINE)


def write(section: Section, report: Path) -> None:
    """Replaces the section in the report, or adds it as the last one; the others stay as they are."""
    text = report.read_text() if report.exists() else _HEAD
    if found := find(text, section.title):
        rest = text[found.end() :]
        report.write_text(text[: found.start()] + section.markdown() + ("\n" + rest if rest else ""))
    else:
        report.write_text(f"{text.rstrip()}\n\n{section.markdown()}")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}, Python {platform.python_version()}"
