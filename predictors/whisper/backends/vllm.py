"""Whisper on vLLM's engine: every window is requests of its own, which vLLM batches with those of all others as it decodes.

Nothing of vLLM's HTTP server is used: its transcription has no temperature ladder, no rules for timestamps, and cuts by itself.
"""

import asyncio
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.whisper import alignment, weights
from predictors.whisper.backends import vllm_engine
from predictors.whisper.backends.vllm_beams import search
from predictors.whisper.fallback import Decoding, best
from predictors.whisper.segments import Span, shortened, split, window_result, with_words, without_tail
from predictors.whisper.settings import WhisperSettings
from predictors.whisper.vllm_tokens import Tokens, extra_args
from predictors.whisper.windows import Window, plan
from serving import vllm_process
from serving.contracts.asr import AsrInput, AsrResult, Samples, Word
from serving.errors import PredictorUnavailable

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_FRAMES_PER_SECOND = 50
_POLL_SECONDS = 0.5
_AHEAD = 1.5  # windows that are taken in for each that is decoded: some are listened to or aligned meanwhile
_CLOSING_SECONDS = 1.0  # for processes that end by themselves; those that do not are killed
_SEED = 0
_MOST_TOKENS = 224  # of one window, as openai-whisper has it: half of its context


class VllmRecognizer:
    """An `asr/1` engine (`serving.engine.ConcurrentEngine`)."""

    device = ""

    def __init__(self, settings: WhisperSettings):
        self._settings = settings
        self._limits = settings.thresholds()
        self._numbers = itertools.count()
        self._engine: AsyncLLM
        self._tokens: Tokens
        self._fault = ""
        self._windows = math.ceil(settings.max_num_seqs * _AHEAD)
        self._room = asyncio.Semaphore(self._windows)
        self._starting = asyncio.Lock()
        self._started = False

    def load(self) -> None:
        """Starts vLLM's processes. Raises ValueError when weights, device or settings do not work."""
        settings = self._settings
        os.environ.update(vllm_engine.environment(settings))
        folder = weights.for_vllm(settings.model_id)
        self._tokens = Tokens.of(folder)
        settings.check_language(self._tokens.abilities.languages)
        if self._tokens.heads % settings.tensor_parallel_size:
            raise ValueError(
                f"TENSOR_PARALLEL_SIZE={settings.tensor_parallel_size} does not divide this model's {self._tokens.heads} heads"
            )
        device = vllm_engine.find_device(settings.device)
        arguments = vllm_engine.arguments(settings, folder, device, self._tokens.rules)
        os.environ.update(vllm_engine.compilation(arguments, device))

        from vllm import AsyncEngineArgs  # noqa: PLC0415  # heavy libraries are imported when they are needed
        from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        # As a server, by which vLLM chooses how many windows a step may begin with.
        try:
            self._engine = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**arguments), usage_context=UsageContext.OPENAI_API_SERVER
            )
        except ValueError as error:
            raise ValueError(f"vLLM refuses its settings: {vllm_process.reason(error)}") from error
        self.device = device.kind

    def close(self) -> None:
        """Ends vLLM's processes."""
        self._engine.shutdown(timeout=_CLOSING_SECONDS)

    async def died(self) -> str:
        """Returns once vLLM's processes are gone: out of memory, or a fault."""
        while not self._is_dead:  # noqa: ASYNC110  # vLLM has a flag, no event
            await asyncio.sleep(_POLL_SECONDS)
        return self._fault or "vLLM's engine has ended"

    @property
    def _is_dead(self) -> bool:
        return bool(self._engine.errored or self._fault)

    async def infer(self, item: AsrInput) -> AsrResult:
        """Recognises a window. Raises InvalidInput for what this model cannot do, PredictorUnavailable when it has died.

        A window without a sound is not decoded.
        """
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: PLC0415

        window = plan(item, self._tokens.abilities, self._settings)
        if window.is_silent:
            return AsrResult(text="", language=window.language)
        try:
            async with self._room:
                return await self._recognise(window)
        except (EngineDeadError, EngineGenerateError):
            if not self._is_dead:
                raise
            raise PredictorUnavailable(
                "the model stopped while it worked on this request and is started again, send it once more",
                code="engine_died",
                retry_after=10.0,
            ) from None

    async def _recognise(self, window: Window) -> AsrResult:
        await self._start()
        audio = await self._render(window.samples)
        if window.language is None:
            language, probability = await self._listen(audio)
            window = replace(window, language=language, language_probability=probability)
        decoding = await self._climb(window, audio)
        spans = await self._spans(window, audio, decoding, last=True)
        return window_result(window, spans, decoding, self._tokens.vocabulary)

    async def _spans(self, window: Window, audio: Any, decoding: Decoding, *, last: bool) -> list[Span]:
        """What a decoding says, with times where they are asked for; `last`: nothing more is asked about the window."""
        if decoding.is_silence(self._limits):
            return []
        spans = split(decoding.tokens, self._tokens.vocabulary, window.duration)
        if not spans or not window.is_aligned:
            return spans
        words = await self._align(window, audio, spans, decoding, last=last)
        return without_tail(with_words(spans, words, window.duration))

    async def _start(self) -> None:
        """Has the worker keep as many encodings as there are windows between their first request and their last."""
        async with self._starting:
            if not self._started:
                await self._call_worker("whisper_keep_encodings", self._windows)
                self._started = True

    async def _call_worker(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method of `vllm_worker` returns. Raises EngineDeadError also when vLLM would never answer."""
        from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415

        call = asyncio.ensure_future(self._engine.collective_rpc(method, args=arguments, kwargs=named))
        death = asyncio.ensure_future(self.died())
        try:
            await asyncio.wait({call, death}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise EngineDeadError
            return (await call)[0]
        except Exception as error:
            if "out of memory" not in str(error).lower():
                raise
            self._fault = "out of memory beside vLLM's own share: lower GPU_MEMORY_UTILIZATION or MAX_NUM_SEQS"
            raise EngineDeadError from None
        finally:
            call.cancel()
            death.cancel()

    async def _listen(self, audio: Any) -> tuple[str, float]:
        """The most probable language and its probability among all of them."""
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        ids = list(self._tokens.languages)
        params = SamplingParams(
            temperature=0,
            max_tokens=1,
            allowed_token_ids=ids,
            logprobs=vllm_engine.MOST_ALTERNATIVES,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        output = await self._generate(audio, [self._tokens.start], params)
        told = (output.outputs[0].logprobs or [{}])[0]
        chances = {token: math.exp(told[token].logprob) for token in ids if token in told}
        found = max(chances, key=chances.__getitem__)
        return self._tokens.languages[found], chances[found] / sum(chances.values())

    async def _climb(self, window: Window, audio: Any) -> Decoding:
        """The temperature ladder (`fallback`) of one window; the others go on meanwhile."""
        tried: list[Decoding] = []
        for temperature in window.temperatures:
            decoding = await self._decode(window, audio, temperature)
            if (
                decoding.is_repetitive(self._limits)
                and window.is_aligned
                and (spans := await self._spans(window, audio, decoding, last=False))
            ):
                # Often the repetition is at the end, where no audio is left for it.
                decoding = shortened(decoding, spans, self._tokens.vocabulary)
            tried.append(decoding)
            if not tried[-1].failed(self._limits):
                break
        return best(tried, self._limits)

    async def _decode(self, window: Window, audio: Any, temperature: float) -> Decoding:
        """The most probable of what beams (at 0) or samples (above) say."""
        prompt = self._tokens.prompt(window)
        if temperature == 0 and window.beam_size > 1:
            return await self._search(window, audio, prompt)
        params = self._params(window, prompt, temperature, n=window.best_of if temperature else 1)
        output = await self._generate(audio, prompt, params)
        no_speech = self._no_speech(output)
        found = []
        for said in output.outputs:
            told = zip(said.logprobs or (), said.token_ids, strict=True)
            logprobs = tuple(step[token].logprob for step, token in told)
            found.append(self._decoding(tuple(said.token_ids), logprobs, no_speech, temperature))
        return max(found, key=lambda decoding: decoding.avg_logprob)

    def _most_tokens(self, prompt: Sequence[int]) -> int:
        return min(_MOST_TOKENS, self._tokens.abilities.context - len(prompt))

    def _params(
        self, window: Window, prompt: Sequence[int], temperature: float, said: Sequence[int] = (), **others: Any
    ) -> "SamplingParams":
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        settings = {
            "temperature": temperature,
            "seed": _SEED if temperature else None,  # the same window is answered alike
            "max_tokens": self._most_tokens(prompt),
            # Of the token after the start the most probable are told, <|nospeech|> among them wherever that matters.
            "logprobs": vllm_engine.ALTERNATIVES if prompt[-1] == self._tokens.start else 0,
            "prompt_logprobs": None if said else vllm_engine.ALTERNATIVES,
            "output_kind": RequestOutputKind.FINAL_ONLY,  # else only the last of several samples is told
            "stop_token_ids": [self._tokens.end],
            "detokenize": False,
            "extra_args": extra_args(timestamps=window.timestamps, said=said),
            **others,
        }
        return SamplingParams(**settings)

    def _decoding(
        self, said: tuple[int, ...], logprobs: tuple[float, ...], no_speech: float, temperature: float
    ) -> Decoding:
        tokens = said[:-1] if said and said[-1] == self._tokens.end else said
        text = self._tokens.vocabulary.text(tokens)
        mean = sum(logprobs) / (len(tokens) + 1)
        return Decoding(tokens, text, mean, no_speech, temperature, logprobs[: len(tokens)])

    def _no_speech(self, output: "RequestOutput") -> float:
        """The probability of <|nospeech|> after the start; 0 where twenty other tokens are more probable."""
        prompt = output.prompt_token_ids or []
        after = prompt.index(self._tokens.start) + 1
        told = (output.prompt_logprobs or [])[after] if after < len(prompt) else (output.outputs[0].logprobs or [{}])[0]
        found = (told or {}).get(self._tokens.no_speech)
        return math.exp(found.logprob) if found else 0.0

    async def _search(self, window: Window, audio: Any, prompt: list[int]) -> Decoding:
        """Beam search: a request for every step of every beam. The audio is encoded once, the text again each time."""
        first: RequestOutput | None = None

        async def step(said: tuple[int, ...]) -> dict[int, float]:
            nonlocal first
            params = self._params(window, prompt, 0.0, said, max_tokens=1, logprobs=vllm_engine.ALTERNATIVES)
            output = await self._generate(audio, [*prompt, *said], params)
            first = first or output
            chosen, (told,) = output.outputs[0].token_ids[0], output.outputs[0].logprobs or ({},)
            # vLLM tells what was probable before the rules; what it chose is by the rules.
            return {
                token: each.logprob
                for token, each in told.items()
                if token == chosen or self._may_follow(token, said, chosen, window)
            }

        beam = await search(step, width=window.beam_size, end=self._tokens.end, max_tokens=self._most_tokens(prompt))
        assert first is not None  # noqa: S101  # there was a first step
        return self._decoding(beam.tokens, beam.logprobs, self._no_speech(first), 0.0)

    def _may_follow(self, token: int, said: tuple[int, ...], chosen: int, window: Window) -> bool:
        """Whether `token` is an alternative to `chosen`: where a time is to come, no text is."""
        rules, size = self._tokens.rules, self._engine.model_config.get_vocab_size()
        if window.timestamps and chosen >= rules.first_timestamp > token:
            return False
        return rules.allows(token, said, size, timestamps=window.timestamps)

    async def _render(self, samples: Samples) -> Any:
        """The window's features as vLLM's requests take them, made once for all of them."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt  # noqa: PLC0415

        engine = self._engine
        parsed = parse_model_prompt(
            engine.model_config,
            {
                "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (samples, 16_000)}},
                "decoder_prompt": {"prompt_token_ids": [self._tokens.start]},
            },
        )
        (rendered,) = await engine.renderer.render_cmpl_async([parsed])
        return rendered

    async def _generate(self, audio: Any, prompt: list[int], params: "SamplingParams") -> "RequestOutput":
        """One request of vLLM's, to its end. Cancelling it takes it out of the engine.

        The prompt is put in here: vLLM's own rendering puts a start token before one that begins otherwise.
        """
        request = {**audio, "decoder_prompt": {**audio["decoder_prompt"], "prompt_token_ids": prompt}}
        last = None
        async for output in self._engine.generate(request, params, f"window-{next(self._numbers)}"):
            last = output
        assert last is not None  # noqa: S101  # a request ends with an output
        return last

    async def _align(
        self, window: Window, audio: Any, spans: Sequence[Span], decoding: Decoding, *, last: bool
    ) -> list[list[Word]]:
        """The words of each span, timed by how the decoder looks at the audio while it says them."""
        tokens, end = self._tokens, self._tokens.end
        texts = [[token for token in span.tokens if token < end] for span in spans]
        said = [token for text in texts for token in text]
        before = tokens.prompt(replace(window, previous=(), timestamps=False))
        frames = max(1, math.ceil(window.duration * _FRAMES_PER_SECOND))
        features = _log_mel(audio)
        rows, columns, data = await self._call_worker(
            "whisper_align",
            features.tobytes(),
            features.shape[0],
            [*before, *said, end],
            tokens.alignment_heads,
            frames,
            last=last,
        )
        matrix = np.frombuffer(data, np.float32).reshape(rows, columns)[len(before) - 1 : -1]
        begins = await asyncio.to_thread(alignment.warp, matrix)
        return self._words(texts, begins, spans, decoding, window.language or "en")

    def _words(
        self, texts: Sequence[list[int]], begins: Any, spans: Sequence[Span], decoding: Decoding, language: str
    ) -> list[list[Word]]:
        found, place = [], 0
        for text, span in zip(texts, spans, strict=True):
            logprobs = [
                (decoding.logprobs or ())[span.first + index]
                for index, token in enumerate(span.tokens)
                if token < self._tokens.end
            ]
            words = alignment.split_words(text, self._tokens.vocabulary.decode, language)
            found.append(alignment.timed_words(words, begins[place : place + len(text) + 1], logprobs))
            place += len(text)
        return alignment.without_pauses(found)


def _log_mel(audio: Any) -> Any:
    """Features [mels, 3000] of a rendered window: to the bit those whose encoding is there already."""
    (item,) = audio["decoder_prompt"]["mm_kwargs"]["audio"]
    return item["input_features"].data.float().numpy()
