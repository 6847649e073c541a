"""`make bench`: every bench, or those that are named, printed and written to docs/benchmarks.md."""

import argparse
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    boundaries,
    caption,
    ct_clip,
    ct_queue,
    ct_volume,
    cuts,
    hop,
    kaldi,
    live,
    live_cuts,
    service,
    vllm,
)
from tests.bench.report import Section, write
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
    "kaldi": lambda: [kaldi.run()],
    "hop": lambda: [hop.run()],
    "ct-volume": lambda: [ct_volume.run()],
    "ct-clip": lambda: [ct_clip.run(), ct_queue.run()],
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*BENCHES, []], help="these alone; the others' sections stay")
    for name in parser.parse_args().only or BENCHES:
        for section in BENCHES[name]():
            print(section.markdown(), flush=True)
            write(section, REPORT)


if __name__ == "__main__":
    main()
