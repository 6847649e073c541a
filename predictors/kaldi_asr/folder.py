"""Which model a folder holds, by its files and what they say, and whether it is whole.

Layouts: those of sherpa-onnx's published offline models, of Vosk 5 (`am-onnx/`, `lang/`), and of classic Vosk models
(`am/final.mdl`). Metadata and tables that make sherpa-onnx end the process are found here; networks are not looked into.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from predictors.kaldi_asr.onnx_file import metadata
from predictors.kaldi_asr.settings import Kind

_BLANKS = ("<blk>", "<blank>", "<eps>")
# What the engine reads of a model's metadata and ends the process without (sherpa-onnx 2.0.1, offline-*-model.cc), by the file
# that it is in: sizes, other whole numbers, lists with commas.
_LFR = ("vocab_size", "lfr_window_size", "lfr_window_shift")
_SIZES: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "transducer": ("decoder", ("vocab_size", "context_size")),
    "nemo_ctc": ("model", ("vocab_size", "subsampling_factor")),
    "sense_voice": ("model", _LFR),
    "paraformer": ("model", _LFR),
    "whisper": ("encoder", ("n_mels", "n_text_layer", "n_text_ctx", "n_text_state", "n_vocab")),
}
_WHISPER_TOKENS = ("sot", "eot", "blank_id", "translate", "transcribe", "no_timestamps", "no_speech")
_SENSE_VOICE_NUMBERS = ("with_itn", "without_itn", "lang_auto", "lang_zh", "lang_en", "lang_ja", "lang_ko", "lang_yue")
_NUMBERS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "sense_voice": ("model", ("normalize_samples", *_SENSE_VOICE_NUMBERS)),
    "whisper": ("encoder", ("is_multilingual", *_WHISPER_TOKENS)),
}
_STATISTICS = ("neg_mean", "inv_stddev")
_LISTS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "sense_voice": ("model", _STATISTICS),
    "paraformer": ("model", _STATISTICS),
    "whisper": ("encoder", ("sot_sequence",)),
}
_LARGEST = 2**31  # the engine's whole numbers are below
_NORMALISATIONS = ("", "per_feature")


@dataclass(frozen=True)
class ModelFolder:
    """A model that is whole."""

    kind: Kind
    files: dict[str, Path] = field(default_factory=dict)
    """By role: `model`, or `encoder`, `decoder` and `joiner`; `tokens`; `bpe_vocab`, where there is one. For `vosk`: `folder`."""
    features: int = 80
    """Mel bins of the features."""
    languages: tuple[str, ...] = ()
    """Codes that it can be asked for, where it has several and the engine ends the process at others; else empty."""


def examine(folder: Path, wanted: Kind) -> ModelFolder:
    """What `folder` holds. Raises ValueError that says what is missing, or that it is not what was `wanted`."""
    if not folder.is_dir():
        raise ValueError(f"MODEL_ID={folder} is no folder; it must hold a model of sherpa-onnx or of Vosk")
    found = _vosk(folder) or _sherpa(folder, wanted)
    if wanted not in ("auto", found.kind):
        raise ValueError(f"MODEL_KIND={wanted}, but MODEL_ID={folder} holds a model of the kind {found.kind}")
    return found


def _vosk(folder: Path) -> ModelFolder | None:
    """A classic Vosk model, in its old layout or the new one."""
    models = [folder / "am/final.mdl", folder / "final.mdl"]
    model = next((each for each in models if each.is_file()), None)
    if model is None:
        return None
    base = folder if model.parent == folder else folder / "conf"
    missing = [] if (base / "mfcc.conf").is_file() else [str((base / "mfcc.conf").relative_to(folder))]
    graphs = [folder / "graph", folder]
    if not any((graph / name).is_file() for graph in graphs for name in ("HCLG.fst", "Gr.fst")):
        missing.append("graph/HCLG.fst (or graph/Gr.fst)")
    if missing:
        raise ValueError(f"MODEL_ID={folder} is a classic Vosk model without {' and '.join(missing)}")
    return ModelFolder("vosk", {"folder": folder})


def _sherpa(folder: Path, wanted: Kind) -> ModelFolder:
    models = {file.name: file for file in _onnx_files(folder)}
    tokens = next(iter(sorted([*folder.glob("*tokens.txt"), *folder.glob("*/tokens.txt")])), None)
    if not models or tokens is None:
        missing = "no *.onnx" if not models else "no tokens.txt"
        raise ValueError(
            f"MODEL_ID={folder} holds no model: it has {missing}; expected are encoder.onnx, decoder.onnx, joiner.onnx and "
            "tokens.txt (transducer, Vosk 5), model.onnx and tokens.txt (GigaAM, other CTC), or am/final.mdl (classic Vosk)"
        )
    encoder, decoder, joiner = (_named(models, role) for role in ("encoder", "decoder", "joiner"))
    if encoder is not None or joiner is not None:
        parts = {"encoder": encoder, "decoder": decoder, "joiner": joiner}
        kind: Kind = "whisper" if joiner is None and _is_whisper(encoder) else "transducer"
        files = {role: file for role, file in parts.items() if file is not None}
        missing_roles = [role for role, file in parts.items() if file is None and (kind, role) != ("whisper", "joiner")]
        if missing_roles:
            raise ValueError(
                f"MODEL_ID={folder} is a {kind} without {' and '.join(f'{role}*.onnx' for role in missing_roles)}"
            )
    else:
        model = _preferred(list(models.values()))
        kind, files = _single(model, wanted), {"model": model}
    said = {role: metadata(file) for role, file in files.items()}
    _check_metadata(folder, kind, said)
    _check_tokens(tokens, kind, said)
    bpe = next(iter(sorted([*folder.glob("bpe.vocab"), *folder.glob("*/bpe.vocab")])), None)
    giga_am = said.get("model", {}).get("is_giga_am") == "1"
    files |= {"tokens": tokens, **({"bpe_vocab": bpe} if bpe else {})}
    return ModelFolder(kind, files, 64 if giga_am else 80, _languages(folder, said) if kind == "whisper" else ())


def _onnx_files(folder: Path) -> Iterator[Path]:
    """The models of a folder and of the folders in it, those that are quantised last."""
    yield from sorted(
        [*folder.glob("*.onnx"), *folder.glob("*/*.onnx")], key=lambda file: (".int8." in file.name, file.name)
    )


def _named(models: dict[str, Path], role: str) -> Path | None:
    found = [file for name, file in models.items() if role in name]
    return _preferred(found) if found else None


def _preferred(files: list[Path]) -> Path:
    """Of a model in several precisions the one that is there as it was trained."""
    return min(files, key=lambda file: (".int8." in file.name, len(file.name), file.name))


def _is_whisper(encoder: Path | None) -> bool:
    return encoder is not None and metadata(encoder).get("model_type", "").startswith("whisper")


def _single(model: Path, wanted: Kind) -> Kind:
    """What a model of one file is."""
    said = metadata(model)
    kind = said.get("model_type", "").lower()
    if said.get("is_giga_am") == "1" or "encdec" in kind:
        return "nemo_ctc"
    if "zipformer2_ctc" in kind or "zipformer_ctc" in kind:
        return "zipformer_ctc"
    if "sense_voice" in kind or "sense-voice" in kind:
        return "sense_voice"
    if "paraformer" in kind:
        return "paraformer"
    if wanted in ("nemo_ctc", "zipformer_ctc", "sense_voice", "paraformer"):
        return wanted
    raise ValueError(f"{model.name} does not say what it is (model_type {kind!r}); set MODEL_KIND")


def _check_metadata(folder: Path, kind: Kind, said: dict[str, dict[str, str]]) -> None:
    rules: list[tuple[dict[Kind, tuple[str, tuple[str, ...]]], str, Callable[[str], bool]]] = [
        (_SIZES, "number above 0", lambda value: _whole(value) and int(value) > 0),
        (_NUMBERS, "number", _whole),
        (_LISTS, "list of numbers", lambda value: all(_finite(each) for each in value.split(","))),
    ]
    for needed, what, fits in rules:
        role, names = needed.get(kind, ("", ()))
        wrong = next((name for name in names if not fits(said[role].get(name, ""))), None)
        if wrong is not None:
            raise ValueError(f"MODEL_ID={folder}: the {role}'s metadata have no {what} {wrong!r}, which a {kind} needs")
    normalisation = said.get("model", {}).get("normalize_type", "")
    if kind == "nemo_ctc" and normalisation not in (*_NORMALISATIONS, "NA"):
        raise ValueError(f"MODEL_ID={folder}: normalize_type {normalisation[:40]!r} is none that sherpa-onnx knows")


def _languages(folder: Path, said: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """Of a Whisper that has several."""
    if said["encoder"]["is_multilingual"] == "0":
        return ()
    codes, tokens = (said["encoder"].get(f"all_language_{name}", "").split(",") for name in ("codes", "tokens"))
    if len(codes) != len(tokens) or not all(_whole(token) for token in tokens):
        raise ValueError(f"MODEL_ID={folder}: the encoder's metadata have no language codes with a token each")
    return tuple(codes)


def _check_tokens(tokens: Path, kind: Kind, said: dict[str, dict[str, str]]) -> None:
    rows = _rows(tokens)
    numbers = [row[-1] for row in rows]
    if not rows or not all(_whole(number) for number in numbers):
        raise ValueError(f"{tokens.name} has no tokens: a line is a token, a space and its number")
    if kind in ("nemo_ctc", "zipformer_ctc") and not any(row[0] in _BLANKS for row in rows):
        raise ValueError(f"{tokens.name} has no blank token ({', '.join(_BLANKS)}), which a CTC model needs")
    if kind in ("nemo_ctc", "transducer"):  # the first window with a token that has no name would fail, whoever's it is
        role, _ = _SIZES[kind]
        count = int(said[role]["vocab_size"])
        known = {int(number) for number in numbers}
        missing = next((number for number in range(count) if number not in known), None)
        if missing is not None:
            raise ValueError(f"{tokens.name} has no token {missing}; the model has {count}, from 0 on")


def check_pieces(vocabulary: Path) -> None:
    """Raises ValueError for a `bpe.vocab` that sherpa-onnx cannot split hotwords by."""
    rows = _rows(vocabulary)
    if not rows or not all(len(row) == 2 and _finite(row[1]) for row in rows):
        raise ValueError(f"{vocabulary.name} has no word pieces: a line is a piece, a tab and its score")


def _rows(table: Path) -> list[list[str]]:
    """Lines of a text, each split before its last word. Raises ValueError when it is none."""
    try:
        return [line.rsplit(maxsplit=1) for line in table.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{table.name} is not UTF-8") from None


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < _LARGEST


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
