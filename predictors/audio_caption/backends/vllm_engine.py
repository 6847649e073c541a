"""What vLLM is told of Qwen2-Audio: prompt, arguments, and what checkpoint and machine must be. Not here: requests."""

import json
from pathlib import Path
from typing import Any

from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import MAX_TOKENS

_AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"
_TEMPLATES = {
    "instruct": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nAudio 1: {audio}\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
    "base": "{audio}{prompt}",
}
"""The chat of Qwen2-Audio-7B-Instruct as its processor writes it; the base model is asked in plain text, after the audio."""
UNQUANTISED = 16
_PLACES = 750
"""Tokens of 30 s of audio, 25 a second."""


def prompt(settings: CaptionSettings) -> str:
    """The text of a request, with the one placeholder that vLLM puts the audio in the place of."""
    return _TEMPLATES[settings.prompt_template].format(audio=_AUDIO, prompt=settings.caption_prompt)


def checkpoint_bits(folder: Path) -> int:
    """Bits of a weight by config.json: compressed-tensors, AutoRound, AWQ or GPTQ; 16 without a quantisation.

    Raises ValueError when config.json is no Qwen2-Audio's, or says a quantisation and no width.
    """
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "qwen2_audio":
        raise ValueError(f"{folder} is no Qwen2-Audio, its config.json says model_type={config.get('model_type')!r}")
    quantisation = config.get("quantization_config")
    if not quantisation:
        return UNQUANTISED
    groups = quantisation.get("config_groups", {}).values()
    told = [(group.get("weights") or {}).get("num_bits") for group in groups]
    told += [quantisation.get(name) for name in ("bits", "w_bit", "weight_bits")]
    widths = {bits for bits in told if isinstance(bits, int)}
    if quantisation.get("quant_method") == "fp8":
        widths.add(8)
    if len(widths) != 1:
        raise ValueError(
            f"the quantization_config of {folder} says {sorted(widths) or 'no'} bits; one width for all weights is needed"
        )
    return widths.pop()


def check_bits(settings: CaptionSettings, folder: Path) -> None:
    """Raises ValueError unless the checkpoint has BITS: vLLM takes the width from it, and cannot make another."""
    found = checkpoint_bits(folder)
    if found != settings.bits:
        hint = "a quantised checkpoint" if found == UNQUANTISED else f"BITS={found}, or another checkpoint"
        raise ValueError(
            f"BITS={settings.bits}, but MODEL_ID={settings.model_id} has {found} bits a weight: give {hint}"
        )


def check_length(settings: CaptionSettings, folder: Path) -> None:
    """Raises ValueError unless every request fits MAX_MODEL_LEN: vLLM would refuse long windows, or cut captions off."""
    from vllm.tokenizers import get_tokenizer  # noqa: PLC0415  # heavy libraries are imported when they are needed

    text = len(get_tokenizer(str(folder)).encode(prompt(settings))) - 1  # the placeholder is one
    needed = _PLACES + text + MAX_TOKENS
    if needed > settings.max_model_len:
        raise ValueError(
            f"MAX_MODEL_LEN={settings.max_model_len}, but a request has up to {needed} tokens: {_PLACES} of audio, {text} of "
            f"CAPTION_PROMPT and its template, {MAX_TOKENS} of the caption; raise it, or shorten CAPTION_PROMPT"
        )


def check_device(settings: CaptionSettings) -> None:
    """Raises ValueError unless vLLM has a GPU: 8 billion parameters on a CPU take minutes a caption."""
    from vllm.platforms import current_platform  # noqa: PLC0415  # heavy libraries are imported when they are needed

    if settings.device == "cpu" or not current_platform.is_cuda():
        found = "DEVICE=cpu" if settings.device == "cpu" else "vLLM finds none here"
        raise ValueError(
            f"BACKEND=vllm captions with Qwen2-Audio, which needs a GPU with CUDA; {found}. On a CPU take BACKEND=ctranslate2"
        )


def arguments(settings: CaptionSettings, folder: Path) -> dict[str, Any]:
    """Engine arguments."""
    return {
        "model": str(folder),
        "dtype": "auto" if settings.dtype == "auto" else settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.enforce_eager,
        "limit_mm_per_prompt": {"audio": 1},
        "mm_processor_cache_gb": 0,  # a window does not come twice
        "disable_log_stats": True,
    }
