"""ct/1: reading of chest CT. One volume goes in, the probabilities of findings come out.

| tensor | type | meaning |
|---|---|---|
| `VOLUME` (in) | FP32 [1, D, H, W] | HU / 1000 in [-1, 1]; axes and spacing of `serving.contracts.ct_volume` |
| `PROMPTS` (in, optional) | BYTES [P] | findings in the client's own words |
| `ZERO_SHOT`, `VOCABFINE`, `CLASSFINE`, `SUPERVISED` (out) | FP32 [1, n] | probability of each finding |
| `PROMPT_SCORES` (out) | FP32 [1, P] | probability of each of the client's prompts |
| `RISK` (out) | FP32 [1] | probability of pathology; parameters `threshold`, `pathology`, `most_dangerous` |
| `SHAP` (out) | FP32 [1, f] | what each feature adds to the risk's log-odds, largest first |
| `EXPLAIN` (out) | BYTES [1] | what each token adds to findings compared with texts: to the difference of logits; see `Shares` |

What was not asked for, or the predictor has no weights for, is absent. `labels`, a JSON list, is a parameter of every output
that has more than one column. Request parameters are the fields of `CtOptions`, and `contract`; the response's are `contract`
and `model`, the JSON of `CtResult.model`.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from kserve import InferRequest, InferResponse
from pydantic import BaseModel, ConfigDict, field_validator

from serving import v2
from serving.contracts.ct_volume import SHAPE
from serving.contracts.parameters import options_from, v1_parameters
from serving.errors import InvalidInput, ServingError, TooLarge, shown
from serving.threads import from_base64

NAME = "ct/1"
MAX_PROMPTS = 256
"""Of one request: each costs two passes of the text encoder."""
MAX_PROMPT = 1000
"""Characters of a prompt; the text encoder reads 512 tokens."""
HEADS: Final = {
    "zero_shot": "ZERO_SHOT",
    "vocabfine": "VOCABFINE",
    "classfine": "CLASSFINE",
    "supervised": "SUPERVISED",
    "prompts": "PROMPT_SCORES",
}
"""What gives probabilities of findings, and its output."""
RISK: Final = "risk"

Floats = npt.NDArray[np.float32]


class CtOptions(BaseModel):
    """What is to be read from a volume. Fields that a predictor does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    heads: str = ""
    """Comma-separated names of `HEADS` and "risk"; "" asks for all that the predictor has."""
    explain: bool = False
    """Whether to give each token's share of the findings that are compared with texts (zero-shot, or VocabFine)."""

    @field_validator("heads")
    @classmethod
    def _known(cls, value: str) -> str:
        unknown = sorted({name.strip() for name in value.split(",") if name.strip()} - {*HEADS, RISK})
        if unknown:
            raise ValueError(f"{shown(unknown[0])} is no head, there are: {', '.join([*HEADS, RISK])}")
        return value

    @property
    def wanted(self) -> frozenset[str]:
        """The names in `heads`; empty asks for all."""
        return frozenset(name.strip() for name in self.heads.split(",") if name.strip())


