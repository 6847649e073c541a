"""Both Whisper backends on Whisper-base's real weights and real recordings: their texts, against each other and the library."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import soxr

from predictors.whisper import weights
from predictors.whisper.model import engine
from predictors.whisper.recognizer import WhisperRecognizer
from predictors.whisper.segments import Span, with_words
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.windows import plan
from serving.contracts import asr
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult, Samples

RECORDINGS = Path(__file__).parents[2] / ".data/recordings"
Recogniser = WhisperRecognizer[Any]

pytestmark = [
    # openai-whisper: its tokenizer leaves a file to the garbage collector, its beam search sorts a tensor with NumPy.
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]


def clip(name: str) -> Samples:
    """A recording at 16 kHz: `call` is 30 s of two people on the telephone, the others one spoken sentence."""
    file = "pyannote/audio/sample/sample.wav" if name == "call" else f"pytest_audioeval/samples/audio/{name}.wav"
    samples, rate = soundfile.read(RECORDINGS / file, dtype="float32")
    return np.asarray(samples if rate == 16_000 else soxr.resample(samples, rate, 16_000), np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of joined and converted weights for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def loaded(**settings: Any) -> Recogniser:
    made = engine(WhisperSettings(model_id="demo:whisper-base", device="cpu", **settings))
    made.load()
    return made


@pytest.fixture(scope="module")
def int8(cache: None) -> Iterator[Recogniser]:
    """The embedded default."""
    recogniser = loaded()
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def float32(cache: None) -> Iterator[Recogniser]:
    recogniser = loaded(dtype="float32", beam_size=1)
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def openai(cache: None) -> Iterator[Recogniser]:
    recogniser = loaded(backend="openai_whisper", beam_size=1, num_threads=1)
    yield recogniser
    recogniser.close()


def recognise(recogniser: Recogniser, *clips: str | Samples, **options: Any) -> list[AsrResult]:
    items = [AsrInput(clip(each) if isinstance(each, str) else each, AsrOptions(**options)) for each in clips]
    results = recogniser.run(items)
    assert all(isinstance(result, AsrResult) for result in results), results
    return [result for result in results if isinstance(result, AsrResult)]


def texts(results: Sequence[AsrResult]) -> list[str]:
    return [result.text for result in results]


def reference(name: str) -> str:
    lines = (RECORDINGS / "pyannote/audio/sample/sample.stm").read_text().splitlines()
    return " ".join(line.split(maxsplit=5)[5] for line in lines if line and not line.startswith(";"))


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())


def test_a_telephone_call_is_understood(int8: Recogniser) -> None:
    (result,) = recognise(int8, "call", timestamps="word")
    assert (result.language, len(result.segments) > 3) == ("en", True)
    assert jiwer.wer(plain(reference("call")), plain(result.text)) < 0.2
    # What is spoken begins at 6.68 s; the decoder's own first timestamps say 0 to 6 s for the first six sentences.
    assert result.segments[0].start == pytest.approx(6.68, abs=0.5)
    assert result.segments[-1].end == pytest.approx(29.987, abs=0.5)
    check_words(result, 30.0)


@pytest.mark.parametrize("name", ["fr/pangrama", "zh/jishu"])
def test_words_are_the_text(int8: Recogniser, name: str) -> None:
    (result,) = recognise(int8, name, timestamps="word")
    check_words(result, len(clip(name)) / 16_000)


def check_words(result: AsrResult, seconds: float) -> None:
    words = [word for segment in result.segments for word in segment.words or []]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= seconds
    assert all(word.probability is not None and 0 <= word.probability <= 1 for word in words)
    assert "".join(word.word for word in words) == result.text == "".join(each.text for each in result.segments)


def test_a_batch_says_what_each_window_says_alone(int8: Recogniser) -> None:
    names = ["call", "es/conteo", "ja/pangrama"]
    together = recognise(int8, *names, timestamps="word")
    alone = [recognise(int8, name, timestamps="word")[0] for name in names]
    assert texts(together) == texts(alone)
    assert [result.language for result in together] == ["en", "es", "ja"]
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.segments, other.segments, strict=True):
            assert left.tokens == right.tokens
            assert left.avg_logprob == pytest.approx(right.avg_logprob, abs=0.01)
            spans = [[(word.start, word.end) for word in each.words or []] for each in (left, right)]
            np.testing.assert_allclose(spans[0], spans[1], atol=0.05)


def test_a_batch_may_mix_languages_and_tasks(int8: Recogniser) -> None:
    french = clip("fr/bonjour_monde")
    options = [AsrOptions(), AsrOptions(task="translate"), AsrOptions(language="fr")]
    items = [AsrInput(french, each) for each in options]
    alone = [int8.run([item])[0] for item in items]
    together = int8.run(items)
    assert [result.text for result in together if isinstance(result, AsrResult)] == [
        result.text for result in alone if isinstance(result, AsrResult)
    ]
    assert len({str(result) for result in together}) == 3  # text, and whether the language was detected


def test_greedy_text_is_faster_whisper_s(float32: Recogniser) -> None:
    from faster_whisper import WhisperModel

    folder = weights.for_ctranslate2("demo:whisper-base")
    library = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
    for name in ("en/counting", "en/quick_brown_fox"):
        segments, info = library.transcribe(clip(name), beam_size=1)
        (result,) = recognise(float32, name)
        assert result.text == "".join(segment.text for segment in segments)
        assert (result.language, result.language_probability) == (
            info.language,
            pytest.approx(info.language_probability, abs=0.01),
        )


def test_both_backends_say_the_same(float32: Recogniser, openai: Recogniser) -> None:
    names = ["en/counting", "fr/bonjour_monde"]
    ours, theirs = (recognise(each, *names) for each in (float32, openai))
    assert texts(ours) == texts(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.language == other.language
        assert one.language_probability == pytest.approx(other.language_probability, abs=0.02)
        for left, right in zip(one.segments, other.segments, strict=True):
            assert left.tokens == right.tokens
            assert left.avg_logprob == pytest.approx(right.avg_logprob, abs=0.02)
            assert left.no_speech_prob == pytest.approx(right.no_speech_prob, abs=0.02)
            assert left.end == pytest.approx(right.end, abs=0.1)


def test_openai_whisper_searches_and_samples(openai: Recogniser) -> None:
    spoken = plain("The quick brown fox jumps over the lazy dog.")
    (beams,) = recognise(openai, "en/quick_brown_fox", beam_size=2, timestamps="none", language="en")
    (drawn,) = recognise(openai, "en/quick_brown_fox", temperature=0.2, best_of=2, language="en", timestamps="word")
    assert plain(beams.text) == plain(drawn.text) == spoken
    assert (drawn.segments[0].temperature, beams.language_probability) == (0.2, None)
    words = drawn.segments[0].words
    assert words is not None
    assert [plain(word.word) for word in words] == spoken.split()


@pytest.mark.parametrize("backend", ["int8", "openai"])
def test_speech_is_translated(backend: str, request: pytest.FixtureRequest) -> None:
    recogniser: Recogniser = request.getfixturevalue(backend)
    (result,) = recognise(recogniser, "fr/bonjour_monde", task="translate")
    assert result.language == "fr"
    assert "hello" in result.text.lower()


def test_a_prompt_leads_but_is_not_said(int8: Recogniser) -> None:
    plain_, led = (
        recognise(int8, "en/quick_brown_fox", prompt=prompt)[0] for prompt in (None, "A story of the FOX and the DOG.")
    )
    assert plain(plain_.text) == plain(led.text)
    assert "story" not in led.text.lower()


def test_prompts_longer_than_the_context_are_cut(int8: Recogniser) -> None:
    (result,) = recognise(int8, "en/quick_brown_fox", prompt="some words before " * 200, hotwords="fox dog " * 100)
    assert "lazy dog" in result.text


def test_noise_and_silence_have_no_text(int8: Recogniser) -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, 30 * 16_000).astype(np.float32)
    hum = (0.1 * np.sin(2 * np.pi * 50 * np.arange(30 * 16_000) / 16_000)).astype(np.float32)
    assert texts(recognise(int8, noise, hum, np.zeros(480_000, np.float32), np.zeros(0, np.float32))) == [""] * 4


@pytest.mark.parametrize("backend", ["int8", "openai"])
@pytest.mark.parametrize("samples", [1, 1000])
def test_words_made_up_for_almost_nothing_are_aligned(
    backend: str, samples: int, request: pytest.FixtureRequest
) -> None:
    inner = request.getfixturevalue(backend)._backend
    item = AsrInput(clip("en/counting")[8000 : 8000 + samples], AsrOptions(language="en", timestamps="word"))
    window = plan(item, inner.abilities, WhisperSettings())
    span = Span(0.0, window.duration, tuple(inner.abilities.encode(" Thank you.")))
    (words,) = inner.align(inner.encode([item.samples]), [0], [window], [[span]])
    (timed,) = with_words([span], words, window.duration)
    assert [word.word for word in timed.words or ()] == [" Thank", " you."]
    assert 0 <= timed.start <= timed.end <= window.duration


def test_the_warm_up_item_runs(int8: Recogniser) -> None:
    (result,) = int8.run([asr.warm_up_item()])
    assert isinstance(result, AsrResult)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "float16"}, "DTYPE=float16 is not possible on this cpu; it can do .*int8"),
        ({"dtype": "float16", "backend": "openai_whisper"}, "DTYPE=float16 needs a GPU"),
        ({"language_force": "ab"}, "LANGUAGE_FORCE=ab is not known"),
    ],
)
def test_settings_that_this_machine_or_model_cannot_do(cache: None, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loaded(**settings)


@pytest.mark.parametrize("backend", ["ctranslate2", "openai_whisper"])
def test_files_that_are_no_weights(tmp_path: Path, backend: Any) -> None:
    for name in ("model.bin", "tokenizer.json", "config.json", "model.pt"):
        (tmp_path / name).write_text("{}")
    model_id = str(tmp_path if backend == "ctranslate2" else tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"MODEL_ID=.* (cannot be loaded|is no checkpoint)"):
        engine(WhisperSettings(model_id=model_id, backend=backend, device="cpu")).load()


@pytest.mark.parametrize("backend", ["ctranslate2", "openai_whisper"])
@pytest.mark.parametrize("heads", [None, [[4, 2], [7, 0], [25, 6]]], ids=["none", "those of large-v3"])
def test_a_model_without_alignment_heads_of_its_own_loses_no_text(
    cache: None, tmp_path: Path, backend: Any, heads: list[list[int]] | None
) -> None:
    """Smaller models made of a large one may have kept its list."""
    source = weights.for_ctranslate2("demo:whisper-base")
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    del config["alignment_heads"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, **({"alignment_heads": heads} if heads else {})}))
    recogniser = engine(WhisperSettings(model_id=str(tmp_path), backend=backend, device="cpu", beam_size=1))
    assert isinstance(recogniser, WhisperRecognizer)
    recogniser.load()
    (found,) = recognise(recogniser, "en/counting", timestamps="word")
    recogniser.close()
    spoken = [word for segment in found.segments for word in segment.words or []]
    assert len(spoken) == 10
    assert spoken[-1].end == pytest.approx(3.0, abs=0.5)
    assert spoken[-1].start - spoken[0].end > 1.5
