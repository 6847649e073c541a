"""Where a long recording is cut into windows for a recogniser: pure arithmetic on samples and speech probabilities.

It neither computes the probabilities (`vad`) nor joins what was recognised (`merge`).

A window is a *core* and, where no pause was found to cut in, the *context* beyond it. Cores are contiguous and cover the
recording exactly. A cut lies in the middle of the longest pause of the last `search_seconds` of the largest possible core,
or else of its second half. Beside a silence (a pause of `silence_seconds` or more) it lies close to the speech instead, so
that silences become windows of their own, which no recogniser needs to see. With no pause the cut is *forced*: it lies at
the quietest place, and both windows reach `context_seconds` over it so that the word that was cut is whole in one of them.

Live audio has `endpoint_seconds` besides: a pause that long after speech ends the window at once, in the pause's middle.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]
Span = tuple[int, int]

_HOPS_A_SECOND = 100  # steps in which a forced cut is sought
_FORCED_CUT_SECONDS = 0.03  # what must be quiet around it


@dataclass(frozen=True)
class SplitLimits:
    """How windows are cut. Raises ValueError where the values leave no room for a core."""

    sample_rate: int = 16000
    """Samples per second."""
    max_seconds: float = 30.0
    """Longest window, context included."""
    search_seconds: float = 8.0
    """A cut is sought in this much of the end of the largest possible core, then in the rest of its second half."""
    min_pause_seconds: float = 0.1
    """Shortest pause that is cut in."""
    context_seconds: float = 1.5
    """How far both windows reach over a forced cut."""
    forced_search_seconds: float = 2.5
    """A forced cut is sought in this much of the end of the largest possible core."""
    silence_seconds: float = 2.0
    """From this length on a pause is a silence; windows with speech keep half of it at either side."""
    speech_threshold: float = 0.5
    """Probability from which a chunk is speech."""
    min_speech_seconds: float = 0.064
    """Shorter speech is a click."""
    speech_pad_seconds: float = 0.3
    """Spans of speech are widened by this: the detector finds soft word edges up to 280 ms late."""
    endpoint_seconds: float = 0.0
    """A pause of this length after speech ends a window at once; 0 lets windows grow to their full length."""
    chunk_samples: int = 512
    """Samples that one probability stands for."""

    def __post_init__(self) -> None:
        seconds = {name: value for name, value in vars(self).items() if name.endswith("_seconds")}
        for name, value in seconds.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, not {value}")
        if self.sample_rate < _HOPS_A_SECOND or self.chunk_samples < 1:
            raise ValueError(f"sample_rate must be {_HOPS_A_SECOND} or more and chunk_samples positive")
        if not 0.01 <= self.speech_threshold <= 1:
            raise ValueError(f"speech_threshold must lie in 0.01..1, not {self.speech_threshold}")
        # Half of a core that starts with context must hold the forced cut and the context after it.
        needed = 3 * self.context_seconds + 2 * _FORCED_CUT_SECONDS
        if self.samples(self.max_seconds) < self.samples(needed) + 4:
            raise ValueError(f"max_seconds must be more than {needed:g}, three times context_seconds")

    @property
    def pause_threshold(self) -> float:
        """Probability below which a chunk is a pause; between the two it is what its neighbours are. Silero's own rule."""
        return max(0.01, self.speech_threshold - 0.15)

    def samples(self, seconds: float) -> int:
        """`seconds` as a number of samples."""
        return round(seconds * self.sample_rate)


@dataclass(frozen=True)
class Window:
    """One stretch of a recording, all positions in samples from its start.

    [start, end) is the core; [context_start, context_end) is what a recogniser gets. `speech` are the spans of speech in the
    core, padded. `forced_end` says that the cut to the next window is a forced one.
    """

    start: int
    end: int
    context_start: int
    context_end: int
    forced_end: bool = False
    speech: tuple[Span, ...] = ()

    @property
    def has_speech(self) -> bool:
        """Whether a recogniser needs to see the window."""
        return bool(self.speech)


class _Cut(NamedTuple):
    position: int
    forced: bool


