"""From MODEL_ID to something that a backend can load: a folder for CTranslate2, a checkpoint for openai-whisper.

Downloads are the libraries' own. Every failure is a ValueError with one sentence for the operator's log.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from predictors.whisper import checkpoint, demo_weights, hugging_face
from predictors.whisper.checkpoint import Heads
from serving.cache import made_of
from serving.hub import downloaded, snapshot


@dataclass(frozen=True)
class Checkpoint:
    """What `whisper.load_model` takes, and the alignment heads where they are not those of an official size."""

    name: str
    alignment_heads: Heads | None = None


def for_ctranslate2(model_id: str) -> Path:
    """A folder with `model.bin`, `config.json` and `tokenizer.json`."""
    local = _local(model_id)
    if local is None:
        from faster_whisper.utils import download_model  # noqa: PLC0415  # as below

        local = Path(downloaded(model_id, lambda: download_model(model_id)))
    missing = [name for name in ("model.bin", "tokenizer.json") if not (local / name).is_file()]
    if not missing:
        return local
    hint = ""
    if checkpoint.is_hugging_face(local):
        hint = (
            "; it is a Hugging Face model: convert it with `ct2-transformers-converter --copy_files tokenizer.json "
            "preprocessor_config.json`, or set BACKEND=openai_whisper"
        )
    raise ValueError(f"MODEL_ID={model_id} is no CTranslate2 Whisper, it has no {' and no '.join(missing)}{hint}")


def with_alignment_heads(folder: Path) -> Path:
    """A CTranslate2 folder whose config.json says which heads follow the audio: itself, or a mended one in the cache.

    Without, CTranslate2 aligns nothing; with heads that the model has not it ends the process.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        said = config.get("alignment_heads")
        heads = checkpoint.alignment_heads(said, *checkpoint.decoder_size(folder / "model.bin"))
    except (OSError, struct.error, ValueError, LookupError, AttributeError):  # CTranslate2 says what is wrong with it
        return folder
    if heads == said or not heads or not config:
        return folder

    def mend(source: Path, target: Path) -> None:
        for file in source.iterdir():
            if file.name != "config.json":
                (target / file.name).symlink_to(file.resolve())
        (target / "config.json").write_text(json.dumps({**config, "alignment_heads": heads}))

    return made_of(folder, "whisper-ctranslate2", mend)


def for_openai_whisper(model_id: str) -> Checkpoint:
    """An official size by its name, or a checkpoint file; other layouts are converted into the cache."""
    local = _local(model_id)
    if local is None and "/" not in model_id:
        import whisper  # noqa: PLC0415  # heavy libraries are imported when they are needed

        if model_id in whisper.available_models():
            return Checkpoint(model_id)
        sizes = ", ".join(whisper.available_models())
        raise ValueError(f"MODEL_ID={model_id} is no size of openai-whisper, which has: {sizes}")
    if local is None:
        local = _snapshot(model_id)
    if local.is_file():
        return Checkpoint(str(local))
    if checkpoint.is_ctranslate2(local) or checkpoint.is_hugging_face(local):
        return _converted(local)
    checkpoints = sorted(local.glob("*.pt"))
    if len(checkpoints) != 1:
        raise ValueError(
            f"MODEL_ID={model_id} has {len(checkpoints)} files *.pt and no other Whisper; it must hold one checkpoint of "
            "openai-whisper, or a Hugging Face or CTranslate2 model"
        )
    return Checkpoint(str(checkpoints[0]))


def for_vllm(model_id: str) -> Path:
    """A Hugging Face folder; a CTranslate2 folder is converted into the cache."""
    local = _local(model_id)
    if local is None:
        official = {"turbo": "large-v3-turbo"}.get(model_id, model_id)
        local = _snapshot(model_id if "/" in model_id else f"openai/whisper-{official}")
    if checkpoint.is_hugging_face(local):
        return local
    if checkpoint.is_ctranslate2(local):
        return made_of(local, "whisper-hugging-face", hugging_face.convert)
    raise ValueError(
        f"MODEL_ID={model_id} is no Hugging Face Whisper (config.json, model.safetensors), nor a CTranslate2 one"
    )


def _local(model_id: str) -> Path | None:
    """The folder or file that MODEL_ID names; None when it names something to download."""
    if model_id == demo_weights.NAME:
        return demo_weights.folder()
    path = Path(model_id)
    if path.exists():
        return path
    if model_id.startswith(("/", ".", "~", "demo:")):
        raise ValueError(f"MODEL_ID={model_id} does not exist")
    return None


def _snapshot(repository: str) -> Path:
    return snapshot(repository, ["*.json", "*.txt", "model.safetensors", "model-*.safetensors", "*.pt", "model.bin"])


def _converted(source: Path) -> Checkpoint:
    folder = made_of(source, "whisper-openai", checkpoint.convert)
    heads = folder / checkpoint.HEADS
    return Checkpoint(str(folder / checkpoint.MODEL), json.loads(heads.read_text()) if heads.is_file() else None)
