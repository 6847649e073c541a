"""Ten minutes of English for the benches, from the test recordings: a telephone call and read sentences, in a fixed shuffle."""

import io
import random
import wave
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

RATE = 16_000
RECORDINGS = Path(__file__).parents[2] / ".data/recordings"
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """One recording and where it lies in the ten minutes, in samples."""

    name: str
    samples: Samples
    text: str
    """What is said."""
    start: int = 0


def clips() -> list[Clip]:
    """The English recordings: mono float32 at 16 kHz."""
    call = RECORDINGS / "pyannote/audio/sample/sample.wav"
    # A line of NIST's STM: file, channel, speaker, start, end, words.
    lines = (line.split(maxsplit=5) for line in call.with_suffix(".stm").read_text().splitlines())
    sentences = sorted((RECORDINGS / "pytest_audioeval/samples/audio/en").glob("*.wav"))
    return [
        _read(call, " ".join(line[5] for line in lines)),
        *(_read(file, file.with_suffix(".txt").read_text()) for file in sentences),
    ]


def _read(file: Path, text: str) -> Clip:
    samples, rate = soundfile.read(file, dtype="float32")
    return Clip(file.stem, soxr.resample(samples, rate, RATE) if rate != RATE else samples, text.strip())


def speech(seconds: float = 600.0, seed: int = 0) -> tuple[Samples, list[Clip]]:
    """`seconds` of whole clips in a fixed shuffle, 50 ms to 400 ms apart, and each clip's place."""
    random_ = random.Random(seed)
    every = clips()
    samples = np.zeros(int(seconds * RATE), np.float32)
    placed: list[Clip] = []
    end = 0
    while fitting := [clip for clip in every if end + len(clip.samples) <= len(samples)]:
        for clip in random_.sample(fitting, len(fitting)):
            if end + len(clip.samples) <= len(samples):
                placed.append(replace(clip, start=end))
                samples[end : end + len(clip.samples)] = clip.samples
                end += len(clip.samples) + random_.randrange(RATE // 20, RATE * 4 // 10)
    return samples, placed


def wav(samples: Samples) -> bytes:
    """A 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