@dataclass
class _View:
    """What one decision rests on: [start, end) of the stream from a core's start, and that part's pauses and speech.

    Whole chunks only: what a chunk past `end` says is not known yet.
    """

    start: int
    end: int
    pauses: list[Span] = field(default_factory=list)
    speech: list[Span] = field(default_factory=list)

    @property
    def middle(self) -> int:
        """No cut for want of room lies before it: windows would become many and short."""
        return (self.start + self.end) // 2

    @classmethod
    def of(cls, start: int, end: int, probabilities: Probabilities, limits: SplitLimits) -> "_View":
        """The view of [start, end); `probabilities[0]` is that of the chunk that holds `start`."""
        view = cls(start, end)
        chunk = limits.chunk_samples
        first = start // chunk
        shortest = limits.samples(limits.min_speech_seconds)
        voiced = probabilities >= limits.pause_threshold
        for is_voiced, begin, stop in _runs(voiced):
            a, b = max(start, (first + begin) * chunk), min(end, (first + stop) * chunk)
            if not is_voiced:
                view.pauses.append((a, b))
            elif probabilities[begin:stop].max() >= limits.speech_threshold and (
                # What reaches over the view's edge may be longer than what is seen of it.
                (stop - begin) * chunk >= shortest or stop == len(voiced)
            ):
                view.speech.append((a, b))
        return view


def _runs(flags: npt.NDArray[np.bool_]) -> Iterator[tuple[bool, int, int]]:
    """Runs of equal values, in order: (value, begin, stop)."""
    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    for begin, stop in itertools.pairwise(edges):
        if begin < stop:
            yield bool(flags[begin]), begin, stop


def _cut(view: _View, samples: Samples, limits: SplitLimits) -> _Cut:
    """Where the core that starts at `view.start` ends. `samples` are those up to `view.end`; the stream goes on after it."""
    if (onset := _after_silence(view, limits)) is not None:
        return onset
    margin = limits.samples(limits.silence_seconds / 2)
    search = view.end - limits.samples(limits.search_seconds)
    pause = _longest_pause(view, max(view.middle, search), limits) or _longest_pause(view, view.middle, limits)
    if pause is None:
        return _Cut(_quietest(view, samples, limits), forced=True)
    pause_start, begin, end = pause
    middle = (begin + end) // 2
    beside = pause_start + margin
    # A pause from the core's start on has no speech before it to stay close to.
    return _Cut(beside if view.start < pause_start and beside < middle else middle, forced=False)


def _after_silence(view: _View, limits: SplitLimits) -> _Cut | None:
    """Where a core that begins with a silence ends, so that the silence is one of its own; None if it begins with none."""
    margin = limits.samples(limits.silence_seconds / 2)
    onset = view.speech[0][0] if view.speech else view.end
    return _Cut(onset - margin, forced=False) if onset - view.start >= max(2 * margin, margin + 1) else None


def _longest_pause(view: _View, earliest: int, limits: SplitLimits) -> tuple[int, int, int] | None:
    """The longest pause from `earliest` on: where it starts, and the part of it [begin, end) from `earliest` on."""
    pauses = [(a, max(a, earliest), b) for a, b in view.pauses if b > earliest]
    longest = max(pauses, key=lambda pause: pause[2] - pause[1], default=None)
    enough = max(1, limits.samples(limits.min_pause_seconds))
    return longest if longest and longest[2] - longest[1] >= enough else None


def _quietest(view: _View, samples: Samples, limits: SplitLimits) -> int:
    """The middle of the 30 ms with the least energy, in steps of 10 ms, where a forced cut may lie."""
    hop = limits.sample_rate // _HOPS_A_SECOND
    last = view.end - limits.samples(limits.context_seconds)
    first = last - limits.samples(max(limits.forced_search_seconds, _FORCED_CUT_SECONDS))
    first = max(view.middle, first)
    part = samples[len(samples) - (view.end - first) : len(samples) - (view.end - last)].astype(np.float64)
    steps = len(part) // hop
    energy = (part[: steps * hop].reshape(steps, hop) ** 2).sum(axis=1)
    quietest = int(np.convolve(energy, np.ones(3), "valid").argmin())
    return first + quietest * hop + 3 * hop // 2


def _speech_within(view: _View, end: int, limits: SplitLimits) -> tuple[Span, ...]:
    """The view's speech in the core [view.start, end), padded within it; spans that then touch become one."""
    pad = limits.samples(limits.speech_pad_seconds)
    spans: list[Span] = []
    for a, b in view.speech:
        if a >= end:
            break
        start = max(view.start, a - pad)
        if spans and start <= spans[-1][1]:
            start = spans.pop()[0]
        spans.append((start, min(end, b + pad)))
    return tuple(spans)


