"""Captions token for token: both backends against a greedy loop by hand, CTranslate2 against torch, every layout alike."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from predictors.audio_caption import features
from predictors.audio_caption.captioner import Backend, WhisperCaptioner
from predictors.audio_caption.model import engine
from predictors.audio_caption.plans import Search
from predictors.audio_caption.settings import CaptionSettings
from predictors.audio_caption.tokens import PREFIXES, START, Tokens
from serving.contracts.caption import CaptionInput, CaptionOptions, CaptionResult
from tests.unit.audio_caption import tiny

NEW = 12
WINDOWS = [tiny.sound(3.0, 1), tiny.sound(30.0, 2), tiny.sound(0.4, 3)]
GREEDY = Search("clotho", 1, NEW, 0.0, 1)


def backend(folder: Path, name: str) -> Backend:
    settings = CaptionSettings(model_id=str(folder), backend=name, device="cpu", dtype="float32", num_threads=1)
    made = engine(settings)._backend
    made.load()
    return made


@pytest.fixture(scope="module")
def loaded(hugging_face: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backend]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return {name: backend(hugging_face, name) for name in ("torch", "ctranslate2")}


@pytest.fixture(scope="module")
def reference(hugging_face: Path) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(hugging_face).eval()


@torch.inference_mode()
def by_hand(model: WhisperForConditionalGeneration, tokens: Tokens, samples: np.ndarray, style: str) -> list[int]:
    """Step by step, without a cache: the most probable token that may be said."""
    mel = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt").input_features
    encoded = model.model.encoder(mel)
    said: list[int] = []
    while len(said) < NEW and tokens.end not in said:
        ids = torch.tensor([[*tokens.prompt(style), *said]])
        logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits[0, -1]
        logits[list(tokens.suppressed)] = -torch.inf
        if not said:
            logits[list(tokens.begin_suppressed)] = -torch.inf
        said.append(int(logits.argmax()))
    return said


def said(model: Backend, windows: list[np.ndarray], search: Search) -> list[list[int]]:
    mel = np.stack([features.log_mel(window, model.mels) for window in windows])
    found = model.generate(model.encode(mel), model.tokens.prompt(search.style), search)
    return [[token for token in one if token != model.tokens.end] for ((one, _), *_) in found]


@pytest.mark.parametrize("seconds", [0.0, 0.4, 7.3, 30.0])
@pytest.mark.parametrize("mels", [80, 128])
def test_features_are_those_of_transformers(seconds: float, mels: int) -> None:
    samples = tiny.sound(seconds)
    theirs = WhisperFeatureExtractor(feature_size=mels)(samples, sampling_rate=16_000, return_tensors="np")
    assert features.log_mel(samples, mels) == pytest.approx(theirs.input_features[0], abs=2e-4)


@pytest.mark.parametrize("style", PREFIXES)
def test_both_backends_say_what_a_greedy_loop_says(
    style: str, reference: WhisperForConditionalGeneration, loaded: dict[str, Backend]
) -> None:
    expected = [by_hand(reference, loaded["torch"].tokens, samples, style) for samples in WINDOWS]
    search = Search(style, 1, NEW, 0.0, 1)
    assert len({tuple(each) for each in expected}) > 1  # it hears
    for name, model in loaded.items():
        assert said(model, WINDOWS, search) == expected, name


def test_the_style_changes_what_is_said(loaded: dict[str, Backend]) -> None:
    texts = {tuple(said(loaded["ctranslate2"], WINDOWS[:1], Search(style, 1, NEW, 0.0, 1))[0]) for style in PREFIXES}
    assert len(texts) == len(PREFIXES)


def test_a_batch_is_captioned_as_its_windows_alone(loaded: dict[str, Backend]) -> None:
    model = loaded["ctranslate2"]
    assert said(model, WINDOWS, GREEDY) == [said(model, [window], GREEDY)[0] for window in WINDOWS]


def score_by_hand(
    model: WhisperForConditionalGeneration, own: Backend, mel: features.Features, text: Sequence[int], search: Search
) -> float:
    """From the logits of the whole text at once. `text` has no end; shorter than may be, the end came next."""
    prompt = own.tokens.prompt(search.style)
    said = [*text, *([own.tokens.end] if len(text) < search.max_tokens else [])]
    with torch.inference_mode():
        logits = model(
            input_features=torch.from_numpy(mel), decoder_input_ids=torch.tensor([[*prompt, *said[:-1]]])
        ).logits[0, len(prompt) - 1 :]
        logits[:, list(own.tokens.suppressed)] = -torch.inf
        logits[0, list(own.tokens.begin_suppressed)] = -torch.inf
        return float(logits.log_softmax(-1)[range(len(said)), said].mean().exp())


FEW = (220, 30_000, 40_000, tiny.END)
"""All that the model of `terse` may say, so that its captions end, some at once."""


@pytest.fixture(scope="module")
def terse(hugging_face: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backend]:
    folder = shutil.copytree(hugging_face, tmp_path_factory.mktemp("caption") / "terse")
    told = json.loads((folder / "generation_config.json").read_text())
    told["suppress_tokens"] = [token for token in range(tiny.VOCABULARY) if token not in FEW]
    (folder / "generation_config.json").write_text(json.dumps(told))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return {name: backend(folder, name) for name in ("torch", "ctranslate2")}


@pytest.mark.parametrize(
    "search",
    [
        GREEDY,
        Search("clotho", 5, NEW, 0.0, 5),
        Search("audioset", 3, 3, 0.0, 5),
        Search("clotho", 6, NEW, 0.5, 1),
        Search("clotho", 6, NEW, 1.5, 1),
    ],
    ids=["greedy", "beams", "few tokens", "temperature 0.5", "temperature 1.5"],
)
def test_scores_are_the_mean_probability_of_the_tokens(
    search: Search, reference: WhisperForConditionalGeneration, terse: dict[str, Backend]
) -> None:
    """By the model's own probabilities, whatever the search; the end of a caption counts."""
    for name, own in terse.items():
        mel = features.log_mel(WINDOWS[0], own.mels)[None]
        (hypotheses,) = own.generate(own.encode(mel), own.tokens.prompt(search.style), search)
        for tokens, score in hypotheses:
            text = [token for token in tokens if token != own.tokens.end]
            assert score == pytest.approx(score_by_hand(reference, own, mel, text, search), rel=1e-3), name


