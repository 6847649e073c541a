"""Settings of the captioning predictor that only BACKEND=vllm reads. Not here: what vLLM is told (`backends/vllm_engine.py`)."""

from typing import Literal

from pydantic import Field, field_validator

from serving.settings import PredictorSettings


class VllmSettings(PredictorSettings):
    """What vLLM is told of Qwen2-Audio."""

    bits: int = 16
    """vllm: bits of a weight, those of the checkpoint: 16 (bfloat16), 8 or 4 (AWQ, GPTQ, compressed-tensors, AutoRound), 2
    (compressed-tensors or AutoRound, W2A16). A checkpoint of another width is refused."""
    prompt_template: Literal["instruct", "base"] = "instruct"
    """vllm: what stands around audio and CAPTION_PROMPT: `instruct` for the chat of Qwen2-Audio-7B-Instruct, `base` for
    Qwen2-Audio-7B."""
    caption_prompt: str = Field(
        "Describe what is heard in this audio in one English sentence.", min_length=1, max_length=2000
    )
    """vllm: what the model is asked about each window."""
    max_model_len: int = Field(1280, ge=1024)
    """vllm: tokens of a request: 750 for 30 s of audio, the prompt's, and 200 of the longest caption. Too few for CAPTION_PROMPT
    stop the start."""
    max_num_seqs: int = Field(32, ge=1)
    """vllm: captions that are decoded together; others wait."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """vllm: share of the GPU's memory for weights and cache."""
    tensor_parallel_size: int = Field(1, ge=1)
    """vllm: GPUs that share the model."""
    enforce_eager: bool = False
    """vllm: `true` starts sooner (no compilation, no CUDA graphs), `false` decodes faster."""

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits not in (2, 4, 8, 16):
            raise ValueError("give 2, 4, 8 or 16")
        return bits

    @field_validator("caption_prompt")
    @classmethod
    def _no_control_tokens(cls, prompt: str) -> str:
        if "<|" in prompt:
            raise ValueError("it must not hold control tokens (<|...|>): the template has them")
        return prompt
