"""Recorded speech and its voice activity, for the tests of this folder."""

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformers_pre.audio.vad import Probabilities, Samples, VoiceActivity

RECORDING = Path(__file__).parents[3] / ".data/recordings/pyannote/audio/sample/sample.wav"


def recorded() -> Samples:
    """30.000 s of a telephone call, 16 kHz; the first word is at 6.68-7.16 s and quiet."""
    with wave.open(str(RECORDING)) as file:
        data = file.readframes(file.getnframes())
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def probabilities(packets: Sequence[Samples]) -> Probabilities:
    """The voice activity of the stream that `packets` make."""
    with VoiceActivity() as activity:
        return np.concatenate([*(activity.push(packet) for packet in packets), activity.finish()])
