"""Settings of the captioning predictor. Not here: what they mean to a backend (`backends/`)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from predictors.audio_caption.vllm_settings import VllmSettings
from serving.contracts.caption import MAX_BEAM_SIZE, MAX_TOKENS
from serving.hardware import usable_cores

Backend = Literal["ctranslate2", "torch", "vllm"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "int8", "float16", "bfloat16", "float32"]
Style = Literal["clotho", "audiocaps", "audioset"]
_ACCEPTED_DTYPES = {
    "ctranslate2": ("auto", "int8", "float16", "float32"),
    "torch": ("auto", "float16", "bfloat16", "float32"),
    "vllm": ("auto", "float16", "bfloat16"),
}


class CaptionSettings(VllmSettings):
    """The captioning predictor: weights, where they run, and how they caption."""

    model_id: str = Field("MU-NLPC/whisper-small-audio-captioning", min_length=1)
    """Weights: a folder such as `/mnt/models`, or a hub id. A Whisper fine-tuned for captions (its Hugging Face folder, or what
    `prepare` made of it), or with vllm a Qwen2-Audio. `demo:random` is a tiny one of random tensors, for ctranslate2."""
    backend: Backend = "ctranslate2"
    """Engine: `ctranslate2` or `torch` for the fine-tuned Whisper, `vllm` for Qwen2-Audio on a GPU."""
    device: Device = "auto"
    """Where it runs: `cpu`, `cuda`, or `auto`, which takes the GPU when there is one."""
    dtype: Dtype = "auto"
    """Arithmetic: `int8` (ctranslate2), `float16`, `bfloat16` (torch, vllm), `float32` (not vllm). `auto` is int8 on CPU and
    float16 on GPU with ctranslate2, float32 on CPU and float16 on GPU with torch, and the checkpoint's own with vllm."""
    style: Style = "clotho"
    """How the fine-tuned Whisper captions where the request does not say: `clotho` (a sentence, long), `audiocaps` (a sentence,
    short) or `audioset` (keywords). Qwen2-Audio follows CAPTION_PROMPT instead."""
    beam_size: int | None = Field(None, ge=1, le=MAX_BEAM_SIZE)
    """Beams of the search at temperature 0, where the request names none. Unset: 5 with ctranslate2, 1 with torch, where five
    take twice as long as one and more. vllm has no beams."""
    max_tokens: int = Field(80, ge=1, le=MAX_TOKENS)
    """Most tokens of a caption, where the request does not say."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature, where the request names none. Unset: 0, and 0.7 with vllm for several captions of a window."""
    num_threads: int = Field(0, ge=0)
    """CPU threads; 0 takes every core that the container may use."""

    @model_validator(mode="after")
    def _of_backend(self) -> Self:
        accepted = _ACCEPTED_DTYPES[self.backend]
        if self.dtype not in accepted:
            raise ValueError(f"DTYPE={self.dtype}: {self.backend} computes in {', '.join(accepted)}")
        if self.backend == "vllm" and (self.beam_size or 1) > 1:
            raise ValueError(f"BEAM_SIZE={self.beam_size}: vllm has no beams here, it samples; leave it empty")
        return self

    def beams(self) -> int:
        """BEAM_SIZE, or the backend's own."""
        return self.beam_size or (5 if self.backend == "ctranslate2" else 1)

    def threads(self) -> int:
        """NUM_THREADS, or the cores that this container may use."""
        return self.num_threads or usable_cores()
