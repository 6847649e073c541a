"""The random weights that the service can be tried with: whole, found again, and the same everywhere."""

import numpy as np
import pytest

from predictors.audio_caption import demo_weights, weights
from predictors.audio_caption.model import engine
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, CaptionOptions, CaptionResult
from tests.unit.audio_caption import tiny


def test_they_caption() -> None:
    captioner = engine(CaptionSettings(model_id=demo_weights.NAME, device="cpu", num_threads=1))
    captioner.load()
    items = [CaptionInput(tiny.sound(1.0, seed), CaptionOptions(max_tokens=8)) for seed in (1, 1, 2)]
    one, same, other = captioner.run(items)
    captioner.close()
    assert isinstance(one, CaptionResult)
    assert one.captions
    assert one == same
    assert one != other  # they hear something


def test_the_tensors_are_the_same_everywhere() -> None:
    found, again = demo_weights.tensors(), demo_weights.tensors()
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_torch_cannot_load_them() -> None:
    with pytest.raises(ValueError, match="MODEL_ID=demo:random is no Hugging Face Whisper"):
        weights.for_torch(demo_weights.NAME)