class Splitter:
    """Cuts a stream into windows as it comes, holding one window's samples at most.

    The windows do not depend on how the stream is cut into packets.
    """

    def __init__(self, limits: SplitLimits) -> None:
        self._limits = limits
        self._longest = limits.samples(limits.max_seconds)
        # One sample more than a window: only when there is one is it known that the stream needs a cut.
        self._buffer: Samples = np.empty(self._longest + 1, np.float32)
        self._filled = 0
        self._context_start = 0  # of the window that is being collected; position of the buffer's first sample
        self._start = 0
        self._probabilities: Probabilities = np.zeros(0, np.float32)  # from the chunk that holds `_start` on

    def push(self, samples: Samples, probabilities: Probabilities) -> list[tuple[Window, Samples]]:
        """The windows that are now certain, each with its samples (context included).

        Args:
            samples: the stream's next samples, float32 [n], any n.
            probabilities: those of the chunks that these samples complete, float32 [k].

        Raises:
            ValueError: there are fewer probabilities than complete chunks.
        """
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        windows: list[tuple[Window, Samples]] = []
        taken = 0
        while taken < len(samples):
            count = min(len(samples) - taken, len(self._buffer) - self._filled, self._until_endpoint())
            self._buffer[self._filled : self._filled + count] = samples[taken : taken + count]
            self._filled += count
            taken += count
            windows += self._ended()
            while self._filled == len(self._buffer):
                windows.append(self._next())
        return windows

    @property
    def position(self) -> int:
        """Samples of the stream so far."""
        return self._context_start + self._filled

    @property
    def may_hold_speech(self) -> bool:
        """Whether `held` is worth a look for speech."""
        return bool((self._probabilities >= self._limits.speech_threshold).any())

    def held(self) -> tuple[Window, Samples]:
        """The window that is being collected, and its samples so far; where it will end is not known yet."""
        view = self._view(self.position, last=False)
        window = Window(
            start=self._start,
            end=self.position,
            context_start=self._context_start,
            context_end=self.position,
            speech=_speech_within(view, self.position, self._limits),
        )
        return window, self._buffer[: self._filled].copy()

    def _until_endpoint(self) -> int:
        """Samples after which the window may have ended: endpoints are sought chunk by chunk, whatever the packets are."""
        chunk = self._limits.chunk_samples
        return chunk - self.position % chunk if self._limits.endpoint_seconds else len(self._buffer)

    def _ended(self) -> list[tuple[Window, Samples]]:
        """The window that the pause at the stream's end completes, a silence before its speech apart; or nothing."""
        limits, chunk = self._limits, self._limits.chunk_samples
        if not limits.endpoint_seconds or self.position % chunk:
            return []
        pause = -(-limits.samples(limits.endpoint_seconds) // chunk)
        known = self._probabilities[: self.position // chunk - self._start // chunk]
        before, after = known[:-pause], known[-pause:]
        if not len(before) or before.max() < limits.speech_threshold or after.max() >= limits.pause_threshold:
            return []
        windows = []
        view = self._view(self.position, last=False)
        if not view.speech:
            return []
        if (onset := _after_silence(view, limits)) is not None:
            windows.append(self._emit(view, onset))
            view = self._view(self.position, last=False)
        windows.append(self._emit(view, _Cut(self.position - pause * chunk // 2, forced=False)))
        return windows

    def finish(self, probabilities: Probabilities) -> list[tuple[Window, Samples]]:
        """The last window, if samples are left; `probabilities` is that of the incomplete last chunk, if there is one."""
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        if self._start == self._context_start + self._filled:
            return []
        end = self._context_start + self._filled
        return [self._emit(self._view(end, last=True), _Cut(end, forced=False))]

    def _next(self) -> tuple[Window, Samples]:
        view = self._view(self._context_start + self._longest, last=False)
        return self._emit(view, _cut(view, self._buffer[: self._longest], self._limits))

    def _view(self, end: int, *, last: bool) -> _View:
        chunk = self._limits.chunk_samples
        count = end // chunk - self._start // chunk
        if len(self._probabilities) < count:
            raise ValueError(f"{count} chunks are complete, but there are {len(self._probabilities)} probabilities")
        # A chunk that reaches over `end` counts at the stream's end only: elsewhere it would depend on the packets
        # whether its probability is known by now.
        return _View.of(self._start, end, self._probabilities[: count + last], self._limits)

    def _emit(self, view: _View, cut: _Cut) -> tuple[Window, Samples]:
        context = self._limits.samples(self._limits.context_seconds) if cut.forced else 0
        window = Window(
            start=self._start,
            end=cut.position,
            context_start=self._context_start,
            context_end=cut.position + context,
            forced_end=cut.forced,
            speech=_speech_within(view, cut.position, self._limits),
        )
        samples = self._buffer[: window.context_end - self._context_start].copy()
        self._advance(cut, context)
        return window, samples

    def _advance(self, cut: _Cut, context: int) -> None:
        chunk = self._limits.chunk_samples
        self._probabilities = self._probabilities[cut.position // chunk - self._start // chunk :]
        next_context_start = cut.position - context
        dropped = next_context_start - self._context_start
        self._buffer[: self._filled - dropped] = self._buffer[dropped : self._filled].copy()
        self._filled -= dropped
        self._context_start, self._start = next_context_start, cut.position
