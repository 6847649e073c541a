"""The filter banks that the small models are trained on are those of sherpa-onnx, which has kaldi-native-fbank compute them."""

import kaldi_native_fbank
import numpy as np
import pytest

from tests.models.features import GIGAAM, SAMPLE_RATE, VOSK5, FilterBank, log_mel
from tests.synthesis import speak

SPEECH = speak("сто двадцать три", "ru")
# How sherpa-onnx 2.0.1 sets up its extractor for each of the two.
ENGINE = {
    "gigaam": {"window_type": "hann", "remove_dc_offset": False, "low_freq": 0.0, "high_freq": 8000.0},
    "vosk5": {"window_type": "povey", "remove_dc_offset": True, "low_freq": 20.0, "high_freq": -400.0},
}


def engines(samples: np.ndarray, name: str, bins: int) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.window_type = ENGINE[name]["window_type"]
    options.frame_opts.remove_dc_offset = ENGINE[name]["remove_dc_offset"]
    options.mel_opts.num_bins = bins
    options.mel_opts.low_freq = ENGINE[name]["low_freq"]
    options.mel_opts.high_freq = ENGINE[name]["high_freq"]
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(SAMPLE_RATE, samples.tolist())
    bank.input_finished()
    return np.array([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


@pytest.mark.parametrize(("name", "bank"), [("gigaam", GIGAAM), ("vosk5", VOSK5)])
@pytest.mark.parametrize("length", [80, 81, 239, 240, 300, 401, 5000, len(SPEECH)])
def test_they_are_the_engines(name: str, bank: FilterBank, length: int) -> None:
    samples = SPEECH[4000 : 4000 + length] + np.float32(0.01)  # off zero, for the mean of a frame to matter
    found, expected = log_mel(samples, bank), engines(samples, name, bank.bins)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("bank", [GIGAAM, VOSK5])
@pytest.mark.parametrize("length", [0, 1, 79])
def test_less_than_half_a_step_has_none(bank: FilterBank, length: int) -> None:
    assert log_mel(np.ones(length, np.float32), bank).shape == (0, bank.bins)


def test_silence_has_the_least_power() -> None:
    assert (log_mel(np.zeros(1600, np.float32), VOSK5) == np.log(np.finfo(np.float32).eps)).all()
