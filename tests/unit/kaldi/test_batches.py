"""Which windows sherpa-onnx decodes together."""

from hypothesis import given
from hypothesis import strategies as st

from predictors.kaldi_asr.backends.sherpa_onnx import alike


def test_a_short_window_is_not_filled_up_to_a_long_one() -> None:
    assert alike([480_000, 64_000, 470_000, 60_000, 400_000]) == [[0, 2, 4], [1, 3]]
    assert alike([]) == []


@given(st.lists(st.integers(0, 480_000), max_size=20))
def test_every_window_is_decoded_once_and_little_is_filled_up(lengths: list[int]) -> None:
    groups = alike(lengths)
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    assert all(min(lengths[n] for n in group) >= 0.8 * max(lengths[n] for n in group) for group in groups)
