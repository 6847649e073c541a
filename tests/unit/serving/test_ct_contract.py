"""The contract ct/1: both sides of the hop read what the other wrote, and refuse by name what does not keep it."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve import InferRequest, InferResponse

from serving import v2
from serving.contracts import ct
from serving.contracts.ct import CtInput, CtOptions, CtResult, Risk, Scores, Shares
from serving.errors import InvalidInput, ServingError, TooLarge

VOLUME = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
NAMES = ["Lung nodule", "Плевральный выпот"]


def over_the_wire(request: InferRequest) -> InferRequest:
    parts, length = v2.encode(request)
    return v2.decode_request(b"".join(parts), length, "m")


def answer_over_the_wire(response: InferResponse) -> InferResponse:
    parts, length = v2.encode(response)
    return v2.decode_response(b"".join(parts), length)


heads = st.lists(st.sampled_from([*ct.HEADS, ct.RISK]), unique=True, max_size=3)
prompts = st.lists(st.text(min_size=1, max_size=9).filter(str.strip), max_size=3)


@given(heads, prompts, st.booleans())
def test_a_volume_and_what_is_asked_of_it_cross_the_hop_unchanged(
    wanted: list[str], own: list[str], explain: bool
) -> None:
    sent = CtInput(VOLUME, CtOptions(heads=",".join(wanted), explain=explain), tuple(own))
    (back,) = ct.read_request(over_the_wire(ct.write_request([sent], "m")))
    np.testing.assert_array_equal(back.volume, VOLUME)
    assert (back.options, back.prompts) == (sent.options, sent.prompts)
    assert back.options.wanted == frozenset(wanted)


def scores(*values: float) -> Scores:
    return Scores(NAMES[: len(values)], np.array(values, np.float32))


RESULT = CtResult(
    {"supervised": scores(0.25, 0.5), "prompts": scores(0.125)},
    {"bundle": "1", "absent": ["vocabfine"], "threshold": 0.4},
    Risk(0.75, 0.4, pathology=True, most_dangerous=NAMES[1], shap=scores(2.0, -0.5)),
    Shares.of(NAMES, np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)),
)


def test_a_result_crosses_the_hop_unchanged() -> None:
    response = ct.write_response([RESULT], InferRequest("m", []), "m")
    (back,) = ct.read_response(answer_over_the_wire(response))
    assert {head: each.as_dict() for head, each in back.scores.items()} == {
        "supervised": {NAMES[0]: 0.25, NAMES[1]: 0.5},
        "prompts": {NAMES[0]: 0.125},
    }
    assert back.model == RESULT.model
    assert back.risk is not None
    assert (back.risk.probability, back.risk.threshold, back.risk.pathology) == (0.75, 0.4, True)
    assert back.risk.most_dangerous == NAMES[1]
    assert list(back.risk.shap.as_dict().items()) == [(NAMES[0], 2.0), (NAMES[1], -0.5)]
    assert back.shares is not None
    assert back.shares.labels == NAMES
    np.testing.assert_array_equal(back.shares.values, RESULT.shares and RESULT.shares.values)


def test_what_was_not_asked_for_is_absent() -> None:
    little = CtResult({"zero_shot": scores(0.5)}, {})
    response = ct.write_response([little], InferRequest("m", []), "m")
    assert [output.name for output in response.outputs] == ["ZERO_SHOT"]
    (back,) = ct.read_response(answer_over_the_wire(response))
    assert (back.risk, back.shares) == (None, None)


def test_a_transformer_adds_outputs_of_its_own() -> None:
    more = {"INPUT": v2.bytes_array([b"{}"])}
    response = ct.write_response([RESULT], InferRequest("m", []), "m", more)
    assert v2.tensors(answer_over_the_wire(response))["INPUT"].tolist() == [b"{}"]


def test_every_output_is_described() -> None:
    response = ct.write_response([RESULT], InferRequest("m", []), "m")
    described = {output["name"]: output for output in ct.output_types()}
    for output in response.outputs:
        assert described[output.name]["datatype"] == output.datatype
        assert len(described[output.name]["shape"]) == len(output.shape)


def request(arrays: dict[str, Any], **parameters: Any) -> InferRequest:
    return over_the_wire(v2.request("m", arrays, parameters))


ONE = VOLUME[None]
REFUSED = {
    "no volume": ({"PROMPTS": v2.bytes_array([b"x"])}, {}, "input 'VOLUME' is needed"),
    "float64": ({"VOLUME": ONE.astype(np.float64)}, {}, "input 'VOLUME' is needed: FP32"),
    "three dimensions": ({"VOLUME": VOLUME}, {}, r"of shape \[1, D, H, W\]"),
    "two volumes": ({"VOLUME": np.concatenate([ONE, ONE])}, {}, r"of shape \[1, D, H, W\]"),
    "Hounsfield units": ({"VOLUME": ONE * 1000}, {}, r"HU / 1000 in \[-1, 1\], it goes from -1000 to 1000"),
    "NaN": ({"VOLUME": ONE * np.nan}, {}, "it goes from nan to nan"),
    "prompts are numbers": ({"VOLUME": ONE, "PROMPTS": np.zeros(2, np.float32)}, {}, "'PROMPTS' must be BYTES"),
    "prompts of two axes": ({"VOLUME": ONE, "PROMPTS": v2.bytes_array([b"a"])[None]}, {}, r"of shape \[P\]"),
    "prompts in Latin-1": ({"VOLUME": ONE, "PROMPTS": v2.bytes_array([b"\xe9"])}, {}, "'PROMPTS' must be UTF-8"),
    "an empty prompt": ({"VOLUME": ONE, "PROMPTS": v2.bytes_array([b" "])}, {}, "texts that are not empty"),
    "another contract": ({"VOLUME": ONE}, {"contract": "ct/2"}, "speaks 'ct/1'"),
    "another head": ({"VOLUME": ONE}, {"heads": "risk,lungs"}, "'lungs' is no head, there are: zero_shot, .*, risk"),
    "explain": ({"VOLUME": ONE}, {"explain": "perhaps"}, "parameter 'explain'"),
}


@pytest.mark.parametrize(("arrays", "parameters", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_requests_that_do_not_keep_the_contract_are_refused_by_name(
    arrays: dict[str, Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        ct.read_request(request(arrays, **parameters))


@pytest.mark.parametrize("own", [["x"] * (ct.MAX_PROMPTS + 1), ["x" * (ct.MAX_PROMPT + 1)]], ids=["many", "long"])
def test_prompts_have_limits(own: list[str]) -> None:
    with pytest.raises(TooLarge, match=f"at most {ct.MAX_PROMPTS} prompts of {ct.MAX_PROMPT} characters") as caught:
        ct.check_prompts(own, "instances[3].prompts")
    assert caught.value.param == "instances[3].prompts"


def v1_volume(volume: np.ndarray, **more: Any) -> dict[str, Any]:
    text = base64.b64encode(volume.astype("<f4").tobytes()).decode()
    return {"volume": {"b64": text, "shape": list(volume.shape)}, **more}


def test_volumes_of_v1() -> None:
    body = {"instances": [v1_volume(VOLUME, prompts=["a"]), v1_volume(-VOLUME)], "parameters": {"heads": "prompts"}}
    first, second = ct.read_v1(body)
    np.testing.assert_array_equal(first.volume, VOLUME)
    np.testing.assert_array_equal(second.volume, -VOLUME)
    assert (first.prompts, second.prompts) == (("a",), ())
    assert first.options == second.options == CtOptions(heads="prompts")


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ("text", "it is missing"),
        ({"volume": {"b64": 7}}, "it is missing"),
        ({"volume": {"b64": "AAAA", "shape": [1, 1]}}, "three whole numbers"),
        ({"volume": {"b64": "AAAA", "shape": [1, 1, -1]}}, "three whole numbers"),
        ({"volume": {"b64": "AAAA", "shape": 3}}, "has no len"),
        ({"volume": {"b64": "AAAA", "shape": [1, 1, 1]}}, "buffer size"),
        ({"volume": {"b64": "AAAAAA==", "shape": [1, 1, 2]}}, "cannot reshape"),
        (v1_volume(VOLUME * 9), "it goes from -9 to 9"),
        (v1_volume(VOLUME, prompts="all"), "texts that are not empty"),
    ],
)
def test_volumes_of_v1_that_are_refused(instance: Any, message: str) -> None:
    with pytest.raises(ServingError, match=message) as caught:
        ct.read_v1({"instances": [v1_volume(VOLUME), instance]})
    assert str(caught.value.param).startswith("instances[1].")


def test_the_answer_of_v1() -> None:
    (prediction,) = ct.write_v1([RESULT])["predictions"]
    assert prediction == {
        "supervised": {NAMES[0]: 0.25, NAMES[1]: 0.5},
        "prompts": {NAMES[0]: 0.125},
        "risk": {
            "probability": 0.75,
            "threshold": 0.4,
            "pathology": True,
            "most_dangerous": NAMES[1],
            "shap": {NAMES[0]: 2.0, NAMES[1]: -0.5},
        },
        "model": RESULT.model,
    }


def broken(name: str, values: np.ndarray) -> InferResponse:
    """A response whose output `name` has other values than its labels say."""
    response = ct.write_response([RESULT], InferRequest("m", []), "m")
    arrays = {**v2.tensors(response), name: values}
    extra = {output.name: output.parameters or {} for output in response.outputs}
    return v2.response(InferRequest("m", []), "m", arrays, response.parameters, extra)


@pytest.mark.parametrize(
    "response",
    [
        broken("SUPERVISED", np.zeros((1, 3), np.float32)),
        broken("SUPERVISED", np.zeros(2, np.float32)),
        broken("SHAP", np.zeros((1, 2))),
    ],
    ids=["columns", "rank", "type"],
)
def test_an_answer_that_does_not_keep_the_contract_is_no_fault_of_the_clients(response: InferResponse) -> None:
    with pytest.raises(ValueError, match="labels for"):
        ct.read_response(answer_over_the_wire(response))


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (packed(shares=np.zeros((3, 2, 3, 4), np.float32)), "2 labels for shares of shape"),
        (packed(shares=np.zeros((2, 3, 4), np.float32)), "2 labels for shares of shape"),
        (packed(shares=np.zeros((2, 2, 3, 4))), "2 labels for shares"),
        (packed(other=np.zeros((2, 2, 3, 4), np.float32)), "no compressed shares"),
        (packed(shares=np.zeros((2, 2, 3, 4), np.float32))[:-30], "no compressed shares"),
        (packed(shares=np.array([{}])), "allow_pickle"),
        (b"", "no compressed shares"),
        (b"PK", "."),
    ],
    ids=["findings", "axes", "type", "name", "cut off", "pickle", "empty", "no archive"],
)
def test_shares_that_are_none_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _ = Shares(NAMES, data).values


def test_shares_of_a_volume_are_compressed() -> None:
    """Air has the same tokens everywhere; the same numbers make the same bytes."""
    values = np.zeros((18, 24, 24, 24), np.float32)
    assert len(Shares.of(NAMES * 9, values).packed) < values.nbytes / 100
    assert Shares.of(NAMES * 9, values).packed == Shares.of(NAMES * 9, values).packed


@pytest.mark.parametrize("values", [np.zeros((1, 2, 2, 3, 4), np.float32), v2.bytes_array([b"a", b"b"])])
def test_an_explanation_that_is_no_piece_of_bytes_is_no_fault_of_the_clients(values: v2.Array) -> None:
    with pytest.raises(ValueError, match="one piece of bytes"):
        ct.read_response(answer_over_the_wire(broken("EXPLAIN", values)))
