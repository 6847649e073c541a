"""`make bench`: every bench in one run, printed and written to docs/benchmarks.md."""

import argparse
import datetime as dt
import os
import platform
from collections.abc import Callable
from pathlib import Path

from tests.bench import boundaries, caption, ct_clip, ct_queue, ct_volume, cuts, hop, live, live_cuts, service, vllm
from tests.bench.report import CLUSTER, Section, find
from tests.services import whisper

REPORT = Path(__file__).parents[2] / "docs/benchmarks.md"
CUTS, CUTS_OF_OTHERS = 1000, 300


def _cuts() -> list[Section]:
    rows = cuts.run(CUTS, CUTS_OF_OTHERS)
    section = Section(
        "Cuts inside a word",
        f"{CUTS} cuts in clean speech, {CUTS_OF_OTHERS} in the others: fluent synthetic speech with known word spans. A "
        "forced cut is one made for want of a pause: both sides are decoded with context, so a word under it is not lost.",
    )
    for row in rows:
        forced = f", {row.forced} forced ({row.forced_in_word} of them inside a word)" if row.forced else ""
        section.row(f"{row.condition}: {row.method}", f"{row.in_word} of {row.cuts} ({row.share:.1%}){forced}")
    return [section]


def _service() -> list[Section]:
    with whisper(service.THREADS) as running:
        return [service.against_the_library(running), service.many_clients(running)]


BENCHES: dict[str, Callable[[], list[Section]]] = {
    "service": _service,
    "vllm": lambda: [vllm.run()],
    "caption": lambda: [caption.run()],
    "boundaries": lambda: [boundaries.run()],
    "cuts": _cuts,
    "live": lambda: [live.run(), live_cuts.run()],
    "hop": lambda: [hop.run()],
    "ct-volume": lambda: [ct_volume.run()],
    "ct-clip": lambda: [ct_clip.run(), ct_queue.run()],
}


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}, Python {platform.python_version()}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*BENCHES, []], help="these alone, without writing the report")
    options = parser.parse_args()
    sections: list[Section] = []
    for name in options.only or BENCHES:
        found = BENCHES[name]()
        sections += found
        for section in found:
            print(section.markdown(), flush=True)
    if not options.only:
        head = (
            "# Benchmarks\n\nMade by `make bench` in one run; the ways that are compared take turns. Ratios matter, seconds "
            f'depend on the machine. "{CLUSTER}" is by\n`E2E_REPORT=docs/benchmarks.md make e2e`.\n\n'
            f"{dt.date.today().isoformat()} · {_machine()}\n"
        )
        REPORT.parent.mkdir(exist_ok=True)
        made_elsewhere = find(REPORT.read_text(), CLUSTER) if REPORT.exists() else None
        parts = [head, *(section.markdown() for section in sections), *([made_elsewhere[0]] if made_elsewhere else [])]
        REPORT.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
