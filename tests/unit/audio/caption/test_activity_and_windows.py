"""Where recordings are cut for captions, and what counts as silence."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from transformers_pre.audio.caption.activity import CHUNK_SAMPLES, SoundActivity
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.split import Splitter, Window

RATE = 16_000
SETTINGS = CaptionSettings()
Samples = npt.NDArray[np.float32]


def noise(seconds: float, dbfs: float = -20.0, seed: int = 0) -> Samples:
    draw = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (10 ** (dbfs / 20) * draw).astype(np.float32)


def cut(samples: Samples, packet: int = RATE, settings: CaptionSettings = SETTINGS) -> list[Window]:
    splitter, activity = Splitter(settings.split_limits()), SoundActivity(settings.silence_dbfs)
    found = []
    for start in range(0, len(samples), packet):
        block = samples[start : start + packet]
        found += splitter.push(block, activity.push(block))
    return [window for window, _ in [*found, *splitter.finish(activity.finish())]]


@pytest.mark.parametrize(("dbfs", "heard"), [(-59.0, True), (-61.0, False), (-120.0, False)])
def test_silence_is_what_is_below_its_level(dbfs: float, heard: bool) -> None:
    (window,) = cut(noise(2.0, dbfs))
    assert window.has_speech is heard


def test_the_level_is_a_setting() -> None:
    (window,) = cut(noise(2.0, -61.0), settings=CaptionSettings(silence_dbfs=-70.0))
    assert window.has_speech


def test_a_constant_offset_is_no_sound() -> None:
    (window,) = cut(np.full(RATE, 0.2, np.float32))
    assert not window.has_speech


def test_one_knock_in_silence_is_heard() -> None:
    samples = np.zeros(5 * RATE, np.float32)
    samples[3 * RATE : 3 * RATE + 160] = 0.5
    (window,) = cut(samples)
    assert window.has_speech


@pytest.mark.parametrize("packet", [1000, CHUNK_SAMPLES, 16_000, 10**9])
def test_windows_do_not_depend_on_packets(packet: int) -> None:
    samples = np.concatenate([noise(33.3, seed=1), np.zeros(5 * RATE, np.float32), noise(40.0, -30, seed=2)])
    assert cut(samples, packet) == cut(samples, 4096)


def test_thirty_seconds_are_one_window() -> None:
    (window,) = cut(noise(30.0))
    assert (window.start, window.end) == (0, 30 * RATE)


@pytest.mark.parametrize("seconds", [31.0, 75.5, 200.0])
def test_windows_cover_a_recording_without_overlap(seconds: float) -> None:
    samples = noise(seconds)
    windows = cut(samples)
    assert windows[0].start == 0
    assert windows[-1].end == len(samples)
    assert all(before.end == after.start for before, after in itertools.pairwise(windows))
    for window in windows:
        assert (window.context_start, window.context_end) == (window.start, window.end)
        assert 0 < window.end - window.start <= 30 * RATE


def test_a_pause_is_cut_in() -> None:
    samples = noise(40.0)
    samples[26 * RATE : 26 * RATE + 8000] = 0.0
    first, _ = cut(samples)
    assert not first.forced_end
    assert 26 * RATE <= first.end <= 26 * RATE + 8000


def test_without_a_pause_the_cut_is_at_the_least_energy() -> None:
    samples = noise(40.0, -20.0)
    samples[24 * RATE : 24 * RATE + 3200] *= 0.05  # quieter, and far above silence
    first, _ = cut(samples)
    assert first.forced_end
    assert 24 * RATE <= first.end <= 24 * RATE + 3200


def test_a_long_silence_is_a_window_of_its_own() -> None:
    samples = np.concatenate([noise(25.0), np.zeros(40 * RATE, np.float32), noise(10.0, seed=1)])
    windows = cut(samples)
    assert windows[0].has_speech
    assert windows[-1].has_speech
    silent = [window for window in windows if not window.has_speech]
    assert sum(window.end - window.start for window in silent) > 25 * RATE


def test_nothing_makes_no_window() -> None:
    assert cut(np.zeros(0, np.float32)) == []
