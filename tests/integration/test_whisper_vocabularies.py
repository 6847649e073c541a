"""Tokens and prompts of every Whisper vocabulary, as openai-whisper's own tokenizer has them.

The weights in the registry are of the second vocabulary; the others are made of its tokenizer as OpenAI made them: large-v3 adds
Cantonese, and English-only models have one text token less.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from predictors.whisper import weights
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.vllm_tokens import MULTILINGUAL_SIZE, Tokens
from predictors.whisper.windows import Window, plan
from serving.contracts.asr import AsrInput, AsrOptions

if TYPE_CHECKING:
    from whisper.tokenizer import Tokenizer

SIZES = {"english": MULTILINGUAL_SIZE - 1, "multilingual": MULTILINGUAL_SIZE, "large-v3": MULTILINGUAL_SIZE + 1}
LANGUAGES = {"english": 99, "multilingual": 99, "large-v3": 100}
BASE_END, BASE_TRANSLATE = 50_257, 50_358
SPOKEN = np.full(16_000, 0.1, np.float32)

# openai-whisper's tokenizer leaves a file to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


def _changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def folder(vocabulary: str, into: Path) -> Path:
    """A Hugging Face folder without its weights."""

    def tokenizer(content: dict[str, Any]) -> None:
        model = content["model"]
        if vocabulary == "english":
            model["vocab"] = {text: number for text, number in model["vocab"].items() if number < BASE_END - 1}
            for each in content["added_tokens"]:
                each["id"] -= 1
        if vocabulary == "large-v3":
            for each in content["added_tokens"]:
                each["id"] += each["id"] >= BASE_TRANSLATE
            content["added_tokens"].append({**content["added_tokens"][-1], "id": BASE_TRANSLATE, "content": "<|yue|>"})
        content["added_tokens"].sort(key=lambda each: int(each["id"]))
        content["post_processor"] = None  # it has ids of its own, and prompts are ours

    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        shutil.copy(weights.for_vllm("demo:whisper-base") / name, into)
    _changed(into / "tokenizer.json", tokenizer)
    _changed(into / "config.json", lambda content: content.update(vocab_size=SIZES[vocabulary]))
    return into


def openai(vocabulary: str, language: str = "en", task: str = "transcribe") -> "Tokenizer":
    """The library's tokenizer of that vocabulary."""
    from whisper.tokenizer import get_tokenizer

    return get_tokenizer(vocabulary != "english", num_languages=LANGUAGES[vocabulary], language=language, task=task)


@pytest.fixture(scope="module", params=list(SIZES))
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokens]:
    """A vocabulary's name, and what we read of its folder."""
    vocabulary: str = request.param
    return vocabulary, Tokens.of(folder(vocabulary, tmp_path_factory.mktemp(vocabulary)))


def window(tokens: Tokens, **options: Any) -> Window:
    """A second of audio."""
    return plan(AsrInput(SPOKEN, AsrOptions(**{"language": "en", **options})), tokens.abilities, WhisperSettings())


def test_ids(known: tuple[str, Tokens]) -> None:
    vocabulary, tokens = known
    library = openai(vocabulary)
    assert (tokens.start, tokens.previous, tokens.end) == (library.sot, library.sot_prev, library.eot)
    assert (tokens.transcribe, tokens.translate, tokens.no_speech) == (
        library.transcribe,
        library.translate,
        library.no_speech,
    )
    assert (tokens.rules.no_timestamps, tokens.rules.first_timestamp) == (
        library.no_timestamps,
        library.timestamp_begin,
    )
    assert tokens.vocabulary.first_timestamp == library.timestamp_begin


def test_languages(known: tuple[str, Tokens]) -> None:
    vocabulary, tokens = known
    library = openai(vocabulary)
    assert tokens.languages == dict(zip(library.all_language_tokens, library.all_language_codes, strict=True))
    assert len(tokens.languages) == LANGUAGES[vocabulary]
    able = {"en"} if vocabulary == "english" else set(library.all_language_codes)
    assert set(tokens.abilities.languages) == able


