"""Where live speech is cut: our rule and the one of the service that was there before, restated. What a recogniser makes of it.

The other rule: of each new buffer the last two thirds are searched from the end for two voiceless frames in a row, and without
them the cut is a third into the buffer. Its frames were WebRTC's of 20 ms; here both see the same voice activity, every 32 ms.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from tests.bench.boundaries import count, ours, plain, spoken, timed
from tests.bench.report import Section
from tests.russian import joined, sentences
from tests.services import MODELS
from tests.synthesis import SAMPLE_RATE, Samples, phrases
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import SplitLimits, Splitter
from transformers_pre.audio.vad import CHUNK_SAMPLES, VoiceActivity

HOURS = 1.0
SENTENCES = 80
PAUSE_SECONDS = 0.25  # too short to end an utterance
_BUFFER_SECONDS = 10  # the other service's default
_QUIET_FRAMES = 2


def other_rule(samples: Samples) -> list[int]:
    """Where the other rule cuts, in samples."""
    with VoiceActivity() as voice:
        voiced = voice.push(samples) >= 0.5
    size = _BUFFER_SECONDS * SAMPLE_RATE // CHUNK_SAMPLES
    cuts = []
    for start in range(0, len(voiced) - size, size):
        earliest = start + size // 3
        silent = (at for at in range(start + size - 2, earliest - 1, -1) if not voiced[at : at + _QUIET_FRAMES].any())
        cuts.append(next(silent, earliest) * CHUNK_SAMPLES)
    return cuts


def _our_windows(samples: Samples, limits: SplitLimits) -> Iterator[tuple[int, bool]]:
    splitter = Splitter(limits)
    with VoiceActivity() as voice:
        for window, _ in splitter.push(samples, voice.push(samples)):
            yield window.end, window.forced_end


def _inside(cuts: list[int], spans: np.ndarray) -> int:
    """How many cuts lie inside a word; `spans` [n, 2] are the words' in order."""
    places = np.array(cuts)
    before = np.maximum(np.searchsorted(spans[:, 0], places) - 1, 0)
    return int(((spans[before, 0] < places) & (places < spans[before, 1])).sum())


def _share(section: Section, limits: SplitLimits) -> None:
    parts, spans, position = [], [], 0
    for phrase in phrases(0, ("ru",)):
        parts.append(phrase.samples)
        spans += [(position + start, position + end) for _, start, end in phrase.words]
        position += len(phrase.samples)
        if position > HOURS * 3600 * SAMPLE_RATE:
            break
    samples, words = np.concatenate(parts), np.array(spans)
    found = list(_our_windows(samples, limits))
    forced = [cut for cut, is_forced in found if is_forced]
    ways = {"sonotome": [cut for cut, _ in found], "the other rule": other_rule(samples)}
    for name, cuts in ways.items():
        inside = _inside(cuts, words)
        note = f", {len(forced)} forced ({_inside(forced, words) if forced else 0} of them inside a word)"
        section.row(
            f"{name}: cuts inside a word",
            f"{inside} of {len(cuts)} ({inside / len(cuts):.1%})" + (note if name == "sonotome" and forced else ""),
        )


def _errors(section: Section, limits: SplitLimits) -> None:
    recogniser = engine(KaldiSettings(model_id=str(MODELS / "vosk5"), num_threads=1))
    recogniser.load()
    options = AsrOptions(timestamps="word")

    def recognise(part: Samples) -> AsrResult:
        (result,) = recogniser.run([AsrInput(np.ascontiguousarray(part), options)])
        assert isinstance(result, AsrResult)
        return result

    _, sounds = sentences(SENTENCES, seed=5)
    samples = joined(sounds, PAUSE_SECONDS)
    starts = itertools.accumulate((len(sound) / SAMPLE_RATE + PAUSE_SECONDS for sound in sounds), initial=0.0)
    said = [
        word for sound, start in zip(sounds, starts, strict=False) for word in spoken(timed(recognise(sound), start))
    ]
    heard, ends = ours(samples, recognise, limits)
    places = other_rule(samples)
    for name, words, cuts in (("sonotome", heard, ends), ("the other rule", plain(samples, places, recognise), places)):
        lost, added = count(said, words, cuts)
        section.row(
            f"{name}: words lost / doubled within a second of a cut",
            f"{lost} / {added} at {len(cuts)} cuts ({(lost + added) / max(1, len(cuts)):.2f} a cut)",
        )
    recogniser.close()


def run() -> Section:
    """The section for the report."""
    limits = AudioSettings().live_limits()
    section = Section(
        "Cuts in live speech",
        f"Running synthetic Russian: {HOURS:g} h with known word spans for the places of the cuts; {SENTENCES} sentences that "
        f"are {PAUSE_SECONDS:g} s apart, by the small Vosk 5 model, against the same sentences alone, for words.",
    )
    _share(section, limits)
    _errors(section, limits)
    return section
