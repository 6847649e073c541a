"""(b) Words lost or doubled within a second of a cut: our windows and joins, hard 30 s cuts, quietest-100-ms cuts.

One recogniser reads the same ten minutes three times; only where the windows lie, and how they are joined, differs. What
was said is taken from each clip decoded alone, where nothing is cut.
"""

import string
from collections.abc import Callable, Iterator

import numpy as np

from predictors.whisper.model import engine
from predictors.whisper.settings import WhisperSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from tests.bench import cuts
from tests.bench.losses import NEAR, Spoken, count
from tests.bench.report import Section
from tests.bench.speech import RATE, Samples, speech
from transformers_pre.audio.merge import TranscriptBuilder
from transformers_pre.audio.split import SplitLimits, Splitter, Window
from transformers_pre.audio.vad import VoiceActivity

Recognise = Callable[[Samples], AsrResult]


def spoken(words: Iterator[tuple[str, float, float]]) -> list[Spoken]:
    """Words without case and punctuation."""
    marks = str.maketrans("", "", string.punctuation)
    found = [Spoken(text.lower().translate(marks).strip(), (start + end) / 2) for text, start, end in words]
    return [word for word in found if word.text]


def timed(result: AsrResult, offset: float) -> Iterator[tuple[str, float, float]]:
    """Word, start and end in seconds of a window that starts at `offset`."""
    for segment in result.segments:
        for word in segment.words or []:
            yield word.word, word.start + offset, word.end + offset


def plain(samples: Samples, ends: list[int], recognise: Recognise) -> list[Spoken]:
    """Windows that meet without context, their words one after the other."""
    words: list[Spoken] = []
    for start, end in zip([0, *ends], [*ends, len(samples)], strict=True):
        words += spoken(timed(recognise(samples[start:end]), start / RATE))
    return words


def our_windows(samples: Samples, limits: SplitLimits) -> list[tuple[Window, Samples]]:
    """The windows of a recording, as the audio transformer cuts it."""
    splitter = Splitter(limits)
    with VoiceActivity() as voice:
        return splitter.push(samples, voice.push(samples)) + splitter.finish(voice.finish())


def ours(samples: Samples, recognise: Recognise, limits: SplitLimits) -> tuple[list[Spoken], list[int]]:
    """Our windows and joins; the words, and where windows end."""
    windows = our_windows(samples, limits)
    builder = TranscriptBuilder("transcribe", limits)
    for window, part in windows:
        builder.add(window, recognise(part) if window.has_speech else None)
    transcript = builder.finish(len(samples) / RATE)[1]
    words = ((word.word, word.start, word.end) for segment in transcript.segments for word in segment.words or [])
    return spoken(words), [window.end for window, _ in windows[:-1]]


def _places(method: cuts.Hard | cuts.Quietest, samples: Samples) -> list[int]:
    method.push(samples)
    return [cut for cut, _ in method.cuts]


def run(seconds: float = 600.0) -> Section:
    """The section for the report."""
    recogniser = engine(WhisperSettings(model_id="demo:whisper-base", num_threads=2))
    recogniser.load()
    options = AsrOptions(language="en", timestamps="word")

    def recognise(samples: Samples) -> AsrResult:
        result = recogniser.run([AsrInput(np.ascontiguousarray(samples), options)])[0]
        assert isinstance(result, AsrResult)
        return result

    samples, clips = speech(seconds)
    alone = {clip.name: recognise(clip.samples) for clip in clips}
    said = [word for clip in clips for word in spoken(timed(alone[clip.name], clip.start / RATE))]
    samples = samples[: clips[-1].start + len(clips[-1].samples)]
    section = Section(
        "Words at the cuts",
        f"{len(samples) / RATE:.0f} s of speech, one recogniser; words lost and doubled within {NEAR:g} s of a cut.",
    )
    heard, ends = ours(samples, recognise, SplitLimits())
    lost, added = count(said, (word.text for word in heard), ends)
    section.row("sonotome", f"{lost} lost, {added} doubled at {len(ends)} cuts")
    for method in (cuts.Hard(), cuts.Quietest()):
        places = _places(method, samples)
        heard = plain(samples, places, recognise)
        lost, added = count(said, (word.text for word in heard), places)
        section.row(method.name, f"{lost} lost, {added} doubled at {len(places)} cuts")
    recogniser.close()
    return section
