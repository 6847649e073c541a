"""A CTranslate2 Whisper as a Hugging Face folder, which vLLM loads. Renaming only (`checkpoint`), in the tensors' own float16."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from predictors.whisper import checkpoint
from predictors.whisper.vllm_tokens import MULTILINGUAL_SIZE

_NAMES = (
    (r"^", "model."),
    (r"\.blocks\.", ".layers."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.(ln_post|ln)\.", ".layer_norm."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)
_MULTILINGUAL_END, _ENGLISH_END = 50_257, 50_256  # <|endoftext|>


def convert(source: Path, target: Path) -> None:
    """Writes weights, configuration, tokenizer and feature extractor into `target`. Raises ValueError."""
    from safetensors.torch import save_file  # noqa: PLC0415  # heavy libraries are imported when they are needed

    state, heads, alignment = checkpoint.from_ctranslate2(source)
    size = checkpoint.dimensions(state, *heads)
    renamed = {_renamed(name): tensor.contiguous() for name, tensor in state.items()}
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    known = json.loads((source / "config.json").read_text()) if (source / "config.json").is_file() else {}
    _write(target / "config.json", _config(size))
    _write(
        target / "generation_config.json",
        {
            "alignment_heads": alignment or None,
            "suppress_tokens": known.get("suppress_ids"),
            "begin_suppress_tokens": known.get("suppress_ids_begin"),
        },
    )
    _write(
        target / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": size["n_mels"],
        },
    )
    _write(
        target / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor"}
    )
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _config(size: dict[str, int]) -> dict[str, Any]:
    """A `WhisperConfig`; what is not told has Whisper's own defaults."""
    end = _MULTILINGUAL_END if size["n_vocab"] >= MULTILINGUAL_SIZE else _ENGLISH_END
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "torch_dtype": "float16",
        "vocab_size": size["n_vocab"],
        "num_mel_bins": size["n_mels"],
        "d_model": size["n_text_state"],
        "encoder_layers": size["n_audio_layer"],
        "encoder_attention_heads": size["n_audio_head"],
        "encoder_ffn_dim": 4 * size["n_audio_state"],
        "decoder_layers": size["n_text_layer"],
        "decoder_attention_heads": size["n_text_head"],
        "decoder_ffn_dim": 4 * size["n_text_state"],
        "max_source_positions": size["n_audio_ctx"],
        "max_target_positions": size["n_text_ctx"],
        "decoder_start_token_id": end + 1,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}, indent=1))
