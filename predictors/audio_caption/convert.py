"""A Hugging Face Whisper as a CTranslate2 folder, quantised, without torch: renaming, and stacking of attention's projections.

CTranslate2's own converter needs torch and transformers, which are seven times as large as the CPU image; a test holds
this one's file to that one's, byte for byte.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from predictors.audio_caption import checkpoint
from predictors.audio_caption.checkpoint import Array
from predictors.audio_caption.tokens import Tokens

MODEL = "model.bin"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")


def is_ctranslate2(folder: Path) -> bool:
    """Whether the folder holds a CTranslate2 model."""
    return (folder / MODEL).is_file()


def is_hugging_face(folder: Path) -> bool:
    """Whether the folder holds a Hugging Face model in one of the two layouts."""
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for name in (checkpoint.SAFETENSORS, checkpoint.PICKLED)
    )


def convert(source: Path, target: Path, *, dtype: str) -> None:
    """Writes weights in `dtype` (int8, float16, float32) and the tokenizer's files into `target`. Raises ValueError."""
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != "whisper":
        raise ValueError(f"{source} is no Whisper, its config.json says model_type={config.get('model_type')!r}")
    try:
        write(config, checkpoint.tensors(source), Tokens.of(source), target, dtype=dtype)
    except KeyError as error:
        raise ValueError(f"{source} is no whole Whisper, it has no tensor {error}") from None
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write(config: dict[str, Any], state: dict[str, Array], tokens: Tokens, target: Path, *, dtype: str) -> None:
    """Writes the model alone: `config` and `state` as transformers has them. Raises KeyError for a tensor that is missing."""
    from ctranslate2.specs.whisper_spec import WhisperSpec  # noqa: PLC0415  # heavy libraries are imported when needed

    spec = WhisperSpec(
        *(config[f"{side}_{what}"] for side in ("encoder", "decoder") for what in ("layers", "attention_heads"))
    )
    _fill(spec, state)
    spec.register_vocabulary(_vocabulary(tokens, config["vocab_size"]))
    spec.config.suppress_ids = list(tokens.suppressed)
    spec.config.suppress_ids_begin = list(tokens.begin_suppressed)
    spec.validate()
    spec.optimize(quantization=dtype)
    spec.save(str(target))


def _vocabulary(tokens: Tokens, size: int) -> list[str]:
    """Every token by its number; timestamps have none of their own in older tokenizers."""
    known = tokens.tokenizer.get_vocab_size()
    names = [str(tokens.tokenizer.id_to_token(number)) for number in range(min(known, size))]
    return [*names, *(f"<|{number * 0.02:.2f}|>" for number in range(size - len(names)))]


class _Weights:
    """The tensors, by the names of transformers' classes."""

    def __init__(self, state: dict[str, Array]):
        # Fine-tunes of the base class alone have no leading "model.".
        self._state = {name.removeprefix("model."): value for name, value in state.items()}

    def __getitem__(self, name: str) -> Array:
        # CTranslate2 quantises in place; what was read from a pickle is read-only, and may be shared by two names.
        return np.require(self._state[name], requirements=["C", "W"])

    def linear(self, spec: Any, *names: str) -> None:
        """One linear layer of several, stacked. Whisper's keys have no bias: zeros."""
        weights = [self[f"{name}.weight"] for name in names]
        spec.weight = np.concatenate(weights)
        spec.bias = np.concatenate(
            [
                self[f"{name}.bias"] if f"{name}.bias" in self._state else np.zeros(len(weight), weight.dtype)
                for name, weight in zip(names, weights, strict=True)
            ]
        )

    def norm(self, spec: Any, name: str) -> None:
        """A layer norm."""
        spec.gamma, spec.beta = self[f"{name}.weight"], self[f"{name}.bias"]


def _fill(spec: Any, state: dict[str, Array]) -> None:
    weights = _Weights(state)
    for name, conv in (("conv1", spec.encoder.conv1), ("conv2", spec.encoder.conv2)):
        conv.weight, conv.bias = weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"]
    spec.decoder.embeddings.weight = weights["decoder.embed_tokens.weight"]
    spec.decoder.projection.weight = spec.decoder.embeddings.weight  # tied
    for side in ("encoder", "decoder"):
        part = getattr(spec, side)
        part.position_encodings.encodings = weights[f"{side}.embed_positions.weight"]
        weights.norm(part.layer_norm, f"{side}.layer_norm")
        for number, layer in enumerate(part.layer):
            _fill_layer(layer, weights, f"{side}.layers.{number}", has_cross=side == "decoder")


def _fill_layer(layer: Any, weights: _Weights, name: str, *, has_cross: bool) -> None:
    own = layer.self_attention
    weights.norm(own.layer_norm, f"{name}.self_attn_layer_norm")
    weights.linear(own.linear[0], *(f"{name}.self_attn.{part}_proj" for part in "qkv"))
    weights.linear(own.linear[1], f"{name}.self_attn.out_proj")
    if has_cross:
        cross = layer.attention
        weights.norm(cross.layer_norm, f"{name}.encoder_attn_layer_norm")
        weights.linear(cross.linear[0], f"{name}.encoder_attn.q_proj")
        weights.linear(cross.linear[1], *(f"{name}.encoder_attn.{part}_proj" for part in "kv"))
        weights.linear(cross.linear[2], f"{name}.encoder_attn.out_proj")
    weights.norm(layer.ffn.layer_norm, f"{name}.final_layer_norm")
    weights.linear(layer.ffn.linear_0, f"{name}.fc1")
    weights.linear(layer.ffn.linear_1, f"{name}.fc2")
