"""Where a stream holds sound: 1 or 0 for each 32 ms, by its level. For `split`, in the place of voice activity."""

import numpy as np
import numpy.typing as npt

from transformers_pre.audio.split import SplitLimits

Samples = npt.NDArray[np.float32]
Activity = npt.NDArray[np.float32]

CHUNK_SAMPLES = SplitLimits.chunk_samples


class SoundActivity:
    """The activity of one stream. The result does not depend on how the stream is cut into packets.

    Args:
        silence_dbfs: level below which a chunk is silent, in decibels of full scale.
    """

    def __init__(self, silence_dbfs: float):
        self._power = 10.0 ** (silence_dbfs / 10)
        self._rest: Samples = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> Activity:
        """1.0 for sound, 0.0 for silence, float32 [k], of the k chunks that `samples` (float32 [n], any n) completes."""
        pending = np.concatenate([self._rest, samples])
        whole = len(pending) - len(pending) % CHUNK_SAMPLES
        self._rest = pending[whole:]
        return self._active(pending[:whole].reshape(-1, CHUNK_SAMPLES))

    def finish(self) -> Activity:
        """The activity of the last, incomplete chunk by the samples that it has, float32 [0 or 1]."""
        rest, self._rest = self._rest, np.zeros(0, np.float32)
        return self._active(rest.reshape(1, -1)) if len(rest) else np.zeros(0, np.float32)

    def _active(self, chunks: Samples) -> Activity:
        # The variance, not the power: a microphone's constant offset is no sound.
        active: Activity = (chunks.astype(np.float64).var(axis=1) >= self._power).astype(np.float32)
        return active
