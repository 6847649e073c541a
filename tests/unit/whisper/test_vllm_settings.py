"""Every variable that the vLLM service has is read, and does something: what vLLM is told, or a refusal in one sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pytest
from pydantic import AfterValidator, TypeAdapter, ValidationError

from predictors.whisper.backends.vllm_engine import Device, arguments, compilation, environment
from predictors.whisper.model import engine
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.vllm_tokens import Rules
from predictors.whisper.windows import Abilities, plan
from serving.contracts.asr import AsrInput, AsrOptions
from serving.vllm_process import reason
from transformers_pre.audio.settings import AudioSettings

ROOT = Path(__file__).parents[3]
RULES = Rules(end_of_text=1, no_timestamps=2, first_timestamp=3, never=(), not_first=())
ABILITIES = Abilities(("en", "de"), True, lambda text: [1] * len(text), context=448)
CPU = Device("cpu")
T4 = Device("cuda", (7, 5), "Tesla T4")
L4 = Device("cuda", (8, 9), "NVIDIA L4", native_bfloat16=True)
A100 = Device("cuda", (8, 0), "NVIDIA A100", native_bfloat16=True)
H100 = Device("cuda", (9, 0), "NVIDIA H100", native_bfloat16=True)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> WhisperSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return WhisperSettings.from_command_line(["--backend=vllm"])


def told(monkeypatch: pytest.MonkeyPatch, device: Device, **variables: str) -> dict[str, Any]:
    return arguments(settings(monkeypatch, **variables), Path("/mnt/models"), device, RULES)


F = TypeVar("F", bound=Callable[..., None])
PROVEN: set[str] = set()
"""Variables whose effect a test of this module shows."""


def proves(*variables: str) -> Callable[[F], F]:
    """Marks a test that shows what these variables do."""

    def mark(test: F) -> F:
        PROVEN.update(variables)
        return test

    return mark


ARGUMENTS = [
    # variable, value, device, vLLM's argument, what it is then
    ("DTYPE", "half", L4, "dtype", "float16"),
    ("DTYPE", "fp16", L4, "dtype", "float16"),
    ("DTYPE", "float16", L4, "dtype", "float16"),
    ("DTYPE", "bf16", L4, "dtype", "bfloat16"),
    ("VLLM_DTYPE", "bfloat16", CPU, "dtype", "bfloat16"),
    ("VLLM_DTYPE", "half", T4, "dtype", "float16"),
    ("VLLM_KV_CACHE_DTYPE", "fp8", L4, "kv_cache_dtype", "fp8"),
    ("VLLM_KV_CACHE_DTYPE", "fp16", T4, "kv_cache_dtype", "auto"),  # the model's own
    ("VLLM_ATTENTION_BACKEND", "flash_attn", A100, "attention_backend", "FLASH_ATTN"),
    (
        *("VLLM_USE_FLASHINFER", "1", H100),
        *("attention_config", {"backend_per_kind": {"full_attention": "FLASHINFER"}}),
    ),
    ("GPU_MEMORY_UTILIZATION", "0.5", T4, "gpu_memory_utilization", 0.5),
    ("MAX_NUM_SEQS", "7", T4, "max_num_seqs", 7),
    ("TENSOR_PARALLEL_SIZE", "2", A100, "tensor_parallel_size", 2),
    ("ENFORCE_EAGER", "true", A100, "enforce_eager", True),
    ("ENFORCE_EAGER", "false", CPU, "enforce_eager", False),
]


@proves(*(case[0] for case in ARGUMENTS))
@pytest.mark.parametrize("case", ARGUMENTS, ids=lambda case: f"{case[0]}={case[1]}")
def test_a_variable_is_what_vllm_is_told(
    monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, Device, str, object]
) -> None:
    variable, value, device, argument, expected = case
    assert told(monkeypatch, device, **{variable: value})[argument] == expected
    monkeypatch.delenv(variable)
    assert told(monkeypatch, device).get(argument) != expected or variable.endswith("DTYPE")


@pytest.mark.parametrize(
    ("device", "dtype", "eager"),
    [
        (T4, "float16", False),
        (A100, "bfloat16", False),
        (H100, "bfloat16", False),
        (CPU, "float32", True),
        (Device("cpu", native_bfloat16=True), "bfloat16", True),
    ],
)
def test_what_is_not_set_follows_the_device(
    monkeypatch: pytest.MonkeyPatch, device: Device, dtype: str, eager: bool
) -> None:
    given = told(monkeypatch, device)
    assert (given["dtype"], given["enforce_eager"], given["kv_cache_dtype"]) == (dtype, eager, "auto")


@pytest.mark.parametrize(
    ("device", "variables", "sentence"),
    [
        (T4, {"DTYPE": "bf16"}, "DTYPE=bfloat16 needs compute capability 8.0, Tesla T4 has 7.5; set DTYPE=float16"),
        (CPU, {"DTYPE": "half"}, "DTYPE=float16 needs a GPU with BACKEND=vllm; on CPU set bfloat16 or float32"),
        (CPU, {"VLLM_KV_CACHE_DTYPE": "fp16"}, "has to be the model's own arithmetic, which is float32 (DTYPE)"),
        (A100, {"VLLM_KV_CACHE_DTYPE": "fp16"}, "has to be the model's own arithmetic, which is bfloat16 (DTYPE)"),
        (A100, {"VLLM_KV_CACHE_DTYPE": "fp8"}, "needs a GPU of compute capability 8.9 or more, NVIDIA A100 has 8.0"),
        (CPU, {"VLLM_KV_CACHE_DTYPE": "fp8"}, "needs a GPU of compute capability 8.9 or more, this is a CPU"),
        (CPU, {"VLLM_USE_FLASHINFER": "1"}, "choose between kernels of a GPU, this is a CPU"),
    ],
)
def test_what_a_device_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: Device, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        told(monkeypatch, device, **variables)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"VLLM_KV_CACHE_DTYPE": "fp32"}, "vLLM has no float32 cache"),
        ({"VLLM_KV_CACHE_DTYPE": "int4"}, "'fp8'"),
        ({"DTYPE": "int8"}, "vllm computes in auto, float16, bfloat16, float32"),
        ({"VLLM_USE_FLASHINFER": "1", "VLLM_ATTENTION_BACKEND": "FLASH_ATTN"}, "contradict each other"),
        ({"GPU_MEMORY_UTILIZATION": "1.5"}, "less than or equal to 1"),
    ],
)
def test_what_nothing_can_do_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        settings(monkeypatch, **variables)
    assert sentence in str(caught.value)


@proves("NUM_THREADS", "CPU_CACHE_GIB")
def test_what_has_no_argument_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(name, raising=False)
    given = environment(settings(monkeypatch, NUM_THREADS="3", CPU_CACHE_GIB="5"))
    assert (given["OMP_NUM_THREADS"], given["VLLM_CPU_KVCACHE_SPACE"]) == ("3", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert environment(settings(monkeypatch))["OMP_NUM_THREADS"] == "3"  # NUM_THREADS was asked for
    monkeypatch.delenv("NUM_THREADS")
    assert "OMP_NUM_THREADS" not in environment(settings(monkeypatch))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert environment(settings(monkeypatch))["VLLM_CPU_KVCACHE_SPACE"] == "5"  # so was CPU_CACHE_GIB
    monkeypatch.delenv("CPU_CACHE_GIB")
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(settings(monkeypatch))


def test_two_names_of_the_arithmetic_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, L4, DTYPE="auto", VLLM_DTYPE="half")["dtype"] == "float16"
    assert told(monkeypatch, L4, DTYPE="fp16", VLLM_DTYPE="half")["dtype"] == "float16"
    with pytest.raises(SystemExit, match="DTYPE=bfloat16 and VLLM_DTYPE=float16 contradict each other"):
        settings(monkeypatch, DTYPE="bf16", VLLM_DTYPE="half")


def test_what_vllm_itself_refuses_is_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[int, AfterValidator(_too_small)]).validate_python(3)
    assert reason(caught.value) == "2048 must be more"
    assert reason(ValueError("not this one\nbut these:")) == "not this one"


def _too_small(value: int) -> int:
    raise ValueError("2048 must be more")


@proves("WHISPER_SAMPLING_RATE", "WHISPER_SEGMENT_DURATION_SEC", "MAX_AUDIO_SECONDS")
def test_the_transformer_has_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_SEGMENT_DURATION_SEC", "20")
    monkeypatch.setenv("MAX_AUDIO_SECONDS", "0")
    monkeypatch.setenv("WHISPER_SAMPLING_RATE", "16000")
    found = AudioSettings()
    assert found.split_limits().max_seconds == 20
    assert found.media_limits().max_audio_seconds == 0
    monkeypatch.setenv("WHISPER_SAMPLING_RATE", "8000")
    with pytest.raises(SystemExit, match=r"WHISPER_SAMPLING_RATE: .*16000"):
        AudioSettings.from_command_line([])


@proves("LANGUAGE_FORCE", "TIMESTAMPS")
def test_language_and_timestamps_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    item = AsrInput(np.ones(100, np.float32), AsrOptions(language="en", timestamps="word"))
    forced = plan(item, ABILITIES, settings(monkeypatch, LANGUAGE_FORCE="de", TIMESTAMPS="none"))
    assert (forced.language, forced.timestamps) == ("de", False)
    item = AsrInput(item.samples, AsrOptions(timestamps="none"))
    assert plan(item, ABILITIES, settings(monkeypatch, LANGUAGE_FORCE="", TIMESTAMPS="segments")).timestamps


@proves("BEAM_SIZE")
def test_beams_are_greedy_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch).beams() == 1
    assert settings(monkeypatch, BEAM_SIZE="4").beams() == 4
    assert WhisperSettings().model_copy(update={"beam_size": None}).beams() == 5


def test_nothing_is_compiled_on_an_eager_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compilation(told(monkeypatch, CPU), CPU) == {"TORCH_COMPILE_DISABLE": "1"}
    assert compilation(told(monkeypatch, CPU, ENFORCE_EAGER="false"), CPU) == {}
    assert compilation(told(monkeypatch, A100, ENFORCE_EAGER="true"), A100) == {}


def test_one_cpu_worker_lives_in_the_engines_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "UniProc" in told(monkeypatch, CPU)["distributed_executor_backend"]
    assert "distributed_executor_backend" not in told(monkeypatch, CPU, TENSOR_PARALLEL_SIZE="2")
    assert "distributed_executor_backend" not in told(monkeypatch, A100)


ORIGINAL = {
    *(
        "DTYPE",
        "VLLM_DTYPE",
        "VLLM_KV_CACHE_DTYPE",
        "VLLM_ATTENTION_BACKEND",
        "VLLM_USE_FLASHINFER",
        "WHISPER_SAMPLING_RATE",
    ),
    *("WHISPER_SEGMENT_DURATION_SEC", "MAX_AUDIO_SECONDS", "LANGUAGE_FORCE", "TIMESTAMPS", "GPU_MEMORY_UTILIZATION"),
    *("MAX_NUM_SEQS", "TENSOR_PARALLEL_SIZE"),
}
"""The variables of the service that this one takes the place of."""


@proves("BACKEND")
def test_the_backend_is_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND", "vllm")
    assert type(engine(WhisperSettings())).__name__ == "VllmRecognizer"


def test_every_variable_of_the_tables_is_tested() -> None:
    row = re.compile(r"^\| `([A-Z_]+)` \| .*? \| (.*) \|$", re.MULTILINE)
    meanings = dict(row.findall((ROOT / "predictors/whisper/README.md").read_text()))
    documented = {*meanings, *(name for name, _ in row.findall((ROOT / "README.md").read_text()))}
    assert documented >= ORIGINAL
    of_vllm = {name for name, meaning in meanings.items() if "vllm" in meaning}
    assert len(of_vllm) > 8
    assert of_vllm | ORIGINAL <= PROVEN
