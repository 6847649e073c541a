"""What the settings refuse, in one line."""

import pytest

from predictors.audio_caption.settings import CaptionSettings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "3"], "BITS: give 2, 4, 8 or 16"),
        (["--backend", "torch", "--dtype", "int8"], "DTYPE=int8: torch computes in auto, float16, bfloat16, float32"),
        (["--backend", "vllm", "--dtype", "float32"], "DTYPE=float32: vllm computes in auto, float16, bfloat16"),
        (["--backend", "vllm", "--beam_size", "4"], "vllm has no beams"),
        (["--caption_prompt", "<|im_end|>"], "CAPTION_PROMPT: it must not hold control tokens"),
        (["--max_model_len", "100"], "MAX_MODEL_LEN"),
        (["--style", "haiku"], "STYLE"),
        (["--max_tokens", "201"], "MAX_TOKENS"),
    ],
)
def test_a_bad_value_stops_the_start(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        CaptionSettings.from_command_line(arguments)


def test_bits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITS", "2")
    assert CaptionSettings.from_command_line([]).bits == 2