def test_captions_end(terse: dict[str, Backend]) -> None:
    """What the test before is about: some of the captions end by themselves, and not with their first token."""
    for own in terse.values():
        mel = features.log_mel(WINDOWS[0], own.mels)[None]
        (hypotheses,) = own.generate(own.encode(mel), own.tokens.prompt("clotho"), Search("clotho", 10, NEW, 1.5, 1))
        lengths = [len([token for token in text if token != own.tokens.end]) for text, _ in hypotheses]
        assert 0 < min(lengths) < NEW


@pytest.mark.parametrize("name", ["torch", "ctranslate2"])
@pytest.mark.parametrize(("max_tokens", "cut_off"), [(1, True), (200, False)])
def test_a_caption_that_max_tokens_ended_says_so(
    name: str, max_tokens: int, cut_off: bool, terse: dict[str, Backend]
) -> None:
    """No caption ends with its first token; a third of what is drawn after it is the end."""
    captioner = WhisperCaptioner(terse[name], CaptionSettings(backend=name))
    options = CaptionOptions(num_captions=3, max_tokens=max_tokens, temperature=1.5)
    (result,) = captioner.run([CaptionInput(WINDOWS[0], options)])
    assert isinstance(result, CaptionResult)
    assert [caption.cut_off for caption in result.captions] == [cut_off] * 3


def test_beams_do_not_prefer_a_short_caption_to_a_probable_one(terse: dict[str, Backend]) -> None:
    found = {}
    for name, own in terse.items():
        mel = features.log_mel(WINDOWS[0], own.mels)[None]
        ((found[name],),) = own.generate(own.encode(mel), own.tokens.prompt("clotho"), Search("clotho", 1, NEW, 0.0, 5))
    assert list(found["ctranslate2"][0]) == list(found["torch"][0])
    assert found["ctranslate2"][1] == pytest.approx(found["torch"][1], rel=1e-3)


def test_beams_give_several_captions_with_scores_that_agree(loaded: dict[str, Backend]) -> None:
    search = Search("clotho", 3, NEW, 0.0, 5)
    found = {}
    for name, model in loaded.items():
        mel = features.log_mel(WINDOWS[0], model.mels)[None]
        (hypotheses,) = model.generate(model.encode(mel), model.tokens.prompt("clotho"), search)
        assert len({tuple(text) for text, _ in hypotheses}) == 3
        assert all(0 < score <= 1 for _, score in hypotheses)
        found[name] = max(score for _, score in hypotheses)
    assert found["ctranslate2"] == pytest.approx(found["torch"], rel=0.05)


def test_samples_differ(loaded: dict[str, Backend]) -> None:
    for name, model in loaded.items():
        mel = features.log_mel(WINDOWS[0], model.mels)[None]
        (hypotheses,) = model.generate(
            model.encode(mel), model.tokens.prompt("clotho"), Search("clotho", 4, NEW, 1.0, 1)
        )
        assert len({tuple(text) for text, _ in hypotheses}) > 1, name


@pytest.mark.parametrize("tokens", [1, 5, 60, 200])
def test_no_more_tokens_than_asked_for(tokens: int, loaded: dict[str, Backend]) -> None:
    for name, model in loaded.items():
        (text,) = said(model, WINDOWS[:1], Search("audioset", 1, tokens, 0.0, 1))
        assert len(text) == tokens, name  # random weights hardly ever end


@pytest.mark.parametrize("name", ["torch", "ctranslate2"])
def test_the_checkpoint_of_2023_says_the_same(name: str, of_2023: Path, loaded: dict[str, Backend]) -> None:
    assert said(backend(of_2023, name), WINDOWS[:1], GREEDY) == said(loaded[name], WINDOWS[:1], GREEDY)


@pytest.mark.parametrize("name", ["torch", "ctranslate2"])
@pytest.mark.parametrize("style", PREFIXES)
def test_the_prefix_is_in_no_caption(name: str, style: str, hugging_face: Path) -> None:
    captioner = engine(CaptionSettings(model_id=str(hugging_face), backend=name, device="cpu", num_threads=1))
    captioner.load()
    options = CaptionOptions(style=style, num_captions=2, max_tokens=NEW)
    for result in captioner.run([CaptionInput(window, options) for window in WINDOWS[:2]]):
        assert isinstance(result, CaptionResult)
        assert result.style == style
        assert len(result.captions) == 2
        assert result.captions[0].score >= result.captions[1].score
        for caption in result.captions:
            assert caption.text
            assert not any(part in caption.text for part in (*PREFIXES.values(), *START, "<|"))
    captioner.close()
