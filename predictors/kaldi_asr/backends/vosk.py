"""Classic Vosk models (Kaldi): one recogniser a window, on threads; the library has no batches."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from predictors.kaldi_asr.folder import ModelFolder
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import Samples, Word

_PIECE = 4000  # samples that are decoded at a time, as in the library's own examples


class VoskBackend:
    """One model, shared by the recognisers. Raises ValueError when it cannot be loaded, or for PROVIDER=CUDA."""

    takes_hotwords = False
    why_no_hotwords = "classic Vosk models have none"

    def __init__(self, model: ModelFolder, settings: KaldiSettings):
        import vosk  # noqa: PLC0415  # heavy libraries are imported when they are needed

        if settings.provider == "CUDA":
            raise ValueError("PROVIDER=CUDA: classic Vosk models run on the CPU here; set PROVIDER=CPU")
        vosk.SetLogLevel(-1)
        try:
            self._model = vosk.Model(str(model.files["folder"]))
        except Exception as error:  # noqa: BLE001  # the library raises Exception itself
            raise ValueError(f"MODEL_ID={settings.model_id}: vosk cannot load it: {error}") from None
        self._new = vosk.KaldiRecognizer
        self._threads = ThreadPoolExecutor(settings.threads(), thread_name_prefix="vosk")

    def recognise(self, batch: Sequence[Samples], rate: int, hotwords: Sequence[str]) -> list[tuple[str, list[Word]]]:
        """As `recognizer.Backend`."""
        return list(self._threads.map(lambda samples: self._one(samples, rate), batch))

    def close(self) -> None:
        """Frees the model."""
        self._threads.shutdown()
        del self._model

    def _one(self, samples: Samples, rate: int) -> tuple[str, list[Word]]:
        recognizer = self._new(self._model, rate)
        recognizer.SetWords(True)
        data = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
        results: list[Any] = [
            json.loads(recognizer.Result())
            for start in range(0, len(data), _PIECE)
            if recognizer.AcceptWaveform(data[start : start + _PIECE].tobytes())
        ]
        results.append(json.loads(recognizer.FinalResult()))
        words = [
            Word(word=f" {each['word']}", start=each["start"], end=each["end"], probability=each["conf"])
            for result in results
            for each in result.get("result", [])
        ]
        return " ".join(result["text"] for result in results if result["text"]), words
