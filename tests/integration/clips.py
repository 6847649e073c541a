"""Recordings for the tests of the Whisper service: clips with known words, noises, damaged files. No assertions."""

import functools
import io
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from tests.bench.speech import RATE, Samples, wav

RECORDINGS = Path(__file__).parents[2] / ".data/recordings"
CALL = RECORDINGS / "pyannote/audio/sample/sample.wav"
_SPOKEN = RECORDINGS / "pytest_audioeval/samples/audio"

HELLO, FOX, COUNTING = "en/hello_world", "en/quick_brown_fox", "en/counting"
SPANISH, FRENCH = "es/pangrama", "fr/pangrama"


def clip(name: str) -> bytes:
    """One of the synthetic clips of one to five seconds, WAV at 24 kHz: "en/hello_world"."""
    return (_SPOKEN / f"{name}.wav").read_bytes()


def said(name: str) -> str:
    """What a clip says."""
    return (_SPOKEN / f"{name}.txt").read_text()


@functools.cache
def samples(name: str) -> Samples:
    """A clip, mono at 16 kHz; read-only."""
    return _read(_SPOKEN / f"{name}.wav")


@functools.cache
def call_samples() -> Samples:
    """The telephone call, mono at 16 kHz; read-only."""
    return _read(CALL)


def _read(file: Path) -> Samples:
    found, rate = soundfile.read(file, dtype="float32")
    found = found if rate == RATE else soxr.resample(found, rate, RATE)
    found.flags.writeable = False
    return found


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def joined(*parts: Samples) -> bytes:
    """A WAV file of parts, one after the other."""
    return wav(np.concatenate(parts))


def stereo(left: Samples, right: Samples) -> bytes:
    """A WAV file with two channels."""
    length = max(len(left), len(right))
    channels = np.stack([np.pad(side, (0, length - len(side))) for side in (left, right)], axis=1)
    return encoded(channels, "WAV")


def encoded(recording: Samples, kind: str) -> bytes:
    """A file of samples [n] or [n, channels] at 16 kHz: "FLAC", "WAV"."""
    file = io.BytesIO()
    soundfile.write(file, recording, RATE, format=kind)
    return file.getvalue()


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
