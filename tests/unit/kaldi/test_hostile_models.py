"""Models that the engine ends the process at, or that fail with the first request, are refused at the start, with the reason."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from predictors.kaldi_asr.folder import examine
from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from serving.errors import InvalidInput
from tests.russian import sentence
from tests.unit.kaldi.test_folder import gigaam, reason, vosk5
from tests.unit.kaldi.test_models import loaded

__all__ = ["gigaam", "vosk5"]  # fixtures
BEAMS = {"decoding_method": "modified_beam_search"}


def say(file: Path, **metadata: str | None) -> None:
    """Changes what a model says of itself; None takes a key away."""
    model = onnx.load(file)
    said = {pair.key: pair.value for pair in model.metadata_props} | metadata
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: value for name, value in said.items() if value is not None})
    onnx.save(model, file)


def nothing(file: Path, **metadata: str) -> None:
    """A model that gives back what it is given, and says what it is told to."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "nothing", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, file)


NUMBERS = ["0", "-1", "", "four", "4.5", "99999999999", None]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("name", ["vocab_size", "subsampling_factor"])
def test_sizes_of_a_ctc_model(gigaam: Path, name: str, value: str | None) -> None:
    say(gigaam / "model.onnx", **{name: value})
    assert f"no number above 0 {name!r}" in reason(gigaam)


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("name", ["vocab_size", "context_size"])
def test_sizes_of_a_transducer(vosk5: Path, name: str, value: str | None) -> None:
    say(vosk5 / "am-onnx/decoder.onnx", **{name: value})
    assert f"no number above 0 {name!r}" in reason(vosk5)


def test_a_way_to_normalise_that_there_is_not(gigaam: Path) -> None:
    say(gigaam / "model.onnx", normalize_type="per_planet")
    assert "normalize_type 'per_planet' is none" in reason(gigaam)


def nameless(tokens: Path, index: int) -> str:
    """Takes a line out of a table of tokens; its number. The engine loads it, and every window in which the token is fails."""
    lines = tokens.read_text("utf-8").splitlines()
    number = lines.pop(index).split()[-1]
    tokens.write_text("\n".join(lines), "utf-8")
    return number


@pytest.mark.parametrize("index", [0, 7, -2])
def test_every_letter_of_a_ctc_model_has_a_name(gigaam: Path, index: int) -> None:
    number = nameless(gigaam / "tokens.txt", index)
    assert f"no token {number};" in reason(gigaam)


@pytest.mark.parametrize("index", [0, 7, -1])
def test_every_piece_of_a_transducer_has_a_name(vosk5: Path, index: int) -> None:
    number = nameless(vosk5 / "lang/tokens.txt", index)
    assert f"no token {number};" in reason(vosk5)


def test_a_transducer_without_tokens(vosk5: Path) -> None:
    """The engine loads it as if all were well, and fails at the first window."""
    (vosk5 / "lang/tokens.txt").write_text("")
    assert "has no tokens" in reason(vosk5)
    (vosk5 / "lang/tokens.txt").unlink()
    assert "no tokens.txt" in reason(vosk5)


@pytest.mark.parametrize("name", ["encoder", "decoder", "joiner"])
@pytest.mark.parametrize("data", [b"", b"\x08", b"not a model at all " * 50])
def test_parts_of_a_transducer_that_are_none(vosk5: Path, name: str, data: bytes) -> None:
    (vosk5 / f"am-onnx/{name}.onnx").write_bytes(data)
    said = reason(vosk5)
    assert said.startswith((f"{name}.onnx is ", "MODEL_ID="))
    assert "Traceback" not in said


def test_a_decoder_and_a_joiner_in_each_others_place(vosk5: Path) -> None:
    decoder, joiner = vosk5 / "am-onnx/decoder.onnx", vosk5 / "am-onnx/joiner.onnx"
    decoder.rename(vosk5 / "other")
    joiner.rename(decoder)
    (vosk5 / "other").rename(joiner)
    assert "the decoder's metadata have no number above 0 'vocab_size'" in reason(vosk5)


@pytest.mark.parametrize(
    "vocabulary",
    ["", "▁да\n▁нет\n", "▁да\tmuch\n", "▁да\tnan\n", "a b -1\tc -2 d\n", b"\xff\xfe\x00\n", bytes(range(256))],
)
def test_word_pieces_that_hotwords_cannot_be_split_by(vosk5: Path, vocabulary: str | bytes) -> None:
    data = vocabulary if isinstance(vocabulary, bytes) else vocabulary.encode()
    (vosk5 / "lang/bpe.vocab").write_bytes(data)
    assert reason(vosk5, **BEAMS).startswith("bpe.vocab ")
    engine(KaldiSettings(model_id=str(vosk5))).load()  # without hotwords nobody asks for it


