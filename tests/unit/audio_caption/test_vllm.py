"""Captioning on vLLM, as far as it goes without a GPU: settings, checkpoints, requests by vLLM's own classes, and refusals.

The model's processor is vLLM's, on a tiny random Qwen2-Audio; its engine does not run here.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictors.audio_caption.backends import vllm_engine
from predictors.audio_caption.backends.vllm import VllmCaptioner, captions_of, params, request
from predictors.audio_caption.plans import Plan, Search, plan
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, CaptionOptions
from serving.errors import InvalidInput
from tests.unit.audio_caption import qwen, tiny

PLACEHOLDER = "<|audio_bos|><|AUDIO|><|audio_eos|>"
ONE = Search("prompt", 1, 40, 0.0, 1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of vLLM's and torch's own, as they are imported


def settings(**values: Any) -> CaptionSettings:
    return CaptionSettings(backend="vllm", **values)


def checkpoint(folder: Path, model_type: str = "qwen2_audio", **quantisation: Any) -> Path:
    config = {"model_type": model_type, **({"quantization_config": quantisation} if quantisation else {})}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- what the checkpoint must be ---


@pytest.mark.parametrize(
    ("quantisation", "bits"),
    [
        ({}, 16),
        ({"quant_method": "awq", "w_bit": 4}, 4),
        ({"quant_method": "gptq", "bits": 8}, 8),
        ({"quant_method": "auto-round", "bits": 2, "group_size": 128}, 2),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 8),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 2}}}}, 2),
    ],
)
def test_the_width_is_told_by_the_checkpoint(tmp_path: Path, quantisation: dict[str, Any], bits: int) -> None:
    folder = checkpoint(tmp_path, **quantisation)
    assert vllm_engine.checkpoint_bits(folder) == bits
    vllm_engine.check_bits(settings(bits=bits), folder)
    other = 4 if bits != 4 else 16
    with pytest.raises(ValueError, match=f"BITS={other}, but MODEL_ID=.* has {bits} bits a weight"):
        vllm_engine.check_bits(settings(bits=other), folder)


@pytest.mark.parametrize(
    ("model_type", "quantisation", "message"),
    [
        ("whisper", {}, "is no Qwen2-Audio, its config.json says model_type='whisper'"),
        ("qwen2_audio", {"quant_method": "unheard of"}, "says no bits"),
        (
            "qwen2_audio",
            {"config_groups": {"a": {"weights": {"num_bits": 2}}, "b": {"weights": {"num_bits": 4}}}},
            r"says \[2, 4\] bits; one width",
        ),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(
    tmp_path: Path, model_type: str, quantisation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vllm_engine.checkpoint_bits(checkpoint(tmp_path, model_type, **quantisation))


# --- what vLLM is told ---


def test_arguments_are_the_settings() -> None:
    own = settings(dtype="float16", max_model_len=2048, max_num_seqs=3, gpu_memory_utilization=0.5,
                   tensor_parallel_size=2, enforce_eager=True)  # fmt: skip
    found = vllm_engine.arguments(own, Path("/mnt/models"))
    expected = {"model": "/mnt/models", "dtype": "float16", "max_model_len": 2048, "max_num_seqs": 3,
                "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "enforce_eager": True}  # fmt: skip
    assert expected.items() <= found.items()
    assert found["limit_mm_per_prompt"] == {"audio": 1}


def test_arguments_are_ones_that_vllm_has() -> None:
    import dataclasses

    from vllm import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert set(vllm_engine.arguments(settings(), Path("/x"))) <= known


@pytest.mark.parametrize("template", ["instruct", "base"])
def test_the_prompt_asks_once_and_has_one_place_for_the_audio(template: Any) -> None:
    text = vllm_engine.prompt(settings(prompt_template=template, caption_prompt="What is heard?"))
    assert text.count(PLACEHOLDER) == text.count("<|AUDIO|>") == text.count("What is heard?") == 1
    assert text.index(PLACEHOLDER) < text.index("What is heard?")
    assert text.endswith("<|im_start|>assistant\n") == (template == "instruct")


def test_sampling_is_the_search() -> None:
    greedy, sampled = params(ONE), params(Search("prompt", 3, 40, 0.7, 1))
    assert (greedy.n, greedy.temperature, greedy.max_tokens) == (1, 0.0, 40)
    assert (sampled.n, sampled.temperature, sampled.seed) == (3, 0.7, 0)


def test_captions_are_sorted_by_their_mean_probability() -> None:
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    def output(index: int, text: str, *logprobs: float, reason: str = "stop") -> CompletionOutput:
        steps: Any = [{number: Logprob(value)} for number, value in enumerate(logprobs)]
        return CompletionOutput(index, text, list(range(len(logprobs))), sum(logprobs), steps, finish_reason=reason)

    outputs = [output(0, " a dog ", -1.0, -3.0), output(1, "rain", -0.5, reason="length")]
    found = captions_of(RequestOutput("r", "p", [], None, outputs, True))
    assert [(caption.text, caption.score, caption.cut_off) for caption in found] == [
        ("rain", pytest.approx(math.exp(-0.5)), True),
        ("a dog", pytest.approx(math.exp(-2.0)), False),
    ]


# --- requests, by the model's processor in vLLM ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen.folder(tmp_path_factory.mktemp("qwen") / "hf")


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    found = vllm_engine.arguments(settings(), folder)
    config = ModelConfig(
        model=found["model"], max_model_len=found["max_model_len"], limit_mm_per_prompt=found["limit_mm_per_prompt"],
        mm_processor_cache_gb=0, dtype="float32",
    )  # fmt: skip
    return MULTIMODAL_REGISTRY.create_processor(config)


def processed(processor: Any, window: Plan) -> list[int]:
    """The tokens that the model gets for a request."""
    from vllm.multimodal.processing import TimingContext
    from vllm.multimodal.processing.inputs import ProcessorInputs

    told = request(vllm_engine.prompt(settings()), window)
    tokens = processor.info.get_tokenizer().encode(told["prompt"], add_special_tokens=False)
    items = processor.info.parse_mm_data(told["multi_modal_data"])
    made = processor.apply(ProcessorInputs(prompt=tokens, mm_data_items=items), TimingContext(enabled=False))
    return list(made["prompt_token_ids"])


@pytest.mark.parametrize(("seconds", "places"), [(30.0, 750), (2.0, 50), (0.01, 2)])
def test_a_window_has_twenty_five_places_a_second(processor: Any, seconds: float, places: int) -> None:
    found = processed(processor, Plan(tiny.sound(seconds), ONE))
    audio = processor.info.get_tokenizer().convert_tokens_to_ids("<|AUDIO|>")
    assert found.count(audio) == places
    assert len(found) + CaptionOptions().num_captions * settings().max_tokens <= 1280


def test_every_request_fits_the_model_length_or_the_start_says_so(folder: Path, processor: Any) -> None:
    """The tokenizer here has a token a byte; a prompt in another script has many in Qwen's too."""
    vllm_engine.check_length(settings(), folder)
    message = "MAX_MODEL_LEN=1280, but a request has up to [0-9]+ tokens: 750 of audio, [0-9]+ of CAPTION_PROMPT"
    with pytest.raises(ValueError, match=message):
        vllm_engine.check_length(settings(caption_prompt="Что слышно? " * 30), folder)
    longest = len(processed(processor, Plan(tiny.sound(30.0), ONE))) + 200
    vllm_engine.check_length(settings(max_model_len=longest), folder)
    with pytest.raises(ValueError, match=f"up to {longest} tokens"):
        vllm_engine.check_length(settings(max_model_len=longest - 1), folder)


