"""asr/1: speech recognition. Windows of mono audio go in, a transcript of each comes out.

| tensor | type | meaning |
|---|---|---|
| `AUDIO` (in) | FP32 [N, S] | N windows of mono samples in [-1, 1], zero-padded to the longest |
| `LENGTHS` (in) | INT32 [N] | samples of each window that are audio; without it all S are |
| `RESULT` (out) | BYTES [N] | JSON of `AsrResult`, times in seconds from the window's start |

Request parameters are the fields of `AsrOptions`, one set for all N windows, and `contract`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from kserve import InferRequest, InferResponse
from pydantic import BaseModel, ConfigDict, Field

from serving import v2
from serving.errors import InvalidInput, TooLarge
from serving.threads import from_base64

NAME = "asr/1"
MAX_TEXT = 4000
"""Characters of a prompt or of hotwords; Whisper reads 224 tokens, about a thousand."""
MAX_BEAM_SIZE = 20
"""Beams of a search; memory and time grow with them, accuracy ends growing at about five."""
MAX_BEST_OF = 20
"""Candidates at a temperature above 0."""
MAX_WINDOWS = 4096
"""Windows in one request. It bounds what a few bytes can ask for: an empty tensor may have any number of rows."""

Samples = npt.NDArray[np.float32]
Timestamps = Literal["none", "segment", "word"]
Task = Literal["transcribe", "translate"]


class AsrOptions(BaseModel):
    """How a window is to be recognised. Hashable: windows with equal options may share a batch.

    Fields that a predictor does not know are ignored, so that an older predictor serves a newer transformer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_rate: int = Field(16000, gt=0)
    """Samples per second of `AUDIO`."""
    language: str | None = None
    """ISO-639-1 code of the speech; None lets the model detect it."""
    task: Task = "transcribe"
    """`translate` gives English text whatever the language."""
    prompt: str | None = Field(None, max_length=MAX_TEXT)
    """Text that precedes the window, for spelling and style."""
    hotwords: str | None = Field(None, max_length=MAX_TEXT)
    """Words to favour, separated by spaces or commas."""
    temperature: float | None = Field(None, ge=0.0, le=1.0)
    """Sampling temperature. None or 0 lets the predictor climb its fallback ladder."""
    beam_size: int | None = Field(None, ge=1, le=MAX_BEAM_SIZE)
    """Beams of the search at temperature 0; None takes the predictor's setting."""
    best_of: int | None = Field(None, ge=1, le=MAX_BEST_OF)
    """Candidates drawn at a temperature above 0; None takes the predictor's setting."""
    timestamps: Timestamps = "segment"
    """What times the result carries."""


class Word(BaseModel):
    """One word; `start` and `end` in seconds from the window's start, `probability` in [0, 1] where known."""

    word: str
    start: float
    end: float
    probability: float | None = None


class Segment(BaseModel):
    """A stretch of text with its times (seconds from the window's start) and the decoder's own statistics.

    `avg_logprob`, `compression_ratio` and `no_speech_prob` are as openai-whisper defines them; `temperature` is the one
    that the accepted decoding used. Engines without them leave the defaults.
    """

    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    words: list[Word] | None = None


class AsrResult(BaseModel):
    """What was said in one window. `text` is the segments' text joined; both are empty for silence."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an error's text goes into the log, what was said must not

    text: str
    language: str | None = None
    language_probability: float | None = None
    segments: list[Segment] = []


@dataclass(frozen=True, eq=False)
class AsrInput:
    """One window: mono float32 samples [S] in [-1, 1] at `options.sample_rate`."""

    samples: Samples
    options: AsrOptions


def input_types() -> list[dict[str, Any]]:
    """V2 metadata of the inputs."""
    return [
        {"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "LENGTHS", "datatype": "INT32", "shape": [-1]},
    ]


def output_types() -> list[dict[str, Any]]:
    """V2 metadata of the outputs."""
    return [{"name": "RESULT", "datatype": "BYTES", "shape": [-1]}]


def options_from(parameters: dict[str, Any]) -> AsrOptions:
    """Validates request parameters. Raises InvalidInput that names the field at fault."""
    spoken = parameters.get("contract", NAME)
    if spoken != NAME:
        raise InvalidInput(
            f"contract {spoken!r} is not spoken here, this predictor speaks {NAME!r}",
            code="unknown_contract",
            param="contract",
        )
    try:
        return AsrOptions.model_validate(parameters)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"parameter {field!r}: {first['msg']}", param=field) from None


def read_request(request: InferRequest) -> list[AsrInput]:
    """The windows of a V2 request, as views of its body. Raises InvalidInput."""
    options = options_from(v2.parameters(request))
    tensors = v2.tensors(request)
    return [AsrInput(samples, options) for samples in rows(tensors.get("AUDIO"), tensors.get("LENGTHS"))]


def rows(audio: v2.Array | None, lengths: v2.Array | None) -> list[Samples]:
    """Each row's own samples [S] out of `AUDIO` and `LENGTHS`, as views; looking through an hour of them takes 0.1 s.

    Raises:
        InvalidInput, TooLarge: the tensors are not as the contract has them; `param` is the one at fault.
    """
    if audio is None or audio.dtype != np.float32 or audio.ndim != 2:
        raise InvalidInput("input 'AUDIO' is needed: FP32 of shape [N, S], mono samples in [-1, 1]", param="AUDIO")
    count, longest = audio.shape
    _check_count(count)
    if lengths is None:
        lengths = np.full(count, longest, np.int32)
    if lengths.shape != (count,) or not np.issubdtype(lengths.dtype, np.integer):
        raise InvalidInput(f"input 'LENGTHS' must be INT32 of shape [{count}]", param="LENGTHS")
    if count and (lengths.min() < 0 or lengths.max() > longest):
        raise InvalidInput(f"'LENGTHS' must lie in 0..{longest}, the second dimension of 'AUDIO'", param="LENGTHS")
    if not np.isfinite(audio).all():
        raise InvalidInput("'AUDIO' holds values that are not finite", param="AUDIO")
    return [row[:length] for row, length in zip(audio, lengths, strict=True)]


def _check_count(count: int) -> None:
    if count > MAX_WINDOWS:
        raise TooLarge(f"the request has {count} windows, at most {MAX_WINDOWS} are accepted", code="too_many_items")


def write_response(results: Sequence[AsrResult], request: InferRequest, model_name: str) -> InferResponse:
    """The V2 response for the results of `read_request`'s windows, in their order."""
    rows = [result.model_dump_json().encode() for result in results]
    return v2.response(request, model_name, {"RESULT": v2.bytes_array(rows)}, {"contract": NAME})


