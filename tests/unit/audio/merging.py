"""Windows, results and the transcript they make, with what always holds of it checked; for the tests of this folder."""

from collections.abc import Sequence

from serving.contracts.asr import AsrResult, Segment, Word
from transformers_pre.audio.merge import Transcript, TranscriptBuilder, TranscriptSegment
from transformers_pre.audio.split import SplitLimits, Window

LIMITS = SplitLimits(sample_rate=1000, chunk_samples=32)
RATE = LIMITS.sample_rate


def result(*segments: tuple[float, float, str], language: str | None = "en") -> AsrResult:
    found = [Segment(start=start, end=end, text=text) for start, end, text in segments]
    return AsrResult(text="".join(segment.text for segment in found), language=language, segments=found)


def timed(*segments: tuple[float, float, str]) -> AsrResult:
    """A result whose segments have words, one each, so that their times are to be trusted."""
    found = result(*segments)
    for segment in found.segments:
        segment.words = [Word(word=segment.text, start=segment.start, end=segment.end)]
    return found


def window(start: float, end: float, speech: Sequence[tuple[float, float]] | None = None) -> Window:
    """A window between pauses, with speech all over by default."""
    a, b = int(start * RATE), int(end * RATE)
    spans = [(start, end)] if speech is None else speech
    return Window(a, b, a, b, speech=tuple((int(x * RATE), int(y * RATE)) for x, y in spans))


def merged(pieces: Sequence[tuple[Window, AsrResult | None]], duration: float | None = None) -> Transcript:
    """The transcript, after what always holds was checked."""
    builder = TranscriptBuilder("transcribe", LIMITS)
    returned: list[TranscriptSegment] = []
    for each, found in pieces:
        returned += builder.add(each, found)
    if duration is None:
        duration = pieces[-1][0].end / RATE if pieces else 0.0
    rest, transcript = builder.finish(duration)
    returned += rest
    assert transcript.segments == returned
    check(transcript)
    return transcript


def check(transcript: Transcript) -> None:
    segments = transcript.segments
    assert transcript.text == "".join(segment.text for segment in segments)
    assert transcript.text == transcript.text.strip()
    assert [segment.id for segment in segments] == list(range(len(segments)))
    times = [time for segment in segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert all(0 <= time <= transcript.duration for time in times)
    for segment in segments:
        assert segment.text.strip()
        words = segment.words or []
        assert all(segment.start <= word.start <= word.end <= segment.end for word in words)
        assert [word.start for word in words] == sorted(word.start for word in words)


def forced_pair() -> tuple[Window, Window]:
    """Windows of 0-20 s and 20-40 s, with 1.5 s of context over the cut."""
    left = Window(0, 20_000, 0, 21_500, forced_end=True, speech=((0, 20_000),))
    return left, Window(20_000, 40_000, 18_500, 40_000, speech=((20_000, 40_000),))
