"""caption/1: audio captioning. Windows of mono audio go in, what is heard in each (not what is said) comes out as captions.

| tensor | type | meaning |
|---|---|---|
| `AUDIO` (in) | FP32 [N, S] | N windows of mono samples in [-1, 1], zero-padded to the longest |
| `LENGTHS` (in) | INT32 [N] | samples of each window that are audio; without it all S are |
| `RESULT` (out) | BYTES [N] | JSON of `CaptionResult` |

Request parameters are the fields of `CaptionOptions`, one set for all N windows, and `contract`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kserve import InferRequest, InferResponse
from pydantic import BaseModel, ConfigDict, Field

from serving import v2
from serving.contracts import audio
from serving.contracts.parameters import options_from, v1_parameters
from serving.errors import ServingError

NAME = "caption/1"
MAX_CAPTIONS = 10
"""Captions of one window; beams grow with them."""
MAX_BEAM_SIZE = 20
"""Beams of a search; memory and time grow with them, captions end improving at about five."""
MAX_TOKENS = 200
"""Tokens of one caption; those of Clotho have 8 to 20 words."""
MAX_STYLE = 64
"""Characters of a style's name."""

Samples = audio.Samples


class CaptionOptions(BaseModel):
    """How a window is to be captioned. Hashable: windows with equal options may share a batch.

    Fields that a predictor does not know are ignored, so that an older predictor serves a newer transformer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_rate: int = Field(16000, gt=0)
    """Samples per second of `AUDIO`."""
    style: str | None = Field(None, min_length=1, max_length=MAX_STYLE)
    """Which way of captioning, by the predictor's own names; None takes its setting."""
    num_captions: int = Field(1, ge=1, le=MAX_CAPTIONS)
    """Captions of each window."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """Most tokens of one caption; None takes the predictor's setting."""
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    """Sampling temperature; 0 searches the most probable captions, None takes the predictor's setting."""
    beam_size: int | None = Field(None, ge=1, le=MAX_BEAM_SIZE)
    """Beams of the search at temperature 0; None takes the predictor's setting."""


class Caption(BaseModel):
    """One caption. `score` in (0, 1]: the geometric mean of its tokens' probabilities, its end included."""

    model_config = ConfigDict(hide_input_in_errors=True)

    text: str
    score: float
    cut_off: bool = False
    """Whether `max_tokens` ended it, in mid-sentence perhaps."""


class CaptionResult(BaseModel):
    """The captions of one window, the best score first; none when it holds no sound at all."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an error's text goes into the log, what was heard must not

    captions: list[Caption]
    style: str
    model: str
    """The predictor's MODEL_ID."""


@dataclass(frozen=True, eq=False)
class CaptionInput:
    """One window: mono float32 samples [S] in [-1, 1] at `options.sample_rate`."""

    samples: Samples
    options: CaptionOptions


def input_types() -> list[dict[str, Any]]:
    """V2 metadata of the inputs."""
    return audio.input_types()


def output_types() -> list[dict[str, Any]]:
    """V2 metadata of the outputs."""
    return [{"name": "RESULT", "datatype": "BYTES", "shape": [-1]}]


def read_request(request: InferRequest) -> list[CaptionInput]:
    """The windows of a V2 request, as views of its body. Raises InvalidInput."""
    options = options_from(v2.parameters(request), CaptionOptions, NAME)
    tensors = v2.tensors(request)
    return [CaptionInput(samples, options) for samples in audio.rows(tensors.get("AUDIO"), tensors.get("LENGTHS"))]


def write_response(results: Sequence[CaptionResult], request: InferRequest, model_name: str) -> InferResponse:
    """The V2 response for the results of `read_request`'s windows, in their order."""
    found = [result.model_dump_json().encode() for result in results]
    return v2.response(request, model_name, {"RESULT": v2.bytes_array(found)}, {"contract": NAME})


def read_v1(body: dict[str, Any]) -> list[CaptionInput]:
    """The windows of a V1 body: `{"instances": [{"audio": [...] | {"b64": ...}}], "parameters": {...}}`.

    `audio` is a list of numbers in [-1, 1], or base64 of little-endian float32 samples. Raises InvalidInput.
    """
    options = options_from(v1_parameters(body), CaptionOptions, NAME)
    return [CaptionInput(samples, options) for samples in audio.v1_windows(body)]


def write_v1(results: Sequence[CaptionResult]) -> dict[str, Any]:
    """The V1 answer: one prediction an instance."""
    return {"predictions": [result.model_dump() for result in results]}


def warm_up_item() -> CaptionInput:
    """A window that runs every stage of a captioner, and few tokens."""
    return CaptionInput(audio.warm_up_samples(), CaptionOptions(max_tokens=8))


def write_request(items: Sequence[CaptionInput], model_name: str) -> InferRequest:
    """A V2 request for windows that share their options. Raises ValueError when they do not."""
    options = {item.options for item in items}
    if len(options) != 1:
        raise ValueError("the windows of one request share their options")
    parameters = {"contract": NAME, **options.pop().model_dump(exclude_none=True)}
    return v2.request(model_name, audio.tensors([item.samples for item in items]), parameters)


def read_response(response: InferResponse) -> list[CaptionResult]:
    """The results in a predictor's V2 response. Raises ValueError when it does not keep the contract."""
    try:
        found = v2.tensors(response).get("RESULT")
    except ServingError as error:  # the predictor's fault, not the client's: it must not become a 400
        raise ValueError(error.message) from None
    if found is None:
        raise ValueError("the predictor's response has no output 'RESULT'")
    return [CaptionResult.model_validate_json(row) for row in found.ravel()]
