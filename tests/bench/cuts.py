"""How often a cut falls inside a word: our splitter against two common ways, on fluent speech with known word spans.

`python -m tests.bench.cuts --cuts 1000` prints the table. It measures where cuts lie, not what a recogniser makes of them.
The speech is made as it is needed and never held whole; 1000 cuts are 8.3 hours and 2.5 minutes of one core a condition.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from tests.synthesis import SAMPLE_RATE, Phrase, Samples, phrases
from transformers_pre.audio.split import SplitLimits, Splitter
from transformers_pre.audio.vad import VoiceActivity

WINDOW = 30 * SAMPLE_RATE


@dataclass(frozen=True)
class Row:
    """One way of cutting under one condition. `forced` are cuts made for want of a pause (decoded with context)."""

    condition: str
    method: str
    seconds: float
    cuts: int
    in_word: int
    forced: int
    forced_in_word: int

    @property
    def share(self) -> float:
        """Share of cuts inside a word."""
        return self.in_word / self.cuts


class Ours:
    """Our splitter on the real voice activity."""

    name = "sonotome"

    def __init__(self) -> None:
        self.cuts: list[tuple[int, bool]] = []
        self._activity = VoiceActivity()
        self._splitter = Splitter(SplitLimits())

    def push(self, samples: Samples) -> None:
        for window, _ in self._splitter.push(samples, self._activity.push(samples)):
            self.cuts.append((window.end, window.forced_end))


class Hard:
    """A cut every 30 s."""

    name = "every 30 s"

    def __init__(self) -> None:
        self.cuts: list[tuple[int, bool]] = []
        self._position = 0

    def push(self, samples: Samples) -> None:
        self._position += len(samples)
        while (len(self.cuts) + 1) * WINDOW < self._position:
            self.cuts.append(((len(self.cuts) + 1) * WINDOW, False))


class Quietest:
    """A cut in the middle of the quietest 100 ms of the last second of every 30 s."""

    name = "quietest 100 ms of the last 1 s"

    def __init__(self) -> None:
        self.cuts: list[tuple[int, bool]] = []
        self._start = 0
        self._pending: Samples = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> None:
        self._pending = np.concatenate([self._pending, samples])
        while len(self._pending) > WINDOW:
            hop = SAMPLE_RATE // 100
            energy = (self._pending[WINDOW - SAMPLE_RATE : WINDOW].reshape(100, hop) ** 2).sum(axis=1)
            quietest = int(np.convolve(energy, np.ones(10), "valid").argmin())
            cut = WINDOW - SAMPLE_RATE + (quietest + 5) * hop
            self._start += cut
            self._pending = self._pending[cut:]
            self.cuts.append((self._start, False))


Condition = Callable[[Iterator[Phrase]], Iterator[Phrase]]


def clean(source: Iterator[Phrase]) -> Iterator[Phrase]:
    """The speech as it is."""
    return source


def noisy(source: Iterator[Phrase]) -> Iterator[Phrase]:
    """Pink noise 15 dB below the mean power of the words, in words and pauses alike."""
    head = [next(source) for _ in range(50)]
    power = np.mean([np.mean(phrase.samples[: phrase.words[-1][2]] ** 2) for phrase in head])
    noise = _pink(60 * SAMPLE_RATE) * np.float32(np.sqrt(power) * 10 ** (-15 / 20))
    position = 0
    while True:
        phrase = head.pop(0) if head else next(source)
        part = noise[np.arange(position, position + len(phrase.samples)) % len(noise)]
        position += len(phrase.samples)
        yield Phrase(phrase.samples + part, phrase.words, phrase.language)


def narrow(source: Iterator[Phrase]) -> Iterator[Phrase]:
    """What a line of 8 kHz leaves of it."""
    for phrase in source:
        line = soxr.resample(phrase.samples, SAMPLE_RATE, SAMPLE_RATE // 2)
        samples = np.zeros_like(phrase.samples)
        heard = soxr.resample(line, SAMPLE_RATE // 2, SAMPLE_RATE)[: len(samples)]
        samples[: len(heard)] = heard
        yield Phrase(samples, phrase.words, phrase.language)


def noisy_narrow(source: Iterator[Phrase]) -> Iterator[Phrase]:
    """Both: the noise, then the line."""
    return narrow(noisy(source))


CONDITIONS: dict[str, Condition] = {
    "clean": clean,
    "15 dB noise": noisy,
    "8 kHz": narrow,
    "8 kHz, 15 dB noise": noisy_narrow,
}


def measure(condition: str, cuts: int, seed: int = 0) -> list[Row]:
    """The rows of one condition, on as much speech as gives every method `cuts` cuts; all of it counts."""
    methods: list[Ours | Hard | Quietest] = [Ours(), Hard(), Quietest()]
    words: list[npt.NDArray[np.int64]] = []
    position = 0
    for phrase in CONDITIONS[condition](phrases(seed)):
        for method in methods:
            method.push(phrase.samples)
        words.append(np.array([word[1:] for word in phrase.words]) + position)
        position += len(phrase.samples)
        if all(len(method.cuts) >= cuts for method in methods):
            break
    spans = np.concatenate(words)
    return [_row(condition, method, method.cuts, spans) for method in methods]


def _row(
    condition: str, method: Ours | Hard | Quietest, cuts: list[tuple[int, bool]], spans: npt.NDArray[np.int64]
) -> Row:
    positions = np.array([position for position, _ in cuts])
    forced = np.array([is_forced for _, is_forced in cuts])
    before = np.maximum(np.searchsorted(spans[:, 0], positions) - 1, 0)  # the last word that starts before the cut
    inside = (spans[before, 0] < positions) & (positions < spans[before, 1])
    return Row(
        condition=condition,
        method=method.name,
        seconds=positions[-1] / SAMPLE_RATE,
        cuts=len(cuts),
        in_word=int(inside.sum()),
        forced=int(forced.sum()),
        forced_in_word=int((inside & forced).sum()),
    )


def _pink(length: int) -> Samples:
    """Pink noise of unit power, always the same: float32 [length]."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(length))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / noise.std(), np.float32)


def run(cuts: int, others: int, seed: int = 0) -> list[Row]:
    """`cuts` cuts in clean speech and `others` in each other condition, two at a time (voice activity releases the GIL)."""
    wanted = [(name, cuts if name == "clean" else others) for name in CONDITIONS]
    with ThreadPoolExecutor(2) as pool:
        return [row for rows in pool.map(lambda each: measure(*each, seed), wanted) for row in rows]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| condition | method | hours | cuts | inside a word | share | forced | forced inside a word |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.condition} | {row.method} | {row.seconds / 3600:.1f} | {row.cuts} | {row.in_word} | {row.share:.1%} "
        f"| {row.forced} | {row.forced_in_word} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=100, help="cuts a method in clean speech")
    parser.add_argument("--others", type=int, default=100, help="and in each other condition")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(table(run(arguments.cuts, arguments.others, arguments.seed)))


if __name__ == "__main__":
    main()
