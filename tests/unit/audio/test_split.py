"""The splitter: what holds for any audio and limits, that packets make no difference, and where it cuts real speech."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench import cuts as cuts_bench
from tests.synthesis import fluent
from tests.unit.audio.splitting import split
from tests.unit.audio.voices import probabilities, recorded
from transformers_pre.audio.split import Probabilities, Samples, SplitLimits, Splitter, Window
from transformers_pre.audio.vad import CHUNK_SAMPLES, SAMPLE_RATE

RATE = 1000  # samples per second of made-up audio: small numbers, the same arithmetic
CHUNK = 32


@st.composite
def split_limits(draw: st.DrawFn) -> SplitLimits:
    context = draw(st.sampled_from([0.0, 0.3, 1.5]))
    return SplitLimits(
        sample_rate=RATE,
        max_seconds=3 * context + 0.1 + draw(st.floats(0.0, 20)),
        search_seconds=draw(st.floats(0, 20)),
        min_pause_seconds=draw(st.floats(0, 1)),
        context_seconds=context,
        forced_search_seconds=draw(st.floats(0, 5)),
        silence_seconds=draw(st.floats(0, 5)),
        speech_threshold=draw(st.floats(0.01, 1)),
        min_speech_seconds=draw(st.floats(0, 0.5)),
        speech_pad_seconds=draw(st.floats(0, 0.5)),
        endpoint_seconds=draw(st.sampled_from([0.0, 0.0, 0.03, 0.1, 0.5, 2.0])),
        chunk_samples=CHUNK,
    )


@st.composite
def streams(draw: st.DrawFn) -> tuple[Samples, Probabilities]:
    """Noise of any length and loudness, with runs of probabilities of any kind."""
    seconds = draw(st.floats(0, 60))
    length = int(seconds * RATE)
    source = np.random.default_rng(draw(st.integers(0, 99)))
    samples = source.standard_normal(length).astype(np.float32) * np.float32(draw(st.sampled_from([0, 0.01, 1])))
    runs = draw(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 300)), max_size=20))
    values = [value for value, count in runs for _ in range(count)]
    found = source.random(-(-length // CHUNK)).astype(np.float32)
    count = min(len(values), len(found))
    found[:count] = values[:count]
    return samples, found


def check(windows: list[Window], length: int, limits: SplitLimits) -> None:
    """What holds for any stream."""
    assert [window.start for window in windows] == [0, *(window.end for window in windows)][: len(windows)]
    assert (windows[-1].end if windows else 0) == length
    context = limits.samples(limits.context_seconds)
    for window in windows:
        assert window.start < window.end
        assert window.context_end - window.context_start <= limits.samples(limits.max_seconds)
        assert window.context_end - window.end == (context if window.forced_end else 0)
        assert window.context_start >= 0
        assert window.context_end <= length
        edges = [window.start, *(edge for span in window.speech for edge in span), window.end]
        assert edges == sorted(edges)
        assert all(a < b for a, b in window.speech)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(window.speech))
        assert window.has_speech == bool(window.speech)
    for window, before in zip(windows, [None, *windows], strict=False):
        forced = before is not None and before.forced_end
        assert window.start - window.context_start == (context if forced else 0)
    assert not windows or not windows[-1].forced_end


@settings(max_examples=150, deadline=None)
@given(split_limits(), streams())
def test_cores_cover_any_stream_exactly(limits: SplitLimits, stream: tuple[Samples, Probabilities]) -> None:
    samples, found = stream
    check(split(samples, found, limits), len(samples), limits)


@settings(max_examples=75, deadline=None)
@given(split_limits(), streams(), st.lists(st.integers(0, 4000), max_size=40))
def test_packets_make_no_difference(
    limits: SplitLimits, stream: tuple[Samples, Probabilities], sizes: list[int]
) -> None:
    samples, found = stream
    splitter = Splitter(limits)
    given_out: list[tuple[Window, Samples]] = []
    position = chunks = 0
    for packet in np.split(samples, np.minimum(np.cumsum(sizes), len(samples)).astype(int)):
        position += len(packet)
        complete = position // CHUNK
        given_out += splitter.push(packet, found[chunks:complete])
        chunks = complete
    given_out += splitter.finish(found[chunks:])
    assert [window for window, _ in given_out] == split(samples, found, limits)
    for window, part in given_out:
        assert part.tolist() == samples[window.context_start : window.context_end].tolist()


def made_up(spans: list[tuple[float, float]], seconds: float) -> tuple[Samples, Probabilities, SplitLimits]:
    """`seconds` with speech in `spans`, at the test's own rate; all of it equally loud."""
    limits = SplitLimits(sample_rate=RATE, chunk_samples=10)
    middles = (np.arange(int(seconds * 100)) + 0.5) / 100
    voiced = np.zeros(len(middles), bool)
    for a, b in spans:
        voiced |= (middles >= a) & (middles < b)
    return np.ones(int(seconds * RATE), np.float32), np.where(voiced, 0.9, 0.1).astype(np.float32), limits


def cores(windows: list[Window]) -> list[tuple[float, float]]:
    return [(window.start / RATE, window.end / RATE) for window in windows]


