"""What the small models are trained on: nothing of it is held out, it is the same every time, and it is what was said."""

from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from tests.models.examples import VOICES, spoken, varied
from tests.models.units import letters, pieces
from tests.russian import VOICES as HELD_OUT
from tests.russian import WORDS, sentences
from tests.synthesis import speak


def test_no_voice_that_is_held_out_is_trained_on() -> None:
    assert not set(VOICES) & set(HELD_OUT)
    assert len(VOICES) == len(set(VOICES))


def test_every_voice_is_one_of_espeak_ngs() -> None:
    """It speaks in its plain voice where it does not know a variant, and says nothing of that."""
    known = {file.name for file in (Path(espeakng_loader.get_data_path()) / "voices/!v").iterdir()}
    assert {voice.removeprefix("+") for voice in (*VOICES, *HELD_OUT)} <= known


@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_gives_the_same_sound_every_time(voice: str) -> None:
    one, other = (speak("привет, сегодня дом", f"ru{voice}") for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_sentences_are_the_same_every_time_and_do_not_clip() -> None:
    one, other = spoken(40, 5), spoken(40, 5)
    for first, second in zip(one, other, strict=True):
        assert first.text == second.text
        np.testing.assert_array_equal(first.samples, second.samples)
    assert {word for each in one for word in each.text.split()} <= set(WORDS)
    assert all(2 <= len(each.text.split()) <= 8 for each in one)
    assert max(float(np.abs(each.samples).max()) for each in one) < 0.9
    assert spoken(1, 6)[0].text != one[0].text


def test_examples_are_sentences_with_something_around_them() -> None:
    sounds = spoken(3, 5)
    whole = {each.text: each for each in sounds}
    examples = list(varied(sounds, 30, 1))
    assert len(examples) == 30
    for each in examples:
        parts = [text for text in whole if text in each.text]
        assert parts
        assert len(each.samples) > max(len(whole[text].samples) for text in parts)
        assert each.samples.dtype == np.float32
        np.testing.assert_array_equal(each.samples * 32768, np.round(each.samples * 32768))  # 16 bits
    again = list(varied(sounds, 30, 1))
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(examples, again, strict=True))


def test_letters_are_numbered_as_gigaam_has_them() -> None:
    units = letters([])
    assert len(units.names) == 34
    assert (units.names[0], units.names[-1], units.blank) == ("▁", "<blk>", 33)
    said, _ = sentences(5)
    for text in said:
        assert "".join(units.names[number] for number in units.numbers(text)).replace("▁", " ") == text
    assert units.table().splitlines()[0] == "▁ 0"


def test_pieces_are_numbered_as_icefall_has_them_and_are_the_same_every_time() -> None:
    texts = [each.text for each in spoken(200, 5)]
    units = pieces(texts)
    assert units.names[:3] == ("<blk>", "<sos/eos>", "<unk>")
    assert (len(units.names), units.blank) == (64, 0)
    for text in texts[:20]:
        assert "".join(units.names[number] for number in units.numbers(text)).replace("▁", " ").strip() == text
    scores = dict(line.split("\t") for line in units.vocabulary.splitlines())
    assert list(scores) == list(units.names)
    assert all(float(score) < 0 for piece, score in scores.items() if piece not in units.names[:3])
    assert pieces(texts).vocabulary == units.vocabulary


@pytest.mark.parametrize("word", WORDS)
def test_every_word_can_be_written_in_letters(word: str) -> None:
    assert letters([]).numbers(word)