def test_hotwords_without_word_pieces_are_refused(vosk5: Path) -> None:
    (vosk5 / "lang/bpe.vocab").unlink()
    beams = engine(KaldiSettings(model_id=str(vosk5), num_threads=1, **BEAMS))  # type: ignore[arg-type]
    beams.load()
    sound = sentence(4)[1]
    (refused,) = beams.run([AsrInput(sound, AsrOptions(hotwords="привет"))])
    assert isinstance(refused, InvalidInput)
    assert "no bpe.vocab" in refused.message
    (fine,) = beams.run([AsrInput(sound, AsrOptions())])
    assert isinstance(fine, AsrResult)


@pytest.mark.parametrize("model", ["gigaam", "vosk5"])
@pytest.mark.parametrize("hotwords", ["", ",", " / \n"])
def test_no_hotwords_are_none_to_models_that_take_none(model: str, hotwords: str) -> None:
    """A CTC model would end the process at an empty list."""
    (result,) = loaded(model).run([AsrInput(sentence(4)[1], AsrOptions(hotwords=hotwords))])
    assert isinstance(result, AsrResult)


@pytest.mark.parametrize("model", ["gigaam", "vosk5"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_samples_that_are_no_sound_end_nothing(model: str, value: float) -> None:
    said, sound = sentence(4)
    loaded(model).run([AsrInput(np.full(16_000, value, np.float32), AsrOptions())])
    (result,) = loaded(model).run([AsrInput(sound, AsrOptions())])
    assert isinstance(result, AsrResult)
    assert result.text.strip() == said


def test_a_search_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="decoding_method"):
        KaldiSettings(decoding_method="guessing")  # type: ignore[arg-type]


LFR = {"vocab_size": "2", "lfr_window_size": "7", "lfr_window_shift": "6", "neg_mean": "0.5,1", "inv_stddev": "1,2"}
LANGUAGES = {f"lang_{code}": "3" for code in ("auto", "zh", "en", "ja", "ko", "yue")}
WHISPER = {
    **dict.fromkeys(("n_mels", "n_text_layer", "n_text_ctx", "n_text_state", "n_vocab"), "80"),
    **dict.fromkeys(("sot", "eot", "blank_id", "translate", "transcribe", "no_timestamps", "no_speech"), "0"),
    "model_type": "whisper-tiny",
    "is_multilingual": "1",
    "sot_sequence": "1,2,3",
    "all_language_tokens": "7,8",
    "all_language_codes": "en,ru",
}
SENSE_VOICE = {"model_type": "sense_voice_ctc", "normalize_samples": "0", "with_itn": "1", "without_itn": "2"}
SAID = {
    "paraformer": ("model.onnx", {"model_type": "paraformer", **LFR}),
    "sense_voice": ("model.onnx", {**SENSE_VOICE, **LFR, **LANGUAGES}),
    "whisper": ("tiny-encoder.onnx", WHISPER),
}


@pytest.fixture
def other(tmp_path: Path) -> Callable[[str, dict[str, str]], Path]:
    """Makes a folder of another kind: its metadata are all that there is to it."""

    def make(kind: str, said: dict[str, str]) -> Path:
        folder = tmp_path / "other"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        nothing(folder / SAID[kind][0], **said)
        if kind == "whisper":
            nothing(folder / "tiny-decoder.onnx")
        (folder / "tokens.txt").write_text("a 0\nb 1\n")
        return folder

    return make


@pytest.mark.parametrize("kind", SAID)
def test_other_kinds_say_all_that_the_engine_reads(kind: str, other: Callable[[str, dict[str, str]], Path]) -> None:
    _, said = SAID[kind]
    assert examine(other(kind, said), "auto").kind == kind
    optional = {"model_type", "all_language_tokens", "all_language_codes"}
    for name in set(said) - optional:
        without = {key: value for key, value in said.items() if key != name}
        assert repr(name) in reason(other(kind, without)), name
        assert repr(name) in reason(other(kind, {**said, name: "some"})), name


def test_a_whisper_is_asked_for_no_language_that_it_does_not_know(other: Callable[[str, dict[str, str]], Path]) -> None:
    folder = other("whisper", WHISPER)
    assert examine(folder, "auto").languages == ("en", "ru")
    assert "LANGUAGE=fr is none that this model knows; it knows en, ru" in reason(folder, language="fr")
    assert examine(other("whisper", {**WHISPER, "is_multilingual": "0"}), "auto").languages == ()
    assert "a token each" in reason(other("whisper", {**WHISPER, "all_language_tokens": "7"}))
