"""How the vLLM backend meets a dying engine, a failing request and a client that leaves: a small fake in place of `AsyncLLM`.

vLLM's own exceptions and sampling parameters are used, no process of it is started.
"""

import asyncio
import math
import warnings
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from predictors.whisper.backends.vllm import VllmRecognizer
from predictors.whisper.segments import Vocabulary
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.vllm_tokens import Rules, Tokens
from predictors.whisper.windows import Abilities
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from serving.errors import PredictorUnavailable

WORDS = (" all", " is", " well", " again")
END, START, PREVIOUS, TRANSLATE, TRANSCRIBE, ENGLISH, NO_SPEECH, NO_TIMES, FIRST = range(len(WORDS), len(WORDS) + 9)
AUDIO = np.full(16_000, 0.1, np.float32)
KEEP, ALIGN = "whisper_keep_encodings", "whisper_align"
SOON = 10.0  # seconds; the backend looks every half a second whether the engine has died
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB"


def tokens() -> Tokens:
    """Four words, one language."""
    return Tokens(
        start=START,
        previous=PREVIOUS,
        transcribe=TRANSCRIBE,
        translate=TRANSLATE,
        no_speech=NO_SPEECH,
        rules=Rules(end_of_text=END, no_timestamps=NO_TIMES, first_timestamp=FIRST, never=(), not_first=()),
        languages={ENGLISH: "en"},
        vocabulary=Vocabulary(END, FIRST, lambda said: "".join(WORDS[token] for token in said)),
        abilities=Abilities(("en",), True, lambda text: [0] * len(text.split()), context=448),
        alignment_heads=[[0, 0]],
        heads=1,
    )


def said(*words: int, logprob: float = -0.1) -> SimpleNamespace:
    """One sample: words and the end, each as probable as the others."""
    ids = [*words, END]
    return SimpleNamespace(token_ids=ids, logprobs=[{token: SimpleNamespace(logprob=logprob)} for token in ids])


def output(*samples: SimpleNamespace, no_speech: float = 0.01) -> SimpleNamespace:
    """What vLLM tells of a request whose prompt begins with the start token."""
    after = {NO_SPEECH: SimpleNamespace(logprob=math.log(no_speech))}
    return SimpleNamespace(prompt_token_ids=[START, ENGLISH], prompt_logprobs=[None, after], outputs=list(samples))


GOOD = output(said(0, 1, 2))
UNSURE = output(said(0, 1, logprob=-1.5))
LESS_UNSURE = output(said(1, 2, logprob=-1.2))
REPEATED = output(said(*[3] * 100))
SILENCE = output(said(0, logprob=-1.5), no_speech=0.9)