# --- what never reaches the engine ---


async def test_a_window_over_thirty_seconds_never_reaches_the_engine() -> None:
    captioner = VllmCaptioner(settings())  # with no engine at all
    longer = CaptionInput(np.ones(30 * 16_000 + 1, np.float32), CaptionOptions())
    with pytest.raises(InvalidInput, match="the model hears at most 30 s"):
        await captioner.infer(longer)


async def test_a_window_without_a_sound_has_no_caption() -> None:
    result = await VllmCaptioner(settings()).infer(CaptionInput(np.zeros(16_000, np.float32), CaptionOptions()))
    assert (result.captions, result.style) == ([], "prompt")


def test_it_refuses_a_machine_without_cuda(folder: Path) -> None:
    message = "BACKEND=vllm captions with Qwen2-Audio, which needs a GPU with CUDA; vLLM finds none here"
    with pytest.raises(ValueError, match=message):
        VllmCaptioner(settings(model_id=str(folder))).load()
    with pytest.raises(ValueError, match="DEVICE=cpu"):
        VllmCaptioner(settings(model_id=str(folder), device="cpu")).load()


def test_plans_are_what_requests_are_made_of() -> None:
    window = plan(CaptionInput(tiny.sound(1.0), CaptionOptions()), settings())
    told = request("p", window)
    samples, rate = told["multi_modal_data"]["audio"]
    assert rate == 16_000
    assert np.array_equal(samples, window.samples)