def test_a_cut_is_in_the_middle_of_the_longest_pause_of_the_last_seconds() -> None:
    spans = [(0, 10), (11, 23), (23.15, 25), (25.3, 27), (27.2, 40)]  # the longest pause of all is too early
    windows = split(*made_up(spans, 40))
    assert cores(windows) == [(0, 25.15), (25.15, 40)]
    assert not windows[0].forced_end


def test_an_earlier_pause_is_better_than_none() -> None:
    assert cores(split(*made_up([(0, 16), (16.2, 18), (18.1, 40)], 40))) == [(0, 16.1), (16.1, 40)]


def test_without_a_pause_the_cut_is_forced_at_the_quietest_place() -> None:
    samples, found, limits = made_up([(0, 40)], 40)
    samples[26_990:27_020] = 0.1
    samples[20_000:20_100] = 0  # too early: the left window would be short for no gain
    first, second = split(samples, found, limits)
    assert 26_990 < first.end < 27_020
    assert first.forced_end
    assert first.context_end == first.end + 1500
    assert second.context_start == first.end - 1500
    assert (second.end, second.context_end, second.forced_end) == (40_000, 40_000, False)


def test_a_pause_shorter_than_the_shortest_is_none() -> None:
    assert split(*made_up([(0, 25), (25.08, 40)], 40))[0].forced_end


def test_silences_become_windows_without_speech() -> None:
    windows = split(*made_up([(20, 30), (75, 80)], 130))
    assert cores(windows) == [(0, 19), (19, 31), (31, 60), (60, 74), (74, 81), (81, 110), (110, 130)]
    spoken = [window for window in windows if window.has_speech]
    assert [window.speech for window in spoken] == [((19_700, 30_300),), ((74_700, 80_300),)]


def test_pauses_inside_a_window_stay_in_it() -> None:
    windows = split(*made_up([(0, 3), (8, 11), (16, 19), (24, 26)], 30))
    assert cores(windows) == [(0, 30)]
    assert windows[0].speech == ((0, 3300), (7700, 11_300), (15_700, 19_300), (23_700, 26_300))


def test_a_click_is_no_speech() -> None:
    samples, found, limits = made_up([(5, 5.05), (9, 9.04)], 20)
    assert not split(samples, found, limits)[0].has_speech


def test_doubtful_chunks_are_what_their_neighbours_are() -> None:
    samples, found, limits = made_up([(5, 6)], 20)
    found[450:500] = 0.4  # before speech: its soft beginning
    found[1200:1300] = 0.4  # alone: nothing
    assert split(samples, found, limits)[0].speech == ((4200, 6300),)


def test_thirty_seconds_are_one_window() -> None:
    limits = SplitLimits()
    for samples in (fluent(30.0, seed=1)[0], recorded(), np.zeros(30 * SAMPLE_RATE, np.float32)):
        assert len(samples) == 30 * SAMPLE_RATE
        (window,) = split(samples, probabilities([samples]), limits)
        assert (window.context_start, window.start, window.end, window.context_end) == (0, 0, 480_000, 480_000)
        assert window.has_speech == bool(samples.any())


def test_one_sample_more_is_two() -> None:
    samples = np.zeros(30 * SAMPLE_RATE + 1, np.float32)
    assert len(split(samples, probabilities([samples]), SplitLimits())) == 2


def test_a_quiet_first_word_is_in_a_window_that_is_decoded() -> None:
    samples = np.concatenate([np.zeros(20 * SAMPLE_RATE, np.float32), recorded()])
    for window in split(samples, probabilities([samples]), SplitLimits()):
        if window.start < 26.68 * SAMPLE_RATE < window.end:
            assert window.has_speech
            assert window.speech[0][0] <= 26.68 * SAMPLE_RATE


@pytest.mark.parametrize("condition", ["clean", "8 kHz, 15 dB noise"])
def test_cuts_of_fluent_speech_are_between_words(condition: str) -> None:
    ours, hard, quietest = cuts_bench.measure(condition, cuts=10, seed=3)
    assert ours.in_word == ours.forced_in_word  # those in noise have context on both sides
    assert ours.forced <= (0 if condition == "clean" else 2)
    assert hard.in_word > 5
    assert quietest.in_word > 3


def test_memory_is_one_window() -> None:
    splitter = Splitter(SplitLimits())
    hour = np.zeros(60 * SAMPLE_RATE, np.float32)
    silence = np.zeros(len(hour) // CHUNK_SAMPLES, np.float32)
    for _ in range(30):
        splitter.push(hour, silence)
    held = len(splitter._buffer) + len(splitter._probabilities)
    assert held < 31 * SAMPLE_RATE


def test_too_few_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="937 chunks are complete, but there are 900"):
        Splitter(SplitLimits()).push(np.zeros(31 * SAMPLE_RATE, np.float32), np.zeros(900, np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_seconds": 4.0}, "max_seconds must be more than 4.56"),
        ({"max_seconds": float("inf")}, "max_seconds must be finite"),
        ({"search_seconds": -1.0}, "search_seconds must be finite and not negative"),
        ({"speech_threshold": 1.1}, r"speech_threshold must lie in 0\.01\.\.1, not 1\.1"),
        ({"chunk_samples": 0}, "chunk_samples positive"),
        ({"sample_rate": 10}, "sample_rate must be 100 or more"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitLimits(**values)  # type: ignore[arg-type]  # the values are the test's own