@pytest.fixture(scope="module", autouse=True)
def vllm() -> None:
    """Imports it: torch warns of itself meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm import SamplingParams  # noqa: F401
        from vllm.renderers.inputs import preprocess  # noqa: F401
        from vllm.v1.engine import exceptions  # noqa: F401


class Engine:
    """What the backend uses of `AsyncLLM`.

    Requests, one after the other, end with what `does` holds: an output, an error, or None, which never comes; the last of
    them is for all that follow.
    """

    def __init__(self, *does: Any):
        self.does = list(does) or [GOOD]
        self.errored = False
        self.model_config = SimpleNamespace(is_encoder_decoder=True)
        self.renderer = self
        self.asked: list[Any] = []
        """Sampling parameters, one a request."""
        self.hangs_at = ""
        self.fails_at: dict[str, Exception] = {}
        self.waits = asyncio.Event()
        """Set once something waits for what never comes."""
        self.closed = 0
        self.cancelled_calls = 0

    async def render_cmpl_async(self, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        features = {"input_features": SimpleNamespace(data=torch.zeros(80, 3000))}
        return [{"decoder_prompt": {"prompt_token_ids": [START], "mm_kwargs": {"audio": [features]}}} for _ in prompts]

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = (), kwargs: Any = None) -> list[Any]:
        if method in self.fails_at:
            raise self.fails_at[method]
        if method == self.hangs_at:
            try:
                await self.never()
            finally:
                self.cancelled_calls += 1
        return [None]

    async def generate(self, request: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        does = self.does[min(len(self.asked), len(self.does) - 1)]
        self.asked.append(params)
        try:
            if does is None:
                await self.never()
            if isinstance(does, Exception):
                raise does
            yield does
        finally:
            self.closed += 1

    async def never(self) -> None:
        self.waits.set()
        await asyncio.Event().wait()


def recogniser(engine: Engine, **settings: Any) -> VllmRecognizer:
    """The backend on a fake."""
    defaults: dict[str, Any] = {"backend": "vllm", "beam_size": 1, "temperatures": (0.0, 0.2, 0.4), "max_num_seqs": 1}
    made = VllmRecognizer(WhisperSettings(**{**defaults, **settings}))
    for name, value in {"_engine": engine, "_tokens": tokens()}.items():
        setattr(made, name, value)
    return made


async def infer(backend: VllmRecognizer, **options: Any) -> AsrResult:
    """One window of a second; without times unless asked for, which is without an alignment."""
    return await backend.infer(AsrInput(AUDIO, AsrOptions(**{"language": "en", "timestamps": "none", **options})))


async def refused(backend: VllmRecognizer, **options: Any) -> None:
    """A request that is told to come again, in time."""
    with pytest.raises(PredictorUnavailable) as caught:
        await asyncio.wait_for(infer(backend, **options), SOON)
    assert caught.value.code == "engine_died"
    assert caught.value.retry_after == 10.0
    assert "send it once more" in caught.value.message
    assert not isinstance(caught.value.__cause__, Exception)  # what vLLM says is not for clients


async def is_alive(backend: VllmRecognizer) -> bool:
    """Whether `died` goes on waiting."""
    death = asyncio.ensure_future(backend.died())
    done, _ = await asyncio.wait({death}, timeout=0.05)
    death.cancel()
    return not done


# --- the engine dies ---


@pytest.mark.parametrize("method", [KEEP, ALIGN])
async def test_a_worker_without_memory_is_a_dead_engine(method: str) -> None:
    engine = Engine()
    engine.fails_at[method] = RuntimeError(OUT_OF_MEMORY)
    backend = recogniser(engine)
    await refused(backend, timestamps="segment")
    told = await asyncio.wait_for(backend.died(), SOON)
    assert "GPU_MEMORY_UTILIZATION" in told
    assert "out of memory" in told


async def test_another_error_of_the_worker_is_no_death() -> None:
    engine = Engine()
    engine.fails_at[ALIGN] = ValueError("shapes do not match")
    backend = recogniser(engine)
    with pytest.raises(ValueError, match="shapes do not match"):
        await infer(backend, timestamps="segment")
    assert await is_alive(backend)


@pytest.mark.parametrize("method", [KEEP, ALIGN])
async def test_a_worker_that_never_answers_is_not_waited_for_once_the_engine_is_dead(method: str) -> None:
    engine = Engine()
    engine.hangs_at = method
    backend = recogniser(engine)
    call = asyncio.ensure_future(refused(backend, timestamps="segment"))
    await asyncio.wait_for(engine.waits.wait(), SOON)
    assert await is_alive(backend)
    assert not call.done()
    engine.errored = True
    await call
    assert await asyncio.wait_for(backend.died(), SOON) == "vLLM's engine has ended"
    await asyncio.sleep(0)  # the call that nobody waits for is told so
    assert engine.cancelled_calls == 1


@pytest.mark.parametrize("name", ["EngineDeadError", "EngineGenerateError"])
async def test_a_request_that_fails_because_the_engine_is_dead(name: str) -> None:
    from vllm.v1.engine import exceptions

    engine = Engine(getattr(exceptions, name)())
    engine.errored = True
    backend = recogniser(engine)
    await refused(backend)
    assert len(engine.asked) == engine.closed == 1  # it climbs no ladder


async def test_a_death_fails_everything_that_is_in_flight() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    engine = Engine(EngineDeadError())
    engine.hangs_at = KEEP
    backend = recogniser(engine)
    calls = [asyncio.ensure_future(refused(backend)) for _ in range(4)]  # two of them wait for a place
    await asyncio.wait_for(engine.waits.wait(), SOON)
    engine.errored = True
    await asyncio.wait_for(asyncio.gather(*calls), 2 * SOON)


# --- the engine lives on ---


async def test_a_request_that_fails_by_itself_is_told_as_it_is_and_takes_nothing_along() -> None:
    from vllm.v1.engine.exceptions import EngineGenerateError

    error = EngineGenerateError()
    engine = Engine(error, error, error, GOOD)  # more of them than there are places
    backend = recogniser(engine)
    for _ in range(3):
        with pytest.raises(EngineGenerateError) as caught:
            await infer(backend)
        assert caught.value is error
    assert await is_alive(backend)
    assert (await infer(backend)).text == " all is well"


async def test_who_leaves_closes_its_request_and_frees_its_place() -> None:
    engine = Engine(None, None, None, GOOD)
    backend = recogniser(engine)
    for closed in (1, 2, 3):
        engine.waits.clear()
        call = asyncio.ensure_future(infer(backend))
        await asyncio.wait_for(engine.waits.wait(), SOON)
        assert engine.closed == closed - 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert engine.closed == len(engine.asked) == closed
    assert (await asyncio.wait_for(infer(backend), SOON)).text == " all is well"


async def test_who_leaves_in_the_alignment_waits_for_no_worker() -> None:
    engine = Engine()
    engine.hangs_at = ALIGN
    backend = recogniser(engine)
    call = asyncio.ensure_future(infer(backend, timestamps="word"))
    await asyncio.wait_for(engine.waits.wait(), SOON)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    assert engine.cancelled_calls == 1
    assert await is_alive(backend)


# --- the temperature ladder ---


@pytest.mark.parametrize(
    ("outputs", "asked", "kept", "text"),
    [
        ([GOOD], [0.0], 0.0, " all is well"),
        ([UNSURE, GOOD], [0.0, 0.2], 0.2, " all is well"),
        ([REPEATED, GOOD], [0.0, 0.2], 0.2, " all is well"),
        ([REPEATED, UNSURE, GOOD], [0.0, 0.2, 0.4], 0.4, " all is well"),
        ([UNSURE, LESS_UNSURE, REPEATED], [0.0, 0.2, 0.4], 0.2, " is well"),
        ([LESS_UNSURE, UNSURE, UNSURE], [0.0, 0.2, 0.4], 0.0, " is well"),
    ],
    ids=["sound", "unsure", "repeated", "twice", "all fail", "all fail, the first is best"],
)
async def test_the_ladder_is_climbed_only_while_a_decoding_fails(
    outputs: list[Any], asked: list[float], kept: float, text: str
) -> None:
    engine = Engine(*outputs)
    found = await infer(recogniser(engine))
    assert [params.temperature for params in engine.asked] == asked
    assert found.text == text
    assert [segment.temperature for segment in found.segments] == [kept]


async def test_silence_is_no_failure() -> None:
    engine = Engine(SILENCE)
    found = await infer(recogniser(engine))
    assert [params.temperature for params in engine.asked] == [0.0]
    assert (found.text, found.segments) == ("", [])


@pytest.mark.parametrize(
    ("thresholds", "first"),
    [
        ({"logprob_threshold": -2.0}, UNSURE),
        ({"compression_ratio_threshold": 50.0}, REPEATED),
        ({"no_speech_threshold": 0.005}, UNSURE),
    ],
)
async def test_the_settings_say_what_fails(thresholds: dict[str, float], first: Any) -> None:
    strict, lenient = Engine(first, GOOD), Engine(first, GOOD)
    await infer(recogniser(strict))
    await infer(recogniser(lenient, **thresholds))
    assert [len(engine.asked) for engine in (strict, lenient)] == [2, 1]


async def test_a_temperature_that_was_asked_for_is_the_only_one() -> None:
    engine = Engine(output(said(0, logprob=-1.4), said(1, 2, logprob=-1.1), said(3, logprob=-1.3)))
    found = await infer(recogniser(engine), temperature=0.7, best_of=3)
    assert [(params.temperature, params.n) for params in engine.asked] == [(0.7, 3)]
    assert found.text == " is well"  # the most probable of the three


async def test_candidates_are_drawn_above_zero_only() -> None:
    engine = Engine(UNSURE, UNSURE, GOOD)
    await infer(recogniser(engine, best_of=4))
    assert [params.n for params in engine.asked] == [1, 4, 4]
