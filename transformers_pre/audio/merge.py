"""One transcript from the results of a recording's windows: absolute times, ids, text, joins over forced cuts.

It decides nothing about what was said but two things: text where no speech is heard is dropped, and of two readings of the
stretch around a forced cut one is kept (`overlap`). Asking the recogniser, and the formats of the answer, are elsewhere.
"""

import itertools
from collections.abc import Sequence

from pydantic import BaseModel

from serving.contracts.asr import AsrResult, Segment, Task, Word
from transformers_pre.audio import overlap
from transformers_pre.audio.split import SplitLimits, Window

_SILENCE_SLACK = 0.5  # seconds; text this near to speech may be of it: recognisers' times are not exact
_UNCOVERED_SECONDS = 1.0  # speech that a result may leave at the window's end before it is decoded again


class TranscriptSegment(BaseModel):
    """One segment of a transcript; times in seconds from the recording's start, statistics as openai-whisper defines them.

    `text` begins with the white space that separates it from the one before; joined, the texts are the transcript's.
    `seek` is the start of the window it was decoded in, in 10 ms frames. A segment that was trimmed at a forced cut has no
    tokens.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None = None
    channel: int | None = None
    """Counted from 0, where the channels were transcribed each by itself."""


class Transcript(BaseModel):
    """What was said in a recording of `duration` seconds.

    `text` is exactly the segments' texts joined, ids count from 0, starts and ends never decrease, and no end is beyond
    `duration`. `language` is an ISO-639-1 code.
    """

    text: str
    language: str | None = None
    duration: float
    task: Task = "transcribe"
    segments: list[TranscriptSegment]


class TranscriptBuilder:
    """Makes a transcript of windows that come in order. What it returned is final.

    At a forced cut the end of the left window is held back until the right one is there.

    Args:
        task: what the transcript says it is.
        limits: those that the windows were cut by.
        words: whether the segments list words; the joins use them in any case.
        keep: whether `finish` gives a transcript. Live audio may go on for days, so nothing of it is kept.
    """

    def __init__(self, task: Task, limits: SplitLimits, *, words: bool = True, keep: bool = True):
        self._task: Task = task
        self._limits = limits
        self._words = words
        self._keep = keep
        self._text = _Text()
        self._segments: list[TranscriptSegment] = []
        self._count = 0
        self._ended = 0.0
        self._held: tuple[Window, list[Segment]] | None = None
        self._shown: Window | None = None  # the window of the last segment that is final
        self._language: str | None = None
        self._told_by_text = False  # a window with text knows its language better than one without

    def add(self, window: Window, result: AsrResult | None) -> list[TranscriptSegment]:
        """The segments that are now final.

        Args:
            window: the next window; one without speech may be left out.
            result: what was recognised in it, times from its `context_start`; None where it was not decoded.
        """
        segments = [] if result is None else self._placed(window, result)
        if result is not None and result.language:
            self._note_language(result.language, told_by_text=bool(segments))
        final: list[TranscriptSegment] = []
        if self._held is not None:
            left_window, left = self._held
            if result is not None and left_window.end == window.start:
                left, segments = self._join(left_window, left, window, segments)
            final += self._finalise(left_window, left)
            self._held = None
        if window.forced_end:
            safe = window.end / self._limits.sample_rate - self._limits.context_seconds - overlap.SLACK_SECONDS
            count = next((index for index, segment in enumerate(segments) if segment.end > safe), len(segments))
            self._held = (window, segments[count:])
            segments = segments[:count]
        return final + self._finalise(window, segments)

    def finish(self, duration: float) -> tuple[list[TranscriptSegment], Transcript]:
        """The segments held until now, and the transcript: all segments ever returned. `duration` in seconds."""
        rest = self.flush()
        transcript = Transcript(
            text="".join(segment.text for segment in self._segments),
            language=self._language,
            duration=duration,
            task=self._task,
            segments=self._segments,
        )
        return rest, transcript

    def flush(self) -> list[TranscriptSegment]:
        """The segments held until now; no window follows."""
        rest = self._finalise(*self._held) if self._held is not None else []
        self._held = None
        return rest

    def _note_language(self, language: str, *, told_by_text: bool) -> None:
        if self._language is None or (told_by_text and not self._told_by_text):
            self._language, self._told_by_text = language, told_by_text

    def _placed(self, window: Window, result: AsrResult) -> list[Segment]:
        """The window's segments with absolute times, in order, inside the window; without those where nobody speaks."""
        first, last = self._seconds((window.context_start, window.context_end))
        segments = [segment for segment in result.segments if segment.text.strip()]
        starts: list[float] = []
        for segment in segments:
            earliest = starts[-1] if starts else first
            starts.append(min(max(first + segment.start, earliest), last))
        placed: list[Segment] = []
        separate = False
        for segment, (start, following) in zip(segments, itertools.pairwise([*starts, last]), strict=True):
            end = max(start, min(first + segment.end, following))
            # Only words have times that are true enough to drop text by them.
            if segment.words and self._is_silent(window, start, end):
                separate = True
                continue
            text = segment.text
            if separate and placed and overlap.needs_space(placed[-1].text, text):
                text = f" {text}"
            separate = False
            words = _placed_words(segment.words, first, start, end)
            placed.append(segment.model_copy(update={"start": start, "end": end, "text": text, "words": words}))
        return placed

    def _is_silent(self, window: Window, start: float, end: float) -> bool:
        """Whether [start, end] is far from any speech. A window without spans says nothing about it."""
        spans = self._voiced(window)
        return bool(window.speech) and not any(
            a - _SILENCE_SLACK <= end and start <= b + _SILENCE_SLACK for a, b in spans
        )

    def _voiced(self, window: Window) -> list[tuple[float, float]]:
        """Where the window may hold speech: its spans, and the contexts, of which it knows nothing."""
        spans = [(window.context_start, window.start), *window.speech, (window.end, window.context_end)]
        return [self._seconds(span) for span in spans if span[0] < span[1]]

    def _join(
        self, left_window: Window, left: list[Segment], right_window: Window, right: list[Segment]
    ) -> tuple[list[Segment], list[Segment]]:
        voiced = (self._voiced(left_window), self._voiced(right_window))
        cut = right_window.start / self._limits.sample_rate
        return overlap.join(left, right, cut, self._limits.context_seconds, voiced)

    def _finalise(self, window: Window, segments: Sequence[Segment]) -> list[TranscriptSegment]:
        """Numbers the segments and makes them follow what is final."""
        _, last = self._seconds((window.context_start, window.context_end))
        final: list[TranscriptSegment] = []
        for segment in segments:
            start = max(min(round(segment.start, 3), last), self._ended)
            end = max(min(round(segment.end, 3), last), start)
            text = self._text.append(segment.text, new=self._shown is not window)
            self._ended, self._shown = end, window
            statistics = segment.model_dump(exclude={"start", "end", "text", "words"})
            final.append(
                TranscriptSegment(
                    id=self._count + len(final),
                    seek=window.context_start * 100 // self._limits.sample_rate,
                    start=start,
                    end=end,
                    text=text,
                    words=_rounded(segment.words, start, end) if self._words else None,
                    **statistics,
                )
            )
        self._count += len(final)
        if self._keep:
            self._segments += final
        return final

    def _seconds(self, span: tuple[int, int]) -> tuple[float, float]:
        return span[0] / self._limits.sample_rate, span[1] / self._limits.sample_rate


