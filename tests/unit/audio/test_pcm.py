"""Raw samples in packets: what comes out does not depend on them, and is what one whole conversion gives."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidInput
from tests.unit.audio.voices import recorded
from transformers_pre.audio.pcm import PcmStream, sample_rate

SPEECH = recorded()[8 * 16_000 : 11 * 16_000]


def received(data: bytes, sizes: list[int], **how: object) -> list[np.ndarray]:
    """Each channel of `data`, sent in packets of `sizes` bytes, the rest in one."""
    stream, parts, start = PcmStream(**how), [], 0  # type: ignore[arg-type]
    for size in [*sizes, len(data)]:
        parts.append(stream.push(data[start : start + size]))
        start += size
    parts.append(stream.finish())
    return [np.concatenate(channel) for channel in zip(*parts, strict=True)]


def pcm16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20_000), max_size=40),
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
    channels=st.integers(1, 3),
)
def test_packets_make_no_difference(sizes: list[int], rate: int, channels: int) -> None:
    frames = np.stack([np.roll(SPEECH, 1000 * channel) for channel in range(channels)], axis=1)
    data = pcm16(frames)
    whole = received(data, [], sample_rate=rate, channels=channels)
    parts = received(data, sizes, sample_rate=rate, channels=channels)
    assert len(whole) == channels
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_it_is_resampled_as_a_whole_without_clicks(rate: int) -> None:
    original = soxr.resample(SPEECH, 16_000, rate, "HQ").astype(np.float32)
    (found,) = received(original.astype("<f4").tobytes(), [400] * 300, sample_rate=rate, encoding="float32")
    expected = soxr.resample(np.clip(original, -1, 1), rate, 16_000, "HQ")
    assert abs(len(found) - len(expected)) <= 1
    assert np.abs(found[: len(expected)] - np.clip(expected, -1, 1)[: len(found)]).max() < 1e-4


def test_integers_are_scaled_and_floats_clipped() -> None:
    (ints,) = received(np.array([-32768, 0, 16384], "<i2").tobytes(), [], sample_rate=16_000)
    assert ints.tolist() == [-1.0, 0.0, 0.5]
    (floats,) = received(np.array([-2, 0.25, 7], "<f4").tobytes(), [], sample_rate=16_000, encoding="float32")
    assert floats.tolist() == [-1.0, 0.25, 1.0]


def test_channels_stay_apart() -> None:
    left, right = received(np.array([1, -1, 2, -2], "<i2").tobytes(), [3], sample_rate=16_000, channels=2)
    assert (left * 32768).tolist() == [1, 2]
    assert (right * 32768).tolist() == [-1, -2]


def test_half_a_sample_at_the_end_is_refused() -> None:
    stream = PcmStream(16_000, 2)
    stream.push(b"abcde")
    with pytest.raises(InvalidInput, match="stops 1 bytes into a sample of 4 bytes"):
        stream.finish()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="no finite numbers"):
        PcmStream(16_000, 1, "float32").push(np.array([0, value], "<f4").tobytes())


@pytest.mark.parametrize(("value", "rate"), [(None, 8000), (16000, 16000), (16000.0, 16000), ("48000", 48000)])
def test_rates_as_clients_write_them(value: object, rate: int) -> None:
    assert sample_rate(value, 8000) == rate


@pytest.mark.parametrize("value", [0, -1, 3999, 192_001, 16000.5, "fast", True, [], float("nan"), "x" * 100])
def test_rates_that_are_none(value: object) -> None:
    with pytest.raises(InvalidInput, match="from 4000 to 192000") as caught:
        sample_rate(value, 8000)
    assert len(caught.value.message) < 120
