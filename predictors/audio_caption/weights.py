"""From MODEL_ID to a folder that a backend can load. Every failure is a ValueError with one sentence for the operator's log."""

from functools import partial
from pathlib import Path

from predictors.audio_caption import convert, demo_weights
from serving.cache import made_of
from serving.hub import snapshot

_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin", "model.bin"]
_VLLM_FILES = ["*.json", "*.txt", "*.safetensors"]


def folder(model_id: str, patterns: list[str]) -> Path:
    """The local folder of MODEL_ID, downloaded from the hub where it is an id."""
    if model_id == demo_weights.NAME:
        return demo_weights.folder()
    path = Path(model_id)
    if path.is_dir():
        return path
    if model_id.startswith(("/", ".", "~")) or path.exists():
        raise ValueError(f"MODEL_ID={model_id} is no folder")
    return snapshot(model_id, patterns)


def for_torch(model_id: str) -> Path:
    """A Hugging Face folder of a Whisper."""
    found = folder(model_id, _HUB_FILES)
    if convert.is_hugging_face(found):
        return found
    raise ValueError(
        f"MODEL_ID={model_id} is no Hugging Face Whisper: it needs config.json and model.safetensors or pytorch_model.bin"
    )


def for_ctranslate2(model_id: str, dtype: str) -> Path:
    """A CTranslate2 folder as it is, or a Hugging Face one converted once, into the cache, with weights in `dtype`."""
    found = folder(model_id, _HUB_FILES)
    if convert.is_ctranslate2(found):
        return found
    if convert.is_hugging_face(found):
        return made_of(found, f"caption-ctranslate2-{dtype}", partial(convert.convert, dtype=dtype))
    raise ValueError(
        f"MODEL_ID={model_id} is neither a CTranslate2 Whisper (model.bin) nor a Hugging Face one (config.json and "
        "model.safetensors or pytorch_model.bin)"
    )


def for_vllm(model_id: str) -> Path:
    """A Hugging Face folder of a Qwen2-Audio."""
    found = folder(model_id, _VLLM_FILES)
    if (found / "config.json").is_file() and any(found.glob("*.safetensors")):
        return found
    raise ValueError(f"MODEL_ID={model_id} is no Hugging Face model: it needs config.json and *.safetensors")
