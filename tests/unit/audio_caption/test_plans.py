"""What may be asked of a window, and what is refused before any model is asked."""

import numpy as np
import pytest

from predictors.audio_caption.plans import MAX_SECONDS, RATE, batch_key, plan
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, CaptionOptions
from serving.errors import InvalidInput

WHISPER = CaptionSettings()
VLLM = CaptionSettings(backend="vllm")


def item(seconds: float = 1.0, **options: object) -> CaptionInput:
    return CaptionInput(np.ones(round(seconds * RATE), np.float32), CaptionOptions.model_validate(options))


@pytest.mark.parametrize("settings", [WHISPER, VLLM])
def test_a_window_of_thirty_seconds_is_the_longest(settings: CaptionSettings) -> None:
    assert len(plan(item(MAX_SECONDS), settings).samples) == MAX_SECONDS * RATE
    longer = CaptionInput(np.ones(MAX_SECONDS * RATE + 1, np.float32), CaptionOptions())
    with pytest.raises(InvalidInput, match=r"30\.000 s, the model hears at most 30 s"):
        plan(longer, settings)


def test_another_rate_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"8000.*16000") as refused:
        plan(item(sample_rate=8000), WHISPER)
    assert refused.value.param == "sample_rate"


@pytest.mark.parametrize(
    ("settings", "style", "known"), [(WHISPER, "haiku", "clotho, audiocaps, audioset"), (VLLM, "clotho", "prompt")]
)
def test_an_unknown_style_is_refused_with_those_there_are(settings: CaptionSettings, style: str, known: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{style}.*{known}"):
        plan(item(style=style), settings)


def test_what_is_not_asked_for_is_the_settings() -> None:
    own = CaptionSettings(style="audioset", max_tokens=30, beam_size=3)
    search = plan(item(), own).search
    assert (search.style, search.max_tokens, search.beam_size, search.temperature) == ("audioset", 30, 3, 0.0)
    search = plan(item(style="clotho", max_tokens=9, beam_size=2), own).search
    assert (search.style, search.max_tokens, search.beam_size) == ("clotho", 9, 2)


@pytest.mark.parametrize(("backend", "beams"), [("ctranslate2", 5), ("torch", 1)])
def test_beams_unless_told_otherwise(backend: str, beams: int) -> None:
    settings = CaptionSettings(backend=backend)
    assert plan(item(), settings).search.beam_size == beams
    assert plan(item(num_captions=7), settings).search.beam_size == 7  # as many as there are captions
    assert plan(item(temperature=0.5), settings).search.beam_size == 1


def test_several_captions_on_vllm_are_samples() -> None:
    assert plan(item(), VLLM).search.temperature == 0
    assert plan(item(num_captions=3), VLLM).search.temperature > 0
    assert plan(item(num_captions=3, temperature=1.2), VLLM).search.temperature == 1.2
    with pytest.raises(InvalidInput, match="temperature above 0"):
        plan(item(num_captions=3, temperature=0), VLLM)
    with pytest.raises(InvalidInput, match="no beams"):
        plan(item(beam_size=2), VLLM)


def test_windows_share_a_batch_when_their_search_is_alike() -> None:
    assert batch_key(item(1.0), WHISPER) == batch_key(item(2.0, style="clotho", beam_size=5), WHISPER)
    assert batch_key(item(), WHISPER) != batch_key(item(num_captions=2), WHISPER)
    hash(batch_key(item(style="haiku"), WHISPER))  # refused one by one, in `run`


def test_zeros_are_no_sound() -> None:
    assert plan(CaptionInput(np.zeros(100, np.float32), CaptionOptions()), WHISPER).is_empty
    assert plan(item(0.0), WHISPER).is_empty
    assert not plan(item(), WHISPER).is_empty
