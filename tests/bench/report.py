"""What a bench gives back: a titled table, printed and written to docs/benchmarks.md."""

from dataclasses import dataclass, field


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