@dataclass(frozen=True, eq=False)
class CtInput:
    """One volume float32 [D, H, W] in [-1, 1], and prompts that its predictor has no cached latents for."""

    volume: Floats
    options: CtOptions
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Scores:
    """`values` float32 [n], one a label."""

    labels: Sequence[str]
    values: Floats

    def as_dict(self) -> dict[str, float]:
        """Values by label, in their order."""
        return dict(zip(self.labels, self.values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Shares:
    """What each token of a volume adds to each of k findings, whose `labels` these are."""

    labels: Sequence[str]
    packed: bytes
    """A compressed archive of NumPy's (`numpy.load`) with one array, `shares`, float32 [k, t, h, w]."""

    @classmethod
    def of(cls, labels: Sequence[str], values: Floats) -> "Shares":
        """Packs float32 [k, t, h, w]: 40 ms a megabyte, which is nothing for an event loop."""
        file = io.BytesIO()
        np.savez_compressed(file, shares=values)
        return cls(labels, file.getvalue())

    @property
    def values(self) -> Floats:
        """Unpacks them. Raises ValueError."""
        try:
            with np.load(io.BytesIO(self.packed), allow_pickle=False) as archive:
                found: Floats = archive["shares"]
        except (zipfile.BadZipFile, zlib.error, KeyError, TypeError, AttributeError, EOFError, OSError) as error:
            raise ValueError(f"no compressed shares: {error}") from None
        if found.ndim != 4 or len(found) != len(self.labels) or found.dtype != np.float32:
            raise ValueError(f"{len(self.labels)} labels for shares of shape {found.shape}")
        return found


@dataclass(frozen=True, eq=False)
class Risk:
    """Probability of pathology, and why."""

    probability: float
    threshold: float
    pathology: bool
    """Whether `probability` reaches `threshold`."""
    most_dangerous: str
    """Label of the finding that adds most to the risk; "" when none adds to it."""
    shap: Scores
    """Each feature's share of the log-odds, largest first."""


@dataclass(frozen=True, eq=False)
class CtResult:
    """What was read from one volume."""

    scores: Mapping[str, Scores]
    """By names of `HEADS`."""
    model: Mapping[str, Any]
    """Provenance: hashes, bundle version, threshold, heads that have no weights."""
    risk: Risk | None = None
    shares: Shares | None = None


def input_types() -> list[dict[str, Any]]:
    """V2 metadata of the inputs."""
    return [
        {"name": "VOLUME", "datatype": "FP32", "shape": [1, *SHAPE]},
        {"name": "PROMPTS", "datatype": "BYTES", "shape": [-1]},
    ]


def output_types() -> list[dict[str, Any]]:
    """V2 metadata of the outputs."""
    return [
        *({"name": name, "datatype": "FP32", "shape": [1, -1]} for name in HEADS.values()),
        {"name": "RISK", "datatype": "FP32", "shape": [1]},
        {"name": "SHAP", "datatype": "FP32", "shape": [1, -1]},
        {"name": "EXPLAIN", "datatype": "BYTES", "shape": [1]},
    ]


def read_request(request: InferRequest) -> list[CtInput]:
    """The volume of a V2 request, as a view of its body. Raises InvalidInput, TooLarge."""
    options = options_from(v2.parameters(request), CtOptions, NAME)
    tensors = v2.tensors(request)
    volume = tensors.get("VOLUME")
    if volume is None or volume.dtype != np.float32 or volume.ndim != 4 or len(volume) != 1:
        raise InvalidInput("input 'VOLUME' is needed: FP32 of shape [1, D, H, W], HU / 1000 in [-1, 1]", param="VOLUME")
    return [CtInput(_checked(volume[0], "VOLUME"), options, read_prompts(tensors.get("PROMPTS")))]


def read_prompts(rows: v2.Array | None) -> tuple[str, ...]:
    """The prompts of the tensor `PROMPTS`. Raises InvalidInput, TooLarge."""
    if rows is None:
        return ()
    if rows.dtype != np.object_ or rows.ndim != 1:
        raise InvalidInput("'PROMPTS' must be BYTES of shape [P]", param="PROMPTS")
    try:
        return check_prompts([row.decode() for row in rows], "PROMPTS")
    except UnicodeDecodeError:
        raise InvalidInput("'PROMPTS' must be UTF-8", param="PROMPTS") from None


def check_prompts(prompts: Any, where: str) -> tuple[str, ...]:
    """`prompts` as they came, when they are a list of texts within the limits. Raises InvalidInput, TooLarge."""
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise InvalidInput(f"{where!r} must be texts that are not empty", param=where)
    if len(prompts) > MAX_PROMPTS or any(len(prompt) > MAX_PROMPT for prompt in prompts):
        raise TooLarge(f"{where!r}: at most {MAX_PROMPTS} prompts of {MAX_PROMPT} characters are accepted", param=where)
    return tuple(prompts)


def _checked(volume: Floats, where: str) -> Floats:
    low, high = float(volume.min(initial=0.0)), float(volume.max(initial=0.0))
    if not (low >= -1.0 and high <= 1.0):  # NaN too
        raise InvalidInput(f"{where!r} must be HU / 1000 in [-1, 1], it goes from {low:g} to {high:g}", param=where)
    return volume


def write_response(
    results: Sequence[CtResult], request: InferRequest, model_name: str, more: Mapping[str, v2.Array] | None = None
) -> InferResponse:
    """The V2 response for the result of `read_request`'s volume, and `more` outputs."""
    (result,) = results
    arrays: dict[str, v2.Array] = {HEADS[head]: scores.values[None] for head, scores in result.scores.items()}
    extra: dict[str, dict[str, Any]] = {HEADS[head]: _labelled(scores) for head, scores in result.scores.items()}
    if (risk := result.risk) is not None:
        arrays["RISK"] = np.array([risk.probability], np.float32)
        extra["RISK"] = {
            "threshold": risk.threshold,
            "pathology": risk.pathology,
            "most_dangerous": risk.most_dangerous,
        }
        arrays["SHAP"], extra["SHAP"] = risk.shap.values[None], _labelled(risk.shap)
    if result.shares is not None:
        arrays["EXPLAIN"], extra["EXPLAIN"] = v2.bytes_array([result.shares.packed]), _labelled(result.shares)
    arrays |= more or {}
    model = orjson.dumps(dict(result.model)).decode()
    return v2.response(request, model_name, arrays, {"contract": NAME, "model": model}, extra)


def _labelled(scores: Scores | Shares) -> dict[str, Any]:
    return {"labels": orjson.dumps(list(scores.labels)).decode()}


def read_v1(body: dict[str, Any]) -> list[CtInput]:
    """The volumes of a V1 body: `{"instances": [{"volume": {"b64": …, "shape": [D, H, W]}, "prompts": […]}], "parameters": {…}}`.

    `b64` is little-endian float32. Raises InvalidInput, TooLarge.
    """
    options = options_from(v1_parameters(body), CtOptions, NAME)
    found = []
    for index, instance in enumerate(body["instances"]):
        where = f"instances[{index}]"
        prompts = instance.get("prompts", []) if isinstance(instance, dict) else []
        found.append(CtInput(_v1_volume(instance, where), options, check_prompts(prompts, f"{where}.prompts")))
    return found


def _v1_volume(instance: Any, where: str) -> Floats:
    where = f"{where}.volume"
    given = instance.get("volume") if isinstance(instance, dict) else None
    try:
        if not isinstance(given, dict) or not isinstance(given.get("b64"), str):
            raise TypeError("it is missing")
        shape = given.get("shape", list(SHAPE))
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError("its shape must be three whole numbers")
        volume = np.frombuffer(from_base64(given["b64"]), "<f4").astype(np.float32, copy=False).reshape(shape)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"{where} must be {{'b64': float32 little-endian, 'shape': [D, H, W]}}; {error}", param=where
        ) from None
    return _checked(volume, where)


def write_v1(results: Sequence[CtResult]) -> dict[str, Any]:
    """The V1 answer: one prediction a volume, without the shares of tokens, which are binary."""
    return {"predictions": [_prediction(result) for result in results]}


def _prediction(result: CtResult) -> dict[str, Any]:
    found: dict[str, Any] = {head: scores.as_dict() for head, scores in result.scores.items()}
    if (risk := result.risk) is not None:
        found[RISK] = {
            "probability": risk.probability,
            "threshold": risk.threshold,
            "pathology": risk.pathology,
            "most_dangerous": risk.most_dangerous,
            "shap": risk.shap.as_dict(),
        }
    return {**found, "model": dict(result.model)}


def warm_up_item() -> CtInput:
    """A volume of air."""
    return CtInput(np.full(SHAPE, -1.0, np.float32), CtOptions())


def write_request(items: Sequence[CtInput], model_name: str) -> InferRequest:
    """A V2 request for one volume, which is not copied."""
    (item,) = items
    arrays: dict[str, v2.Array] = {"VOLUME": np.ascontiguousarray(item.volume, np.float32)[None]}
    if item.prompts:
        arrays["PROMPTS"] = v2.bytes_array([prompt.encode() for prompt in item.prompts])
    return v2.request(model_name, arrays, {"contract": NAME, **item.options.model_dump()})


def read_response(response: InferResponse) -> list[CtResult]:
    """The one result in a predictor's V2 response. Raises ValueError when it does not keep the contract."""
    try:
        arrays = v2.tensors(response)
    except ServingError as error:  # the predictor's fault, not the client's: it must not become a 400
        raise ValueError(error.message) from None
    extra = {output.name: output.parameters or {} for output in response.outputs}
    scores = {head: _scores(arrays[name], extra[name]) for head, name in HEADS.items() if name in arrays}
    risk = None
    if "RISK" in arrays:
        told = extra["RISK"]
        risk = Risk(
            float(arrays["RISK"].ravel()[0]),
            float(told["threshold"]),
            bool(told["pathology"]),
            str(told["most_dangerous"]),
            _scores(arrays["SHAP"], extra["SHAP"]),
        )
    shares = _shares(arrays["EXPLAIN"], extra["EXPLAIN"]) if "EXPLAIN" in arrays else None
    return [CtResult(scores, orjson.loads(str(v2.parameters(response)["model"])), risk, shares)]


def _scores(values: v2.Array, extra: Mapping[str, Any]) -> Scores:
    labels = orjson.loads(extra["labels"])
    if values.shape != (1, len(labels)) or values.dtype != np.float32:
        raise ValueError(f"{len(labels)} labels for values of shape {values.shape}")
    return Scores(labels, values[0])


def _shares(values: v2.Array, extra: Mapping[str, Any]) -> Shares:
    if values.shape != (1,) or values.dtype != np.object_:
        raise ValueError(f"one piece of bytes was expected, not {values.dtype} of shape {values.shape}")
    return Shares(orjson.loads(extra["labels"]), values[0])