def read_v1(body: dict[str, Any]) -> list[AsrInput]:
    """The windows of a V1 body: `{"instances": [{"audio": [...] | {"b64": ...}}], "parameters": {...}}`.

    `audio` is a list of numbers in [-1, 1], or base64 of little-endian float32 samples. Raises InvalidInput.
    """
    parameters = {} if body.get("parameters") is None else body["parameters"]
    if not isinstance(parameters, dict):
        raise InvalidInput("'parameters' must be an object", param="parameters")
    options = options_from(parameters)
    _check_count(len(body["instances"]))
    return [AsrInput(_v1_samples(instance, f"instances[{i}]"), options) for i, instance in enumerate(body["instances"])]


def _v1_samples(instance: Any, where: str) -> Samples:
    audio = instance.get("audio") if isinstance(instance, dict) else None
    try:
        if isinstance(audio, dict) and isinstance(audio.get("b64"), str):
            samples = np.frombuffer(from_base64(audio["b64"]), "<f4").astype(np.float32, copy=False)
        elif isinstance(audio, list):
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                samples = np.asarray(audio, np.float32)
        else:
            raise TypeError("it is missing")
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError("it must be one channel of finite numbers")
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"{where}.audio must be mono samples in [-1, 1]: a list of numbers, or {{'b64': float32 little-endian}}; {error}",
            param=f"{where}.audio",
        ) from None
    return samples


def write_v1(results: Sequence[AsrResult]) -> dict[str, Any]:
    """The V1 answer: one prediction an instance."""
    return {"predictions": [result.model_dump() for result in results]}


def warm_up_item() -> AsrInput:
    """Two seconds of a buzzing, gliding tone with pauses: enough like a voice to run every stage of a recogniser."""
    time = np.arange(2 * 16_000, dtype=np.float32) / 16_000
    glide = 2 * np.pi * np.cumsum(120 + 60 * np.sin(2 * np.pi * 1.5 * time)) / 16_000
    voice = sum(np.sin(k * glide) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return AsrInput((0.1 * voice * syllables).astype(np.float32), AsrOptions(timestamps="segment"))


def write_request(items: Sequence[AsrInput], model_name: str) -> InferRequest:
    """A V2 request for windows that share their options. Raises ValueError when they do not."""
    options = {item.options for item in items}
    if len(options) != 1:
        raise ValueError("the windows of one request share their options")
    parameters = {"contract": NAME, **options.pop().model_dump(exclude_none=True)}
    lengths = np.array([len(item.samples) for item in items], np.int32)
    if len(items) == 1:
        audio = np.ascontiguousarray(items[0].samples, np.float32)[None]
    else:
        audio = np.zeros((len(items), int(lengths.max())), np.float32)
        for row, item in zip(audio, items, strict=True):
            row[: len(item.samples)] = item.samples
    return v2.request(model_name, {"AUDIO": audio, "LENGTHS": lengths}, parameters)


def read_response(response: InferResponse) -> list[AsrResult]:
    """The results in a predictor's V2 response. Raises ValueError when it does not keep the contract."""
    try:
        rows = v2.tensors(response).get("RESULT")
    except InvalidInput as error:  # the predictor's fault, not the client's: it must not become a 400
        raise ValueError(error.message) from None
    if rows is None:
        raise ValueError("the predictor's response has no output 'RESULT'")
    return [AsrResult.model_validate_json(row) for row in rows.ravel()]
