"""What a bench gives back: a titled table, printed and written to docs/benchmarks.md."""

import re
from dataclasses import dataclass, field

CLUSTER = "On a cluster"
"""The title of the section that `make e2e` makes and `make bench` keeps."""


@dataclass
class Section:
    """One bench's figures."""

    title: str
    about: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def row(self, what: str, figure: str) -> None:
        """Adds a line."""
        self.rows.append((what, figure))

    def markdown(self) -> str:
        """The section as Markdown."""
        lines = [f"## {self.title}", "", self.about, "", "| what | figure |", "|---|---|"]
        return "\n".join([*lines, *(f"| {what} | {figure} |" for what, figure in self.rows)]) + "\n"


def find(report: str, title: str) -> re.Match[str] | None:
    """Where a report has the section of that title, up to the next one."""
    return re.search(rf"^## {re.escape(title)}$.*?(?=^## |\Z)", report, re.DOTALL | re.MULTILINE)
