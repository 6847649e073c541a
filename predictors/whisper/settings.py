"""Settings of the Whisper predictor. Not here: what they mean to a backend (`backends/`)."""

from collections.abc import Collection
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from predictors.whisper.fallback import Thresholds
from predictors.whisper.vllm_settings import VllmSettings
from serving import languages
from serving.hardware import usable_cores

Backend = Literal["ctranslate2", "openai_whisper", "vllm"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "int8", "int8_float16", "float16", "bfloat16", "float32"]
_DTYPE_NAMES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
_ACCEPTED_DTYPES = {
    "openai_whisper": ("auto", "float16", "float32"),
    "vllm": ("auto", "float16", "bfloat16", "float32"),
}


def _dtype_name(value: object) -> object:
    name = str(value).strip().lower()
    return _DTYPE_NAMES.get(name, name)


class WhisperSettings(VllmSettings):
    """The Whisper predictor: weights, where they run, and how they decode."""

    model_id: str = Field("medium", min_length=1)
    """Weights: a folder such as `/mnt/models`, a size such as `large-v3`, a hub id, or `demo:whisper-base`."""
    backend: Backend = "ctranslate2"
    """Engine: `ctranslate2` (faster-whisper's), `openai_whisper` (the original library on torch) or `vllm`."""
    device: Device = "auto"
    """Where it runs: `cpu`, `cuda`, or `auto`, which takes the GPU when there is one."""
    dtype: Annotated[Dtype, BeforeValidator(_dtype_name)] = "auto"
    """Arithmetic: `int8`, `int8_float16`, `float16` (`half`, `fp16`), `bfloat16` (`bf16`), `float32`, as far as backend and
    device have it. `auto` is float16 on GPU, with vllm bfloat16 from compute capability 8.0 on; on
    CPU it is int8 (ctranslate2), float32 (openai_whisper), or bfloat16 where the CPU computes in it, else float32 (vllm)."""
    vllm_dtype: Annotated[Dtype, BeforeValidator(_dtype_name)] = "auto"
    """The same as DTYPE, by its name in vLLM's services."""
    language_force: str = ""
    """Language of every request, whatever it asks for: a code or an English name; results echo it. The audio transformer has
    the same setting, which the chart gives to both. Empty: the request's, or detected."""
    timestamps: Literal["auto", "none", "segments"] = "auto"
    """`auto` gives what the request asks for, `none` one segment a window for everybody, without times of words, which ends
    with its last word where the request asks for times, `segments` always segment times."""
    num_threads: int = Field(0, ge=0)
    """CPU threads; 0 takes every core that the container may use."""
    beam_size: int | None = Field(None, ge=1, le=20)
    """Beams of the search at temperature 0, where the request names none. Unset: 5, and 1 with vllm, where each costs more."""
    best_of: int = Field(5, ge=1, le=20)
    """Candidates drawn at a temperature above 0, where the request names none."""
    temperatures: Annotated[tuple[float, ...], NoDecode] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """The fallback ladder, separated by commas: a window whose decoding fails is decoded again at the next one."""
    compression_ratio_threshold: float = Field(2.4, gt=0)
    """A decoding whose text compresses better than this repeats itself, and fails."""
    logprob_threshold: float = Field(-1.0, le=0)
    """A decoding with a lower average log-probability fails."""
    no_speech_threshold: float = Field(0.6, ge=0, le=1)
    """A decoding that fails by log-probability where silence is more probable than this is silence."""

    @field_validator("dtype", "vllm_dtype")
    @classmethod
    def _of_backend(cls, dtype: str, info: ValidationInfo) -> str:
        backend = info.data.get("backend", "")
        accepted = _ACCEPTED_DTYPES.get(backend)
        if accepted and dtype not in accepted:
            raise ValueError(f"{backend} computes in {', '.join(accepted)}")
        return dtype

    @field_validator("language_force")
    @classmethod
    def _code(cls, language: str) -> str:
        return languages.code(language) or ""

    @field_validator("temperatures", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("temperatures")
    @classmethod
    def _rising(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(low < high for low, high in pairwise(temperatures))
        if not temperatures or not rising or not 0 <= temperatures[0] <= temperatures[-1] <= 1:
            raise ValueError("give rising temperatures in 0..1, separated by commas, such as 0,0.2,0.4")
        return temperatures

    @model_validator(mode="after")
    def _one_dtype(self) -> Self:
        if "auto" not in (self.dtype, self.vllm_dtype) and self.dtype != self.vllm_dtype:
            raise ValueError(f"DTYPE={self.dtype} and VLLM_DTYPE={self.vllm_dtype} contradict each other")
        self.dtype = self.vllm_dtype if self.dtype == "auto" else self.dtype
        return self

    @model_validator(mode="after")
    def _one_attention(self) -> Self:
        if self.vllm_use_flashinfer and self.vllm_attention_backend.upper() not in ("", "FLASHINFER"):
            raise ValueError(
                f"VLLM_USE_FLASHINFER and VLLM_ATTENTION_BACKEND={self.vllm_attention_backend} contradict each other"
            )
        return self

    def beams(self) -> int:
        """BEAM_SIZE, or the backend's own."""
        return self.beam_size or (1 if self.backend == "vllm" else 5)

    def thresholds(self) -> Thresholds:
        """When a decoding fails, and when it is silence."""
        return Thresholds(self.compression_ratio_threshold, self.logprob_threshold, self.no_speech_threshold)

    def check_language(self, known: Collection[str]) -> None:
        """Raises ValueError when LANGUAGE_FORCE is not among the languages that the model knows."""
        if self.language_force and self.language_force not in known:
            raise ValueError(
                f"LANGUAGE_FORCE={self.language_force} is not known to this model, it knows: {', '.join(sorted(known))}"
            )

    def threads(self) -> int:
        """NUM_THREADS, or the cores that this container may use."""
        return self.num_threads or usable_cores()