class _Text:
    """The end of a text that grows: white space there waits for what follows, so that the text never ends with any."""

    def __init__(self) -> None:
        self._last = ""  # its last character
        self._space = ""

    def append(self, text: str, *, new: bool) -> str:
        """Appends `text` and returns what that added. `new`: it comes from another window, so a space may be missing."""
        if not self._last:
            text = text.lstrip()
        elif self._space and not text[0].isspace():
            text = self._space + text
        elif new and overlap.needs_space(self._last, text):
            text = f" {text}"
        added = text.rstrip()
        self._space = text[len(added) :]
        self._last = added[-1:] or self._last
        return added


def uncovered(window: Window, result: AsrResult, limits: SplitLimits) -> tuple[int, int] | None:
    """The stretch [start, end) in samples of the recording that a result leaves out although more than 1 s of it is speech.

    It is what follows the last segment's end, up to the window's end with its context. None if there is none, or if it
    would be the whole window again.
    """
    pad = limits.samples(limits.speech_pad_seconds)
    ends = [segment.end for segment in result.segments if segment.text.strip()]
    covered = window.context_start + limits.samples(max(ends, default=0.0))
    # The spans are padded; what counts is the speech itself.
    left_out = [(a, a + pad, b - pad) for a, b in window.speech if b - pad > covered]
    speech = sum(max(0, end - max(start, covered)) for _, start, end in left_out)
    if speech <= limits.samples(_UNCOVERED_SECONDS):
        return None
    start = max(left_out[0][0], covered)
    return (start, window.context_end) if start > window.context_start else None


