"""Audio captioning at whisper-small's size, random weights: CTranslate2 in int8 against torch in float32, greedy and with beams.

Random weights compute what trained ones do, token for token; they hardly ever end a caption, so both sides make as many tokens.
The encoder is timed by itself, since no search can be faster than it: its share says what a faster search is worth.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from predictors.audio_caption import convert, features
from predictors.audio_caption.captioner import Backend, WhisperCaptioner
from predictors.audio_caption.model import engine
from predictors.audio_caption.plans import Search
from predictors.audio_caption.settings import CaptionSettings
from tests.bench.report import Section
from tests.pods import Pod
from tests.unit.audio_caption import tiny

THREADS, ROUNDS, TOKENS, SECONDS = 2, 3, 25, 30.0
STYLE = "clotho"
_DTYPES = {"ctranslate2": "int8", "torch": "float32"}
_STARTING_SECONDS = 400


@dataclass(frozen=True)
class Times:
    """Seconds of one caption's parts, or the least of several captions'."""

    features: float
    encoder: float
    search: float
    whole: float


def run(size: dict[str, int] = tiny.SMALL) -> Section:
    """Both engines in this process, in turns; then a pod of each. `size` is that of `tiny.model`, for a try at less."""
    section = Section(
        "Audio captions on CPU",
        f"One window of {SECONDS:g} s, {TOKENS} tokens, the size of whisper-small (242 M), random weights, {THREADS} threads, "
        f"each figure the best of {ROUNDS}. The whole is features, encoder and search; the encoder is the same work whatever the "
        "search, and bounds the ratio.",
    )
    with tempfile.TemporaryDirectory() as scratch:
        published = tiny.hugging_face(Path(scratch) / "published", tiny.model(**size))
        prepared = Path(scratch) / "prepared"
        prepared.mkdir()
        begun = time.perf_counter()
        convert.convert(published, prepared, dtype="int8")
        converting = time.perf_counter() - begun
        folders = {"ctranslate2": prepared, "torch": published}
        _compare(section, {name: _loaded(name, folder) for name, folder in folders.items()})
        for name, folder in folders.items():
            section.row(
                f"{name} {_DTYPES[name]}: start of the pod → ready / peak RSS after a caption", _started(name, folder)
            )
        section.row("conversion of the published layout to int8, once", f"{converting:.1f} s")
    return section


def _settings(name: str, folder: Path) -> CaptionSettings:
    return CaptionSettings(
        model_id=str(folder), backend=name, device="cpu", dtype=_DTYPES[name], num_threads=THREADS, max_tokens=TOKENS
    )


def _loaded(name: str, folder: Path) -> WhisperCaptioner:
    captioner = engine(_settings(name, folder))
    assert isinstance(captioner, WhisperCaptioner)
    captioner.load()
    return captioner


def _compare(section: Section, engines: dict[str, WhisperCaptioner]) -> None:
    backends = {name: captioner._backend for name, captioner in engines.items()}
    found: dict[int, dict[str, Times]] = {}
    for beams in (1, 5):
        rounds: dict[str, list[Times]] = {name: [] for name in backends}
        for _ in range(ROUNDS):
            for name, backend in backends.items():
                rounds[name].append(_timed(backend, beams))
        found[beams] = {name: _least(times) for name, times in rounds.items()}
    for captioner in engines.values():
        captioner.close()

    both = {name: _least([times[name] for times in found.values()]) for name in backends}
    section.row("features alone, the same for both", f"{min(times.features for times in both.values()):.2f} s")
    ours, torch = both["ctranslate2"], both["torch"]
    _row(section, "encoder alone", ours.encoder, torch.encoder)
    for beams, label in ((1, "greedy"), (5, "beam 5")):
        ours, torch = found[beams]["ctranslate2"], found[beams]["torch"]
        _row(section, f"{label}: search alone", ours.search, torch.search)
        _row(section, f"{label}: the whole", ours.whole, torch.whole, goal=" (goal ≥ 5)" if beams > 1 else "")
        section.row(f"{label}: share of the encoder in ctranslate2's whole", f"{ours.encoder / ours.whole:.0%}")
    # The most that a search in no time at all would reach.
    bound = torch.whole / (ours.features + ours.encoder)
    section.row("beam 5: times as fast if ctranslate2's search took no time", f"{bound:.1f}")


def _row(section: Section, what: str, ours: float, torch: float, goal: str = "") -> None:
    section.row(f"{what}: ctranslate2 int8 / torch float32", f"{ours:.2f} / {torch:.2f} s")
    section.row(f"{what}: times as fast{goal}", f"{torch / ours:.1f}")


def _timed(backend: Backend, beams: int) -> Times:
    """One caption as `WhisperCaptioner` makes it."""
    window, prompt = tiny.sound(SECONDS), backend.tokens.prompt(STYLE)
    begun = time.perf_counter()
    mel = np.stack([features.log_mel(window, backend.mels)])
    made = time.perf_counter()
    encoded = backend.encode(mel)
    heard = time.perf_counter()
    (((tokens, _),),) = backend.generate(encoded, prompt, Search(STYLE, 1, TOKENS, 0.0, beams))
    ended = time.perf_counter()
    if len(tokens) != TOKENS:
        raise RuntimeError(f"the caption has {len(tokens)} tokens, the comparison is of {TOKENS}")
    return Times(made - begun, heard - made, ended - heard, ended - begun)


def _least(rounds: list[Times]) -> Times:
    return Times(
        *(min(getattr(times, part) for times in rounds) for part in ("features", "encoder", "search", "whole"))
    )


def _started(name: str, folder: Path) -> str:
    settings = _settings(name, folder)
    env = {
        "MODEL_ID": settings.model_id,
        "BACKEND": name,
        "DEVICE": "cpu",
        "DTYPE": settings.dtype,
        "NUM_THREADS": str(THREADS),
    }
    begun = time.perf_counter()
    with Pod("predictors.audio_caption", "sounds", env) as pod:
        pod.until_ready(_STARTING_SECONDS)  # which captions a window to warm up
        return f"{time.perf_counter() - begun:.1f} s / {pod.peak_rss_mb():.0f} MB"
