"""The figures that the tests measure: printed at the end of the run, and one section of docs/benchmarks.md when asked for."""

from pathlib import Path

from tests.bench.report import CLUSTER, Section, find


def new_section(about: str) -> Section:
    """The section, empty."""
    return Section(CLUSTER, about)


def write(section: Section, report: Path) -> None:
    """Replaces the section in the report, or adds it as the last one; the others stay as they are."""
    text = report.read_text() if report.exists() else ""
    if found := find(text, CLUSTER):
        rest = text[found.end() :]
        report.write_text(text[: found.start()] + section.markdown() + ("\n" + rest if rest else ""))
    else:
        report.write_text(f"{text.rstrip()}\n\n{section.markdown()}".lstrip())