def with_redecoded(result: AsrResult, offset: float, extra: AsrResult) -> AsrResult:
    """`result` followed by what was recognised in its `uncovered` stretch.

    Args:
        result: the window's result.
        offset: where the stretch starts, in seconds from the start of the window's samples.
        extra: the stretch's result, times from its own start. Words that `result` ends with are not repeated.
    """
    shifted = [_shifted(segment, offset) for segment in extra.segments]
    added = overlap.without_repeated_start(result.segments, shifted)
    text = "".join(segment.text for segment in added)
    if added and overlap.needs_space(result.text, text):
        added[0] = added[0].model_copy(update={"text": f" {added[0].text}"})
        text = f" {text}"
    return result.model_copy(update={"text": result.text + text, "segments": [*result.segments, *added]})


def interleave(transcripts: Sequence[Transcript]) -> Transcript:
    """One transcript of the channels of a recording: all segments in the order of their starts, numbered anew.

    Segments of different channels may overlap; each says its channel. The language is that of the first channel that has one.
    """
    text = _Text()
    segments: list[TranscriptSegment] = []
    spoken_in = [(channel, segment) for channel, each in enumerate(transcripts) for segment in each.segments]
    for channel, segment in sorted(spoken_in, key=lambda pair: pair[1].start):
        changes = {"id": len(segments), "text": text.append(segment.text, new=True), "channel": channel}
        segments.append(segment.model_copy(update=changes))
    spoken = next((each for each in transcripts if each.language is not None), transcripts[0])
    return spoken.model_copy(
        update={
            "text": "".join(segment.text for segment in segments),
            "segments": segments,
            "duration": max(each.duration for each in transcripts),
        }
    )


def _shifted(segment: Segment, offset: float) -> Segment:
    words = segment.words and [
        word.model_copy(update={"start": word.start + offset, "end": word.end + offset}) for word in segment.words
    ]
    return segment.model_copy(update={"start": segment.start + offset, "end": segment.end + offset, "words": words})


def _placed_words(words: Sequence[Word] | None, offset: float, first: float, last: float) -> list[Word] | None:
    """The words with `offset` added to their times, in order and inside [first, last]."""
    if words is None:
        return None
    placed: list[Word] = []
    for word in words:
        start = min(max(word.start + offset, first), last)
        end = min(max(word.end + offset, start), last)
        placed.append(word.model_copy(update={"start": start, "end": end}))
        first = start
    return placed


def _rounded(words: Sequence[Word] | None, first: float, last: float) -> list[Word] | None:
    """The words with times in whole milliseconds, inside [first, last]."""
    if words is None:
        return None
    placed = _placed_words(words, 0.0, first, last) or []
    times = [(max(first, min(round(word.start, 3), last)), min(round(word.end, 3), last)) for word in placed]
    return [word.model_copy(update={"start": a, "end": max(a, b)}) for word, (a, b) in zip(placed, times, strict=True)]
