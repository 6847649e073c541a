"""Fakes for tests: engines without a model, one a contract. What they say is made up from the input.

`python -m serving.testing --model_name fake` serves one as a predictor pod, for tests of the kit itself.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrResult, Segment, Word
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


FAKES: dict[str, Callable[[], Engine[Any, Any]]] = {asr.NAME: FakeRecognizer}
"""The fake of each contract, by the contract's name."""


def main() -> None:
    """Entry point."""
    settings = PredictorSettings.from_command_line()
    serve(Predictor(asr, FakeRecognizer(), settings), settings)


if __name__ == "__main__":
    main()
