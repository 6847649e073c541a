"""Fakes for tests: engines without a model, one a contract. What they say is made up from the input.

`python -m serving.testing --model_name fake` serves one as a predictor pod, for tests of the kit itself.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from serving.contracts import asr, caption, ct
from serving.contracts.asr import AsrInput, AsrResult, Segment, Word
from serving.contracts.caption import Caption, CaptionInput, CaptionResult
from serving.contracts.ct import CtInput, CtResult, Risk, Scores, Shares
from serving.engine import Engine
from serving.errors import ServingError, Unprocessable
from serving.predictor import Predictor
from serving.server import serve
from serving.settings import PredictorSettings


class FakeRecognizer:
    """An `asr/1` engine that says one word a second of audio: "one two three …".

    Args:
        refuse_above: windows whose loudest sample exceeds this are refused, alone, with 422.
    """

    WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    device = "fake"

    def __init__(self, refuse_above: float = math.inf):
        self.refuse_above = refuse_above
        self.batches: list[int] = []
        """Sizes of the batches so far."""

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def batch_key(self, item: AsrInput) -> Hashable:
        """Equal options share a batch, as with a real engine."""
        return item.options

    def run(self, items: Sequence[AsrInput]) -> list[AsrResult | ServingError]:
        """One word a started second, each with its times."""
        self.batches.append(len(items))
        return [self._recognise(item) for item in items]

    def _recognise(self, item: AsrInput) -> AsrResult | ServingError:
        if len(item.samples) and float(abs(item.samples).max()) > self.refuse_above:
            return Unprocessable("this window is too loud for a fake")
        seconds = len(item.samples) / item.options.sample_rate
        words = [
            Word(word=" " + self.WORDS[second % 10], start=second, end=min(second + 0.9, seconds), probability=1.0)
            for second in range(math.ceil(seconds))
        ]
        text = "".join(word.word for word in words)
        segments = (
            [Segment(start=0, end=seconds, text=text, tokens=list(range(len(words))), words=words)] if words else []
        )
        return AsrResult(text=text, language=item.options.language or "en", language_probability=1.0, segments=segments)


class FakeCaptioner:
    """A `caption/1` engine that tells how long a window is, and nothing of a window without a sound."""

    device = "fake"

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def batch_key(self, item: CaptionInput) -> Hashable:
        """Equal options share a batch, as with a real engine."""
        return item.options

    def run(self, items: Sequence[CaptionInput]) -> list[CaptionResult | ServingError]:
        """As many captions as are asked for, each with half the score of the one before."""
        return [self._caption(item) for item in items]

    def _caption(self, item: CaptionInput) -> CaptionResult:
        seconds = len(item.samples) / item.options.sample_rate
        count = item.options.num_captions if item.samples.any() else 0
        most = item.options.max_tokens
        said = [["a", "sound", "of", f"{seconds:g}", "seconds", *["again"] * index] for index in range(count)]
        captions = [
            Caption(text=" ".join(words[:most]), score=0.5**index, cut_off=most is not None and len(words) > most)
            for index, words in enumerate(said)
        ]
        return CaptionResult(captions=captions, style=item.options.style or "fake", model="fake")


class FakeReader:
    """A `ct/1` engine that takes the mean of a volume for the probability of everything."""

    FINDINGS = ("Lung nodule", "Pleural effusion")
    THRESHOLD = 0.4
    device = "fake"

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def batch_key(self, item: CtInput) -> Hashable:
        """Volumes of one shape share a batch, as with a real engine."""
        return item.volume.shape

    def run(self, items: Sequence[CtInput]) -> list[CtResult | ServingError]:
        """What is asked for of each volume; air has probability 0, bone 1."""
        return [self._read(item) for item in items]

    def _read(self, item: CtInput) -> CtResult:
        probability = (1 + float(item.volume.mean(dtype=np.float64))) / 2
        wanted = item.options.wanted or {*ct.HEADS, ct.RISK}
        labels = {head: self.FINDINGS if head != "prompts" else item.prompts for head in ct.HEADS if head in wanted}
        scores = {
            head: Scores(names, np.full(len(names), probability, np.float32)) for head, names in labels.items() if names
        }
        shap = Scores(self.FINDINGS, np.array([probability, probability / 2], np.float32))
        risk = Risk(probability, self.THRESHOLD, probability >= self.THRESHOLD, self.FINDINGS[0], shap)
        parts = np.full((len(self.FINDINGS), 2, 3, 4), probability, np.float32)
        shares = Shares.of(self.FINDINGS, parts) if item.options.explain else None
        return CtResult(scores, {"name": "fake"}, risk if ct.RISK in wanted else None, shares)


FAKES: dict[str, Callable[[], Engine[Any, Any]]] = {
    asr.NAME: FakeRecognizer,
    caption.NAME: FakeCaptioner,
    ct.NAME: FakeReader,
}
"""The fake of each contract, by the contract's name."""


def main() -> None:
    """Entry point."""
    settings = PredictorSettings.from_command_line()
    serve(Predictor(asr, FakeRecognizer(), settings), settings)


if __name__ == "__main__":
    main()
