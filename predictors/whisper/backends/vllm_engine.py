"""vLLM's engine for Whisper: what it is told, from the settings, and the device that it finds. Not here: decoding (`vllm.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.whisper.settings import WhisperSettings
from serving import vllm_process
from serving.hardware import choose_device

if TYPE_CHECKING:
    from predictors.whisper.vllm_tokens import Rules

ALTERNATIVES = 20
"""Most probable tokens that are told besides a prompt's own."""
MOST_ALTERNATIVES = 128
"""The same where a language is looked for: there are a hundred."""
# vLLM imports these in its own process.
_RULES = "predictors.whisper.backends.vllm_rules:WhisperRules"
_WORKER = "predictors.whisper.backends.vllm_worker.WhisperWorker"
# By its path, since vLLM takes "uni" on CPU for a request to bind threads to cores, which needs a process more.
_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


@dataclass(frozen=True)
class Device:
    """`cuda` with its compute capability, or `cpu`."""

    kind: str
    capability: tuple[int, int] = (0, 0)
    name: str = "this CPU"
    native_bfloat16: bool = False

    def dtype(self, wanted: str) -> str:
        """DTYPE's arithmetic. Raises ValueError where this device has not got it."""
        if wanted == "auto":
            return "bfloat16" if self.native_bfloat16 else "float32" if self.kind == "cpu" else "float16"
        if self.kind == "cuda" and wanted == "bfloat16" and not self.native_bfloat16:
            major, minor = self.capability
            raise ValueError(
                f"DTYPE=bfloat16 needs compute capability 8.0, {self.name} has {major}.{minor}; set DTYPE=float16"
            )
        if self.kind == "cpu" and wanted == "float16":
            raise ValueError("DTYPE=float16 needs a GPU with BACKEND=vllm; on CPU set bfloat16 or float32")
        return wanted

    def kv_cache_dtype(self, wanted: str, dtype: str) -> str:
        """VLLM_KV_CACHE_DTYPE, for a model in `dtype`. Raises ValueError where this device, or vLLM, has not got it."""
        if wanted in ("float16", "bfloat16"):
            if wanted != dtype:
                raise ValueError(
                    f"VLLM_KV_CACHE_DTYPE={wanted} has to be the model's own arithmetic, which is {dtype} (DTYPE)"
                )
            return "auto"
        if wanted == "fp8" and self.capability < (8, 9):
            found = f"{self.name} has {'.'.join(map(str, self.capability))}" if self.kind == "cuda" else "this is a CPU"
            raise ValueError(f"VLLM_KV_CACHE_DTYPE=fp8 needs a GPU of compute capability 8.9 or more, {found}")
        return wanted


def find_device(wanted: str) -> Device:
    """The device for DEVICE auto, cpu or cuda. Raises ValueError when it is not there, or this vLLM is not made for it."""
    from vllm.platforms import current_platform  # noqa: PLC0415  # heavy libraries are imported when they are needed

    kind = choose_device(wanted, current_platform.is_cuda(), "vLLM")
    if kind == "cpu" and not current_platform.is_cpu():
        raise ValueError(
            f"this vLLM is made for GPUs, DEVICE={wanted} gives it none; give the pod one, or take the image whisper-vllm-cpu"
        )
    if kind == "cpu":
        return Device("cpu", native_bfloat16=_cpu_has("avx512_bf16", "amx_bf16"))
    found = current_platform.get_device_capability()  # by NVML: asking torch would take the GPU in this process
    capability = (found.major, found.minor)
    return Device("cuda", capability, current_platform.get_device_name(), native_bfloat16=capability >= (8, 0))


def _cpu_has(*flags: str) -> bool:
    file = Path("/proc/cpuinfo")
    words = set(file.read_text().split()) if file.is_file() else set()
    return not words.isdisjoint(flags)


def environment(settings: WhisperSettings) -> Mapping[str, str]:
    """Variables of vLLM, for what it has no argument for; those that are set already stay, but where a setting names its own."""
    cache = "VLLM_CPU_KVCACHE_SPACE"
    own = {
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # whose logits processors and workers are others
        cache: str(settings.cpu_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # others may share the cores
    }
    found = dict(vllm_process.environment(settings.num_threads, settings.threads(), own))
    if "cpu_cache_gib" in settings.model_fields_set:
        found[cache] = own[cache]
    return found


def compilation(arguments: Mapping[str, Any], device: Device) -> Mapping[str, str]:
    """Variables for what torch compiles besides the model: helpers of vLLM's, which on CPU want a C++ compiler and a minute."""
    return {"TORCH_COMPILE_DISABLE": "1"} if device.kind == "cpu" and arguments["enforce_eager"] else {}


def arguments(settings: WhisperSettings, folder: Path, device: Device, rules: "Rules") -> dict[str, Any]:
    """Engine arguments. Raises ValueError for what this device cannot do."""
    backend = settings.vllm_attention_backend.upper() or ("FLASHINFER" if settings.vllm_use_flashinfer else None)
    if backend and device.kind == "cpu":
        raise ValueError(
            "VLLM_ATTENTION_BACKEND and VLLM_USE_FLASHINFER choose between kernels of a GPU, this is a CPU"
        )
    eager = settings.enforce_eager
    dtype = device.dtype(settings.dtype)
    return {
        "model": str(folder),
        "dtype": dtype,
        "kv_cache_dtype": device.kv_cache_dtype(settings.vllm_kv_cache_dtype, dtype),
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": device.kind == "cpu" if eager is None else eager,
        "limit_mm_per_prompt": {"audio": 1},
        "mm_processor_cache_gb": 0,  # a window does not come twice, but for its own requests, whose encodings stay
        "max_logprobs": MOST_ALTERNATIVES,
        "logits_processors": [_RULES],
        "additional_config": rules.config(),
        "worker_extension_cls": _WORKER,
        "disable_log_stats": True,
        # One worker lives in the engine's process, as vLLM has it on a GPU: a third less to start, and no messages between.
        **({"distributed_executor_backend": _ONE_PROCESS} if _is_one_cpu(settings, device) else {}),
        **_attention(backend),
    }


def _is_one_cpu(settings: WhisperSettings, device: Device) -> bool:
    return device.kind == "cpu" and settings.tensor_parallel_size == 1


def _attention(backend: str | None) -> dict[str, Any]:
    """FlashInfer does not do a decoder's attention to its encoder: that is left to vLLM's choice."""
    if backend == "FLASHINFER":
        return {"attention_config": {"backend_per_kind": {"full_attention": backend}}}
    return {"attention_backend": backend} if backend else {}
