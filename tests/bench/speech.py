"""Ten minutes of English for the benches, from the test recordings: a telephone call and read sentences, in a fixed shuffle."""

import io
import random
import wave
from dataclasses import dataclass
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
    start: int = 0


def clips() -> list[Clip]:
    """The English recordings: mono float32 at 16 kHz."""
    files = [RECORDINGS / "pyannote/audio/sample/sample.wav"]
    files += sorted((RECORDINGS / "pytest_audioeval/samples/audio/en").glob("*.wav"))
    found = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32")
        found.append(Clip(file.stem, soxr.resample(samples, rate, RATE) if rate != RATE else samples))
    return found


def speech(seconds: float = 600.0, seed: int = 0) -> tuple[Samples, list[Clip]]:
    """`seconds` of clips in a fixed shuffle, 50 ms to 400 ms apart, and each clip's place."""
    random_ = random.Random(seed)
    parts: list[Samples] = []
    placed: list[Clip] = []
    length, wanted = 0, int(seconds * RATE)
    while length < wanted:
        for clip in random_.sample(every := clips(), len(every)):
            gap = np.zeros(random_.randrange(RATE // 20, RATE * 4 // 10), np.float32)
            placed.append(Clip(clip.name, clip.samples, length))
            parts += [clip.samples, gap]
            length += len(clip.samples) + len(gap)
    return np.concatenate(parts)[:wanted], [clip for clip in placed if clip.start + len(clip.samples) <= wanted]


def wav(samples: Samples) -> bytes:
    """A 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
