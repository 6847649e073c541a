"""What becomes of a request before it is decoded: language, prompt, search, and what is refused by name."""

from typing import Any

import numpy as np
import pytest

from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import Abilities, Window, batch_key, plan
from serving.contracts.asr import AsrInput, AsrOptions
from serving.errors import InvalidInput


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


MULTILINGUAL = Abilities(("en", "es", "ru"), True, characters, context=448)
ENGLISH = Abilities(("en",), False, characters, context=448)


def planned(
    abilities: Abilities = MULTILINGUAL, samples: int = 16_000, settings: WhisperSettings | None = None, **options: Any
) -> Window:
    item = AsrInput(np.zeros(samples, np.float32), AsrOptions(**options))
    return plan(item, abilities, settings or WhisperSettings())


def refusal(abilities: Abilities = MULTILINGUAL, **options: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        planned(abilities, **options)
    return caught.value


def test_nothing_asked_for_means_the_settings() -> None:
    window = planned(settings=WhisperSettings(beam_size=3, best_of=4, temperatures=(0.0, 0.5)))
    assert (window.beam_size, window.best_of, window.temperatures) == (3, 4, (0.0, 0.5))
    assert (window.language, window.task, window.previous) == (None, "transcribe", ())
    assert (window.timestamps, window.words, window.duration) == (True, False, 1.0)


def test_the_request_wins_over_the_settings() -> None:
    window = planned(beam_size=2, best_of=1, temperature=0.3, language="ES", task="translate", timestamps="word")
    assert (window.beam_size, window.best_of, window.temperatures) == (2, 1, (0.3,))
    assert (window.language, window.task, window.words) == ("es", "translate", True)


def test_temperature_zero_climbs_the_ladder() -> None:
    assert planned(temperature=0.0).temperatures == WhisperSettings().temperatures


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    error = refusal(language="xx")
    assert "'xx'" in error.message
    assert "en, es, ru" in error.message
    assert (error.param, error.http_status) == ("language", 400)


def test_an_english_model_knows_english_and_does_not_translate() -> None:
    assert planned(ENGLISH).language == "en"
    assert planned(ENGLISH, language="en").language == "en"
    assert "accepts: en" in refusal(ENGLISH, language="es").message
    assert "'translate'" in refusal(ENGLISH, task="translate").message


def test_a_forced_language_wins_even_over_an_unknown_one() -> None:
    forced = WhisperSettings(language_force="ru")
    assert planned(settings=forced, language="es").language == "ru"
    assert planned(settings=forced, language="xx").language == "ru"
    assert planned(settings=forced).language == "ru"


def test_another_sample_rate_is_refused_with_the_right_one() -> None:
    error = refusal(sample_rate=8000)
    assert "16000" in error.message
    assert error.param == "sample_rate"


def test_thirty_seconds_are_accepted_and_one_sample_more_is_not() -> None:
    assert planned(samples=480_000).duration == 30.0
    error = refusal(samples=480_001)
    assert error.message == "the window has 480001 samples, the model takes 480000 at most: 30 s"
    assert error.code == "window_too_long"


@pytest.mark.parametrize(
    ("setting", "asked", "timestamps", "words"),
    [
        ("auto", "none", False, False),
        ("auto", "segment", True, False),
        ("auto", "word", True, True),
        ("none", "segment", False, False),
        ("none", "word", False, False),
        ("segments", "none", True, False),
        ("segments", "word", True, True),
    ],
)
def test_timestamps_setting(setting: Any, asked: Any, timestamps: bool, words: bool) -> None:
    window = planned(settings=WhisperSettings(timestamps=setting), timestamps=asked)
    assert (window.timestamps, window.words) == (timestamps, words)


@pytest.mark.parametrize(
    ("setting", "task", "asked", "aligned"),
    [
        ("auto", "transcribe", "segment", True),
        ("auto", "transcribe", "none", False),
        ("auto", "translate", "segment", False),
        ("auto", "translate", "word", True),
        ("none", "transcribe", "segment", True),
        ("none", "transcribe", "none", False),
        ("none", "translate", "segment", False),
        ("none", "translate", "word", True),
        ("segments", "transcribe", "none", True),
        ("segments", "translate", "none", False),
    ],
)
def test_what_is_aligned(setting: Any, task: Any, asked: Any, aligned: bool) -> None:
    settings = WhisperSettings(timestamps=setting)
    assert planned(settings=settings, task=task, timestamps=asked).is_aligned is aligned


def test_the_prompt_begins_with_one_blank() -> None:
    assert planned(prompt="  ab ").previous == tuple(characters(" ab"))
    assert planned(prompt="   ").previous == ()


def test_hotwords_go_before_the_prompt() -> None:
    assert planned(prompt="ab", hotwords="cd").previous == tuple(characters(" cd ab"))


def test_a_long_prompt_keeps_its_end_and_long_hotwords_their_beginning() -> None:
    end = planned(prompt="x" * 1000 + "end").previous
    assert len(end) == 223
    assert end[-3:] == tuple(characters("end"))
    beginning = planned(hotwords="begin" + "x" * 1000, prompt="end").previous
    assert len(beginning) == 223
    assert beginning[:6] == tuple(characters(" begin"))
    both = planned(hotwords="h" * 99, prompt="x" * 1000 + "end").previous
    assert len(both) == 223
    assert both[99:101] == tuple(characters("hx"))
    assert both[-3:] == tuple(characters("end"))


def key(**options: Any) -> object:
    return batch_key(AsrOptions(**options), WhisperSettings())


def test_language_and_task_share_a_batch() -> None:
    assert key(language="en") == key(language="es", task="translate") == key(timestamps="word")


@pytest.mark.parametrize(
    "options",
    [
        {"timestamps": "none"},
        {"temperature": 0.5},
        {"beam_size": 2},
        {"best_of": 2},
        {"prompt": "a"},
        {"hotwords": "a"},
    ],
)
def test_another_search_or_prompt_is_another_batch(options: dict[str, Any]) -> None:
    assert key(**options) != key()


def test_what_the_settings_say_anyway_is_no_difference() -> None:
    assert key(beam_size=5, best_of=5, temperature=0.0) == key()


@pytest.mark.parametrize(
    ("samples", "silent"),
    [
        (np.zeros(0), True),
        (np.zeros(160_000), True),
        (np.full(100, 2.0**-16), True),
        (np.eye(1, 160_000, 99_999)[0] * -(2.0**-15), False),
    ],
)
def test_silence_is_less_than_one_step_of_16_bits(samples: Any, silent: bool) -> None:
    window = plan(AsrInput(samples.astype(np.float32), AsrOptions()), MULTILINGUAL, WhisperSettings())
    assert window.is_silent is silent
