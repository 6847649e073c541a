"""Windows of live speech: an utterance ends with its pause, at once, and in the pause; silences stay apart."""

import numpy as np

from tests.unit.audio.voices import probabilities, recorded
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.split import Samples, SplitLimits, Splitter, Window

CHUNK = 512
LIMITS = AudioSettings().live_limits()
PAUSE = LIMITS.samples(LIMITS.endpoint_seconds)


def chunks(seconds: float) -> int:
    return round(seconds * LIMITS.sample_rate / CHUNK)


def windows(*runs: tuple[float, float], limits: SplitLimits = LIMITS) -> list[tuple[int, Window]]:
    """The windows of runs of (probability, seconds), each with the position of the stream at which it came out."""
    known = np.concatenate([np.full(chunks(seconds), value, np.float32) for value, seconds in runs])
    splitter, found = Splitter(limits), []
    for probability in known:
        for window, _ in splitter.push(np.zeros(CHUNK, np.float32), np.array([probability])):
            found.append((splitter.position, window))
    return [*found, *((splitter.position, window) for window, _ in splitter.finish(np.zeros(0, np.float32)))]


def test_an_utterance_ends_as_soon_as_its_pause_is_long_enough() -> None:
    (first, second, rest) = windows((0.0, 0.3), (1.0, 2.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.8))
    speech_end = (chunks(0.3) + chunks(2.0)) * CHUNK
    told_at, window = first
    assert PAUSE <= told_at - speech_end < PAUSE + CHUNK
    assert speech_end < window.end < told_at
    assert abs(window.end - (speech_end + PAUSE / 2)) <= CHUNK
    assert (window.has_speech, window.forced_end) == (True, False)
    assert second[1].has_speech
    assert not rest[1].has_speech


def test_a_shorter_pause_ends_nothing() -> None:
    found = windows((1.0, 2.0), (0.0, 0.4), (1.0, 2.0), (0.0, 1.0))
    assert [window.has_speech for _, window in found] == [True, False]


def test_a_long_silence_is_no_part_of_the_utterance_after_it() -> None:
    found = [window for _, window in windows((0.0, 8.0), (1.0, 1.0), (0.0, 1.0))]
    silence, speech = found[0], found[1]
    assert not silence.has_speech
    assert speech.start == silence.end
    onset = chunks(8.0) * CHUNK
    assert onset - LIMITS.samples(LIMITS.silence_seconds / 2) - CHUNK <= speech.start < onset


def test_unbroken_speech_is_cut_inside_it_when_it_is_too_long() -> None:
    found = [window for _, window in windows((1.0, 40.0))]
    assert [window.forced_end for window in found] == [True] * (len(found) - 1) + [False]
    assert max(window.context_end - window.context_start for window in found) <= LIMITS.samples(LIMITS.max_seconds)
    assert len(found) == 4


def test_noise_that_is_no_speech_ends_nothing_and_a_click_is_no_utterance() -> None:
    assert not any(window.has_speech for _, window in windows((0.4, 20.0)))
    assert not any(window.has_speech for _, window in windows((0.0, 1.0), (1.0, 0.032), (0.0, 3.0)))


def cut_into_packets(samples: Samples, known: np.ndarray, sizes: list[int]) -> list[Window]:
    splitter, found, start, told = Splitter(LIMITS), [], 0, 0
    for size in sizes:
        end = min(len(samples), start + size)
        complete = end // CHUNK
        found += splitter.push(samples[start:end], known[told:complete])
        start, told = end, complete
    found += splitter.push(samples[start:], known[told : len(samples) // CHUNK])
    found += splitter.finish(known[len(samples) // CHUNK :])
    return [window for window, _ in found]


def test_packets_make_no_difference() -> None:
    samples = recorded()
    known = probabilities([samples])
    whole = cut_into_packets(samples, known, [len(samples)])
    draw = np.random.default_rng(1)
    for sizes in ([160] * 10_000, [1, 511, 512, 513] * 1000, draw.integers(1, 50_000, 1000).tolist()):
        assert cut_into_packets(samples, known, sizes) == whole
    assert [window.has_speech for window in whole] == [False, True, True]
