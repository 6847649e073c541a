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

from kserve import InferRequest, InferResponse
from pydantic import BaseModel, ConfigDict, Field

from serving import v2
from serving.contracts import audio
from serving.contracts.parameters import options_from, v1_parameters
from serving.errors import ServingError

NAME = "asr/1"
MAX_TEXT = 4000
"""Characters of a prompt or of hotwords; Whisper reads 224 tokens, about a thousand."""
MAX_LANGUAGE = 64
"""Characters of a language's code; refusals repeat it."""
MAX_BEAM_SIZE = 20
"""Beams of a search; memory and time grow with them, accuracy ends growing at about five."""
MAX_BEST_OF = 20
"""Candidates at a temperature above 0."""

Samples = audio.Samples
Timestamps = Literal["none", "segment", "word"]
Task = Literal["transcribe", "translate"]


class AsrOptions(BaseModel):
    """How a window is to be recognised. Hashable: windows with equal options may share a batch.

    Fields that a predictor does not know are ignored, so that an older predictor serves a newer transformer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_rate: int = Field(16000, gt=0)
    """Samples per second of `AUDIO`."""
    language: str | None = Field(None, max_length=MAX_LANGUAGE)
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
    return audio.input_types()


def output_types() -> list[dict[str, Any]]:
    """V2 metadata of the outputs."""
    return [{"name": "RESULT", "datatype": "BYTES", "shape": [-1]}]


def read_request(request: InferRequest) -> list[AsrInput]:
    """The windows of a V2 request, as views of its body. Raises InvalidInput."""
    options = options_from(v2.parameters(request), AsrOptions, NAME)
    tensors = v2.tensors(request)
    return [AsrInput(samples, options) for samples in rows(tensors.get("AUDIO"), tensors.get("LENGTHS"))]


rows = audio.rows


def write_response(results: Sequence[AsrResult], request: InferRequest, model_name: str) -> InferResponse:
    """The V2 response for the results of `read_request`'s windows, in their order."""
    found = [result.model_dump_json().encode() for result in results]
    return v2.response(request, model_name, {"RESULT": v2.bytes_array(found)}, {"contract": NAME})


def read_v1(body: dict[str, Any]) -> list[AsrInput]:
    """The windows of a V1 body: `{"instances": [{"audio": [...] | {"b64": ...}}], "parameters": {...}}`.

    `audio` is a list of numbers in [-1, 1], or base64 of little-endian float32 samples. Raises InvalidInput.
    """
    options = options_from(v1_parameters(body), AsrOptions, NAME)
    return [AsrInput(samples, options) for samples in audio.v1_windows(body)]


def write_v1(results: Sequence[AsrResult]) -> dict[str, Any]:
    """The V1 answer: one prediction an instance."""
    return {"predictions": [result.model_dump() for result in results]}


def warm_up_item() -> AsrInput:
    """A window that runs every stage of a recogniser."""
    return AsrInput(audio.warm_up_samples(), AsrOptions(timestamps="segment"))


def write_request(items: Sequence[AsrInput], model_name: str) -> InferRequest:
    """A V2 request for windows that share their options. Raises ValueError when they do not."""
    options = {item.options for item in items}
    if len(options) != 1:
        raise ValueError("the windows of one request share their options")
    parameters = {"contract": NAME, **options.pop().model_dump(exclude_none=True)}
    return v2.request(model_name, audio.tensors([item.samples for item in items]), parameters)


def read_response(response: InferResponse) -> list[AsrResult]:
    """The results in a predictor's V2 response. Raises ValueError when it does not keep the contract."""
    try:
        found = v2.tensors(response).get("RESULT")
    except ServingError as error:  # the predictor's fault, not the client's: it must not become a 400
        raise ValueError(error.message) from None
    if found is None:
        raise ValueError("the predictor's response has no output 'RESULT'")
    return [AsrResult.model_validate_json(row) for row in found.ravel()]
