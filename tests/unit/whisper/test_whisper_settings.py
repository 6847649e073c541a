"""Settings of the Whisper predictor: the environment's names, and one clear line for what does not fit."""

import pytest

from predictors.whisper.fallback import Thresholds
from predictors.whisper.settings import WhisperSettings
from serving.hardware import usable_cores


def refusal(*argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        WhisperSettings.from_command_line(argv)
    assert isinstance(caught.value.code, str)
    assert "\n" not in caught.value.code
    return caught.value.code


def test_the_environment_s_names(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "MODEL_ID": "/mnt/models",
        "BACKEND": "openai_whisper",
        "DEVICE": "cpu",
        "DTYPE": "float32",
        "LANGUAGE_FORCE": " RU ",
        "TIMESTAMPS": "segments",
        "NUM_THREADS": "3",
        "BEAM_SIZE": "1",
        "BEST_OF": "2",
        "TEMPERATURES": "0, 0.5,1",
        "COMPRESSION_RATIO_THRESHOLD": "3",
        "LOGPROB_THRESHOLD": "-2",
        "NO_SPEECH_THRESHOLD": "0.5",
        "MAX_BATCH_SIZE": "4",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = WhisperSettings.from_command_line([])
    assert (settings.model_id, settings.backend, settings.device, settings.dtype) == (
        "/mnt/models",
        "openai_whisper",
        "cpu",
        "float32",
    )
    assert (settings.language_force, settings.timestamps, settings.threads()) == ("ru", "segments", 3)
    assert (settings.beam_size, settings.best_of, settings.temperatures) == (1, 2, (0.0, 0.5, 1.0))
    assert settings.thresholds() == Thresholds(3.0, -2.0, 0.5)
    assert settings.max_batch_size == 4


def test_no_threads_given_takes_the_container_s_cores() -> None:
    assert WhisperSettings().threads() == usable_cores()


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("backend", "whisper_cpp", "'openai_whisper' or 'vllm'"),
        ("dtype", "int4", "int8"),
        ("device", "tpu", "'cuda'"),
        ("timestamps", "words", "'segments'"),
        ("temperatures", "", "rising temperatures"),
        ("temperatures", "0.4,0.2", "rising temperatures"),
        ("temperatures", "0,2", "0..1"),
        ("temperatures", "0,warm", "number"),
        ("beam_size", "0", "greater than or equal to 1"),
        ("num_threads", "-1", "greater than or equal to 0"),
        ("model_id", "", "at least 1 character"),
    ],
)
def test_a_bad_value_is_one_line_with_its_name(flag: str, value: str, said: str) -> None:
    line = refusal(f"--{flag}={value}")
    assert line.startswith(f"{flag.upper()}: ")
    assert said in line


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "int8_float16"])
def test_openai_whisper_computes_in_floats(dtype: str) -> None:
    assert "openai_whisper computes in auto, float16, float32" in refusal(
        "--backend=openai_whisper", f"--dtype={dtype}"
    )
