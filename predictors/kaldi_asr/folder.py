"""Which model a folder holds, by its files and what they say, and whether it is whole.

Layouts: those of sherpa-onnx's published offline models, of Vosk 5 (`am-onnx/`, `lang/`), and of classic Vosk models
(`am/final.mdl`). Everything that makes sherpa-onnx or Kaldi end the process is found here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from predictors.kaldi_asr.onnx_file import metadata
from predictors.kaldi_asr.settings import Kind

_BLANKS = ("<blk>", "<blank>", "<eps>")
# Keys that the engine ends the process without (sherpa-onnx 2.0.1, offline-*-model.cc).
_NEEDED = {
    "nemo_ctc": ("vocab_size", "subsampling_factor"),
    "sense_voice": ("vocab_size", "lfr_window_size", "lfr_window_shift"),
    "paraformer": ("vocab_size", "lfr_window_size", "lfr_window_shift"),
}
_NORMALISATIONS = ("", "per_feature")


@dataclass(frozen=True)
class ModelFolder:
    """A model that is whole."""

    kind: Kind
    files: dict[str, Path] = field(default_factory=dict)
    """By role: `model`, or `encoder`, `decoder` and `joiner`; `tokens`; `bpe_vocab`, where there is one. For `vosk`: `folder`."""
    features: int = 80
    """Mel bins of the features."""


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
    _check_tokens(tokens, kind)
    bpe = next(iter(sorted([*folder.glob("bpe.vocab"), *folder.glob("*/bpe.vocab")])), None)
    giga_am = said.get("model", {}).get("is_giga_am") == "1"
    return ModelFolder(kind, {**files, "tokens": tokens, **({"bpe_vocab": bpe} if bpe else {})}, 64 if giga_am else 80)


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
    needed = [("model", name) for name in _NEEDED.get(kind, ())]
    if kind == "transducer":
        needed = [("decoder", "vocab_size"), ("decoder", "context_size")]
    for role, name in needed:
        if not said[role].get(name, "").isdecimal():
            raise ValueError(f"MODEL_ID={folder}: the {role}'s metadata have no number {name!r}, which a {kind} needs")
    normalisation = said.get("model", {}).get("normalize_type", "")
    if kind == "nemo_ctc" and normalisation not in (*_NORMALISATIONS, "NA"):
        raise ValueError(f"MODEL_ID={folder}: normalize_type {normalisation[:40]!r} is none that sherpa-onnx knows")


def _check_tokens(tokens: Path, kind: Kind) -> None:
    try:
        rows = [line.rsplit(maxsplit=1) for line in tokens.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{tokens.name} is not UTF-8") from None
    numbers = [row[-1] for row in rows]
    if not rows or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{tokens.name} has no tokens: a line is a token, a space and its number")
    if kind in ("nemo_ctc", "zipformer_ctc") and not any(row[0] in _BLANKS for row in rows):
        raise ValueError(f"{tokens.name} has no blank token ({', '.join(_BLANKS)}), which a CTC model needs")