@pytest.mark.parametrize("timestamps", ["segment", "none"])
@pytest.mark.parametrize(("language", "task"), [("en", "transcribe"), ("fr", "translate"), ("yue", "transcribe")])
def test_prompts(known: tuple[str, Tokens], language: str, task: Any, timestamps: Any) -> None:
    vocabulary, tokens = known
    if language not in tokens.abilities.languages:
        assert vocabulary == "english" or language == "yue"
        return
    library = openai(vocabulary, language, task)
    asked = {"language": language, "task": task, "timestamps": timestamps}
    expected = library.sot_sequence if timestamps == "segment" else library.sot_sequence_including_notimestamps
    assert tokens.prompt(window(tokens, **asked)) == list(expected)
    said = list(tokens.abilities.encode(" What was said before."))
    if vocabulary != "english":  # whose text has other ids; here they are the multilingual ones
        assert said == library.encode(" What was said before.")
    after = tokens.prompt(window(tokens, prompt="What was said before.", **asked))
    assert after == [library.sot_prev, *said, *expected]


def test_control_tokens_are_never_said_and_text_is(known: tuple[str, Tokens]) -> None:
    vocabulary, tokens = known
    library = openai(vocabulary)
    control = set(library.special_tokens.values()) - {library.eot}
    control = {token for token in control if token < library.timestamp_begin}
    assert set(tokens.rules.never) >= control - {library.no_timestamps}
    assert library.eot not in tokens.rules.never
    assert not set(tokens.rules.never) & set(library.encode(" All is well, at 10 o'clock."))


def test_the_text_of_tokens(known: tuple[str, Tokens]) -> None:
    _, tokens = known
    text = " Ça va, 你好."
    said = tokens.abilities.encode(text)
    assert tokens.vocabulary.text([tokens.rules.first_timestamp, *said, tokens.end]) == text


def test_an_older_folder_says_everything_in_its_config(tmp_path: Path) -> None:
    made = folder("large-v3", tmp_path)
    (made / "generation_config.json").unlink()
    _changed(
        made / "config.json", lambda content: content.update(suppress_tokens=[7, 9], begin_suppress_tokens=[220, 50257])
    )
    tokens = Tokens.of(made)
    assert {7, 9} < set(tokens.rules.never)
    assert tokens.rules.not_first == (220, 50257)
    # Which heads follow the audio it does not say: all of the later half, as openai-whisper has it.
    assert tokens.alignment_heads == [[layer, head] for layer in (3, 4, 5) for head in range(8)]


def test_heads_of_a_larger_model_are_not_listened_to(tmp_path: Path) -> None:
    """Smaller models made of large-v3 may have kept its list: then no head would be watched, and every word be at 0."""
    made = folder("large-v3", tmp_path)
    _changed(made / "generation_config.json", lambda content: content.update(alignment_heads=[[5, 3], [25, 6]]))
    assert Tokens.of(made).alignment_heads == [[layer, head] for layer in (3, 4, 5) for head in range(8)]


def test_a_folder_that_says_nothing_of_what_is_not_first(tmp_path: Path) -> None:
    made = folder("multilingual", tmp_path)
    (made / "generation_config.json").unlink()
    _changed(made / "config.json", lambda content: content.pop("begin_suppress_tokens", None))
    library = openai("multilingual")
    assert Tokens.of(made).rules.not_first == (*library.encode(" "), library.eot)


def test_ids_that_are_no_text_are_not_suppressed(tmp_path: Path) -> None:
    """Timestamps have rules of their own, and -1 stands for openai-whisper's list in its own options."""
    made = folder("multilingual", tmp_path)
    first = openai("multilingual").timestamp_begin

    def change(content: dict[str, Any]) -> None:
        content.update(suppress_tokens=[-1, 7, first, first + 1500, 99_999], begin_suppress_tokens=[-1, 220, first])

    _changed(made / "generation_config.json", change)
    rules = Tokens.of(made).rules
    assert max(rules.never) < first
    assert min(rules.never) == 7
    assert rules.not_first == (220,)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "llama"}, "no Whisper, their config says 'llama'"),
        ({"model_type": None}, "no Whisper, their config says None"),
    ],
)
def test_what_is_no_whisper(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    made = folder("multilingual", tmp_path)
    _changed(made / "config.json", lambda content: content.update(change))
    with pytest.raises(ValueError, match=told):
        Tokens.of(made)


def test_a_tokenizer_that_is_no_whispers(tmp_path: Path) -> None:
    made = folder("multilingual", tmp_path)

    def change(content: dict[str, Any]) -> None:
        content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] != "<|startofprev|>"]

    _changed(made / "tokenizer.json", change)
    with pytest.raises(ValueError, match=r"no Whisper's, it has no <\|startofprev\|>"):
        Tokens.of(made)
