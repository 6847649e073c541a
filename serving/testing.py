"""Fakes for tests: engines without a model. They keep their contract; what they say is made up from the input.

`python -m serving.testing --model_name fake` serves one as a predictor pod, for tests of the kit itself.
"""

import math
import time
from collections.abc import Hashable, Sequence

from pydantic import Field

from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrResult, Segment, Word
from serving.errors import ServingError, Unprocessable
from serving.predictor import Predictor
from serving.server import serve
from serving.settings import PredictorSettings


class FakeRecognizer:
    """An `asr/1` engine that says one word a second of audio: "one two three …".

    Args:
        seconds_per_call: how long a call takes, whatever the batch.
        refuse_above: windows whose loudest sample exceeds this are refused, alone, with 422.
    """

    WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    device = "fake"

    def __init__(self, seconds_per_call: float = 0.0, refuse_above: float = math.inf):
        self.seconds_per_call = seconds_per_call
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
        time.sleep(self.seconds_per_call)
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


class FakeSettings(PredictorSettings):
    """Settings of the fake predictor."""

    seconds_per_call: float = Field(0.0, ge=0)
    """How long each call of the engine takes."""
    refuse_above: float = math.inf
    """Loudest sample that is not refused."""
    fail_to_load: str = ""
    """When set, loading fails with this text."""


def main() -> None:
    """Entry point."""
    settings = FakeSettings.from_command_line()
    engine = FakeRecognizer(settings.seconds_per_call, settings.refuse_above)
    if settings.fail_to_load:

        def fail() -> None:
            raise ValueError(settings.fail_to_load)

        engine.load = fail  # type: ignore[method-assign]
    serve(Predictor(asr, engine, settings), settings)


if __name__ == "__main__":
    main()
