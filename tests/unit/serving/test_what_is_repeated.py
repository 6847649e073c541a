"""What refusals repeat of a request: little of what is long, and of what is nested its kind alone."""

from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from kserve import InferInput, InferRequest
from kserve.errors import ModelNotFound

from serving import v2
from serving.contracts.asr import NAME, AsrOptions
from serving.contracts.audio import v1_windows
from serving.contracts.ct import CtOptions
from serving.contracts.parameters import options_from
from serving.dialects import from_exception
from serving.errors import InvalidInput, shortened, shown
from tests.conftest import ServeApp
from tests.hops import predictor
from transformers_pre.audio.caption.routes.chat import audio_part
from transformers_pre.audio.forms import OpenAIForm, ProtocolForm
from transformers_pre.audio.pcm import sample_rate as sample_rate_of_a_stream
from transformers_pre.audio.source import sample_rate as sample_rate_of_samples

DEEP = orjson.loads("[" * 1000 + "]" * 1000)
"""More levels than Python's `repr` has, and as many as a request may have."""
LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("ru", "'ru'"),
        ("a\nb", r"'a\nb'"),
        (LONG, "'" + "x" * 40 + "…'"),
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ([1], "a list"),
        (DEEP, "a list"),
        ({"a": DEEP}, "an object"),
        (b"ab", "bytes"),
    ],
    ids=["text", "new line", "long", "nothing", "true", "number", "list", "nested list", "nested object", "else"],
)
def test_a_value_is_shown_by_its_beginning_or_its_kind(value: object, told: str) -> None:
    assert shown(value) == told


def test_text_that_is_short_enough_is_whole() -> None:
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "abc…")


def of_v2(**changes: Any) -> None:
    tensor = {"name": "X", "shape": [1], "datatype": "FP32", "data": [1], **changes}
    v2.tensors(v2.decode_request(orjson.dumps({"inputs": [tensor]}), None, "m"))


def nested_datatype() -> None:
    text = b'{"inputs":[{"name":"X","shape":[1],"datatype":' + b"[" * 990 + b"]" * 990 + b"}]}"
    v2.decode_request(text, None, "m")


def of_grpc(datatype: str) -> None:
    v2.tensors(InferRequest("m", [InferInput("X", [1], datatype)]))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "V2 name": (lambda: of_v2(name=LONG, shape=None), "needs a 'shape'"),
    "V2 datatype": (lambda: of_v2(datatype=LONG), "unknown datatype 'xxx"),
    "V2 nested datatype": (nested_datatype, "unknown datatype a list"),
    "V2 data": (lambda: of_v2(data=[LONG]), "could not convert"),
    "gRPC datatype": (lambda: of_grpc(LONG), "unknown datatype 'XXX"),
    "V1 samples": (lambda: v1_windows({"instances": [{"audio": [LONG]}]}), "could not convert"),
    "contract": (lambda: options_from({"contract": LONG}, AsrOptions, NAME), "contract 'xxx"),
    "nested contract": (lambda: options_from({"contract": DEEP}, AsrOptions, NAME), "contract a list is not spoken"),
    "language of the contract": (lambda: options_from({"language": LONG}, AsrOptions, NAME), "at most 64 characters"),
    "heads": (lambda: options_from({"heads": LONG}, CtOptions, "ct/1"), "parameter 'heads': 'xxx"),
    "parameter": (lambda: ProtocolForm.from_values({"language": LONG}), r"language: send an .*\(got 'xxx"),
    "nested parameter": (lambda: ProtocolForm.from_values({"language": DEEP}), r"language: .*\(got a list\)"),
    "a field's name": (lambda: OpenAIForm.parse({f"beam_size[{LONG}]": ["a"]}), r"beam_size\[xxx"),
    "a refused field's name": (lambda: OpenAIForm.parse({f"include[{LONG}]": ["a"]}), "include is not supported"),
    "sample rate": (lambda: sample_rate_of_samples(LONG), "got 'xxx"),
    "nested sample rate": (lambda: sample_rate_of_samples(DEEP), "got a list"),
    "nested sample rate of a stream": (lambda: sample_rate_of_a_stream(DEEP, 16_000), "got a list"),
    "nested part of a chat": (
        lambda: audio_part([{"role": "user", "content": [{"type": DEEP}]}]),
        "the type a list, 'text' and",
    ),
}


@pytest.mark.parametrize(("call", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_is_short_whatever_was_sent(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        call()
    assert len(caught.value.message) < 500
    assert len(caught.value.param or "") <= 201


def test_what_other_code_repeats_is_shortened() -> None:
    known = from_exception(ModelNotFound(LONG))
    assert known is not None
    assert len(known.message) < 300


async def test_a_pod_refuses_what_is_nested_or_long_as_it_does_all_else(serve_app: ServeApp) -> None:
    port = await serve_app(predictor())
    nested = b'{"inputs":[{"name":"X","shape":[1],"data":[1],"datatype":' + b"[" * 900 + b"]" * 900 + b"}]}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        answer = await client.post("/v2/models/m/infer", content=nested)
        assert (answer.status_code, answer.json()) == (400, {"error": "tensor 'X' has the unknown datatype a list"})
        answer = await client.get(f"/v2/models/{LONG[:50_000]}")
        assert (answer.status_code, len(answer.content) < 300) == (404, True)
