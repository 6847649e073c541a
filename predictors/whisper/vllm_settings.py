"""Settings of the Whisper predictor that only BACKEND=vllm reads. Not here: what vLLM is told (`backends/vllm_engine.py`)."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from serving.settings import PredictorSettings

_KV_CACHE_NAMES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16"}


def _kv_cache_name(value: object) -> object:
    name = str(value).strip().lower()
    if name in ("fp32", "float32"):
        raise ValueError(
            "vLLM has no float32 cache; leave it empty for DTYPE's own arithmetic, or give float16, bfloat16, fp8"
        )
    return _KV_CACHE_NAMES.get(name, name)


class VllmSettings(PredictorSettings):
    """What vLLM is told, by the names of the original service where it had them."""

    vllm_kv_cache_dtype: Annotated[Literal["auto", "float16", "bfloat16", "fp8"], BeforeValidator(_kv_cache_name)] = (
        "auto"
    )
    """vllm: the cache's arithmetic: `fp16`, `bf16` or `fp8` (GPUs of compute capability 8.9 up); `auto` is that of the model.
    `fp32` is refused: vLLM has no such cache."""
    vllm_attention_backend: str = ""
    """vllm: attention kernels by vLLM's name, such as `FLASH_ATTN`, `FLASHINFER`, `TRITON_ATTN`; empty lets vLLM choose."""
    vllm_use_flashinfer: bool = False
    """vllm: the same as `VLLM_ATTENTION_BACKEND=FLASHINFER`."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """vllm: share of the GPU's memory for weights and cache."""
    cpu_cache_gib: int = Field(2, ge=1)
    """vllm on CPU: memory for the cache, in GiB. A window takes 23 (base) to 304 MiB (large-v3) at 2 bytes a number, in
    float32 twice that; windows that find no room wait."""
    max_num_seqs: int = Field(32, ge=1)
    """vllm: sequences that are decoded together; others wait. A window is one, or BEST_OF on the ladder, or its beams."""
    tensor_parallel_size: int = Field(1, ge=1)
    """vllm: GPUs that share the model."""
    enforce_eager: bool | None = None
    """vllm: `true` starts sooner (no compilation, no CUDA graphs), `false` decodes faster. Unset: true on CPU, false on GPU."""
