"""Qwen2-Audio on vLLM's engine, on a GPU: every window is a request, which vLLM batches with those of all others."""

import asyncio
import itertools
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.audio_caption import weights
from predictors.audio_caption.backends import vllm_engine
from predictors.audio_caption.plans import RATE, Plan, Search, plan
from predictors.audio_caption.settings import CaptionSettings
from serving import vllm_process
from serving.contracts.caption import Caption, CaptionInput, CaptionResult
from serving.errors import PredictorUnavailable

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_POLL_SECONDS = 0.5
_CLOSING_SECONDS = 1.0  # for processes that end by themselves; those that do not are killed
_SEED = 0
_SHORTEST = (
    1600  # samples, padded with zeros: fewer than three frames of 10 ms make no token, which vLLM takes for a fault
)


class VllmCaptioner:
    """A `caption/1` engine (`serving.engine.ConcurrentEngine`)."""

    device = ""

    def __init__(self, settings: CaptionSettings):
        self._settings = settings
        self._prompt = vllm_engine.prompt(settings)
        self._numbers = itertools.count()
        self._engine: AsyncLLM

    def load(self) -> None:
        """Starts vLLM's processes. Raises ValueError without a GPU, or when weights or settings do not work."""
        settings = self._settings
        os.environ.update(vllm_process.environment(settings.num_threads, settings.threads()))
        vllm_engine.check_device(settings)
        folder = weights.for_vllm(settings.model_id)
        vllm_engine.check_bits(settings, folder)
        vllm_engine.check_length(settings, folder)

        from vllm import AsyncEngineArgs  # noqa: PLC0415  # heavy libraries are imported when they are needed
        from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        try:
            self._engine = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**vllm_engine.arguments(settings, folder)),
                usage_context=UsageContext.OPENAI_API_SERVER,
            )
        except ValueError as error:
            raise ValueError(f"vLLM refuses its settings: {vllm_process.reason(error)}") from error
        self.device = "cuda"

    def close(self) -> None:
        """Ends vLLM's processes."""
        self._engine.shutdown(timeout=_CLOSING_SECONDS)

    async def died(self) -> str:
        """Returns once vLLM's processes are gone: out of memory, or a fault."""
        while not self._engine.errored:  # noqa: ASYNC110  # vLLM has a flag, no event
            await asyncio.sleep(_POLL_SECONDS)
        return "vLLM's engine has ended"

    async def infer(self, item: CaptionInput) -> CaptionResult:
        """Captions a window. Raises InvalidInput before the engine is asked, PredictorUnavailable when it has died.

        A window without any sound has no caption.
        """
        window = plan(item, self._settings)
        captions = [] if window.is_empty else captions_of(await self._generate(window))
        return CaptionResult(captions=captions, style=window.search.style, model=self._settings.model_id)

    async def _generate(self, window: Plan) -> "RequestOutput":
        """One request of vLLM's, to its end. Cancelling it takes it out of the engine. Raises PredictorUnavailable."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: PLC0415

        last = None
        name = f"window-{next(self._numbers)}"
        try:
            async for output in self._engine.generate(request(self._prompt, window), params(window.search), name):
                last = output
        except (EngineDeadError, EngineGenerateError):
            if not self._engine.errored:
                raise
            raise PredictorUnavailable(
                "the model stopped while it worked on this request and is started again, send it once more",
                code="engine_died",
                retry_after=10.0,
            ) from None
        assert last is not None  # noqa: S101  # a request ends with an output
        return last


def request(prompt: str, window: Plan) -> dict[str, Any]:
    """What vLLM takes: the text with one placeholder, and the samples for it."""
    samples = np.pad(window.samples, (0, max(0, _SHORTEST - len(window.samples))))
    return {"prompt": prompt, "multi_modal_data": {"audio": (samples, RATE)}}


def params(search: Search) -> "SamplingParams":
    """How vLLM decodes it. The seed is fixed: the same window is answered alike."""
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    return SamplingParams(
        n=search.num_captions,
        temperature=search.temperature,
        seed=_SEED if search.temperature else None,
        max_tokens=search.max_tokens,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,  # else only the last of several samples is told
    )


def captions_of(output: "RequestOutput") -> list[Caption]:
    """The captions of a finished request, the best score first."""
    found = []
    for said in output.outputs:
        steps = zip(said.logprobs or (), said.token_ids, strict=True)
        logprobs = [step[token].logprob for step, token in steps]
        score = math.exp(sum(logprobs) / max(1, len(logprobs)))
        cut_off = said.finish_reason == "length"
        found.append(Caption(text=said.text.strip(), score=min(1.0, score), cut_off=cut_off))
    return sorted(found, key=lambda caption: -caption.score)
