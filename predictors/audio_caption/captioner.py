"""The engine for the fine-tuned Whisper: windows in, captions out, whatever the backend.

The style is told by text that the decoder is made to begin with, as in training; that text never is in a caption.
"""

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from predictors.audio_caption import features
from predictors.audio_caption.features import Features
from predictors.audio_caption.plans import Plan, Search, batch_key, plan
from predictors.audio_caption.settings import CaptionSettings
from predictors.audio_caption.tokens import Tokens
from serving.contracts.caption import Caption, CaptionInput, CaptionResult
from serving.errors import InvalidInput, ServingError

LICENCE = (
    "the published captioning weights (MU-NLPC/whisper-*-audio-captioning) say both CC-BY-NC-4.0 and CC-BY-4.0: "
    "take them as non-commercial"
)
Hypothesis = tuple[Sequence[int], float]
"""Tokens after the prompt, with or without the end, and their score in (0, 1]."""
logger = logging.getLogger(__name__)


class Backend(Protocol):
    """A library that runs Whisper."""

    device: str
    tokens: Tokens
    mels: int
    """Mel bands that the encoder takes."""

    def load(self) -> None:
        """Loads weights and tokens. Raises ValueError with one clear sentence."""

    def encode(self, features: Features) -> Any:
        """The encoder's output for log-mel features [N, mels, 3000], as `generate` takes it."""

    def generate(self, encoded: Any, prompt: Sequence[int], search: Search) -> list[list[Hypothesis]]:
        """For each of N windows, `search.num_captions` hypotheses.

        Args:
            encoded: what `encode` gave for N windows.
            prompt: what the decoder begins with, the same for all.
            search: beams at temperature 0, samples above.
        """

    def close(self) -> None:
        """Frees the weights."""


class WhisperCaptioner:
    """A `caption/1` engine (`serving.engine.Engine`) around a backend."""

    device = ""

    def __init__(self, backend: Backend, settings: CaptionSettings):
        self._backend = backend
        self._settings = settings

    def load(self) -> None:
        """Loads the weights. Raises ValueError when they, the device or DTYPE do not work."""
        logger.warning("licence: %s", LICENCE)
        self._backend.load()
        self.device = self._backend.device

    def close(self) -> None:
        """Frees the weights."""
        self._backend.close()

    def batch_key(self, item: CaptionInput) -> Hashable:
        """Windows with the same search share a batch."""
        return batch_key(item, self._settings)

    def run(self, items: Sequence[CaptionInput]) -> list[CaptionResult | ServingError]:
        """Captions windows of one batch key. Those that the model cannot do get an InvalidInput each.

        A window without any sound has no caption: Whisper would make one up.
        """
        results: list[CaptionResult | ServingError] = []
        planned: list[tuple[int, Plan]] = []
        for index, item in enumerate(items):
            try:
                window = plan(item, self._settings)
            except InvalidInput as error:
                results.append(error)
                continue
            results.append(self._result([], window.search))
            if not window.is_empty:
                planned.append((index, window))
        if planned:
            search = planned[0][1].search
            captions = self._caption([window for _, window in planned], search)
            for (index, _), found in zip(planned, captions, strict=True):
                results[index] = self._result(found, search)
        return results

    def _result(self, captions: list[Caption], search: Search) -> CaptionResult:
        return CaptionResult(captions=captions, style=search.style, model=self._settings.model_id)

    def _caption(self, windows: Sequence[Plan], search: Search) -> list[list[Caption]]:
        tokens = self._backend.tokens
        mel = np.stack([features.log_mel(window.samples, self._backend.mels) for window in windows])
        found = self._backend.generate(self._backend.encode(mel), tokens.prompt(search.style), search)
        return [
            sorted(
                (
                    Caption(
                        text=tokens.text(said),
                        score=min(1.0, score),
                        cut_off=tokens.end not in said and len(said) == search.max_tokens,
                    )
                    for said, score in hypotheses
                ),
                key=lambda caption: -caption.score,
            )
            for hypotheses in found
        ]
