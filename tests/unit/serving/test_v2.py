"""The V2 codec: what goes in comes out, bit for bit; what lies is refused by InvalidInput and by nothing else."""

import contextlib
import copy
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kserve import InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

from serving import v2
from serving.errors import InvalidInput, TooLarge

DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def numeric_arrays(*, finite: bool) -> st.SearchStrategy[npt.NDArray[Any]]:
    elements: dict[str, Any] = {"allow_nan": not finite, "allow_infinity": not finite}
    return st.sampled_from(list(DTYPES.values())).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
            elements=arrays.from_dtype(np.dtype(dtype), **(elements if np.dtype(dtype).kind == "f" else {})),
        )
    )


def body_of(message: Any, *, binary: Any = True) -> tuple[bytes, int]:
    parts, length = v2.encode(message, binary)
    return b"".join(parts), length


def head(**changes: Any) -> bytes:
    """A request of one FP32 tensor [2] as JSON; a change replaces a field of the tensor, `request` one of the request."""
    request = changes.pop("request", {})
    tensor = {"name": "X", "shape": [2], "datatype": "FP32", "data": [1, 2], **changes}
    return orjson.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not ...}], **request})


def decode(body: bytes, json_length: int | None = None) -> dict[str, npt.NDArray[Any]]:
    return v2.tensors(v2.decode_request(body, json_length, "m"))


# --- round trips ---


@given(st.dictionaries(st.text(min_size=1, max_size=5), numeric_arrays(finite=False), min_size=1, max_size=3))
def test_binary_tensors_survive_bit_for_bit(given_arrays: dict[str, npt.NDArray[Any]]) -> None:
    back = decode(*body_of(v2.request("m", given_arrays)))
    assert list(back) == list(given_arrays)
    for name, array in given_arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@given(numeric_arrays(finite=True))
def test_json_tensors_survive(array: npt.NDArray[Any]) -> None:
    body, length = body_of(v2.request("m", {"X": array}), binary=False)
    assert length == len(body)
    back = decode(body)["X"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=9), max_size=5), st.booleans())
def test_bytes_tensors_survive_binary(rows: list[bytes], as_matrix: bool) -> None:
    array = v2.bytes_array(rows).reshape((1, -1) if as_matrix else (-1,))
    back = decode(*body_of(v2.request("m", {"X": array})))["X"]
    assert back.shape == array.shape
    assert back.ravel().tolist() == rows


@given(st.lists(st.text(max_size=9), max_size=5))
def test_bytes_tensors_survive_as_json_text(rows: list[str]) -> None:
    array = v2.bytes_array([row.encode() for row in rows])
    body, _ = body_of(v2.request("m", {"X": array}), binary=False)
    assert [row.decode() for row in decode(body)["X"]] == rows


def test_a_response_survives_with_id_parameters_and_mixed_outputs() -> None:
    asked = InferRequest("m", [], request_id="r-7", request_outputs=None)
    volume, text = np.arange(6, dtype=np.float16).reshape(2, 3), v2.bytes_array(["да".encode(), b""])
    answer = v2.response(asked, "m", {"V": volume, "T": text}, {"contract": "x/1"}, {"V": {"labels": "a,b"}})
    body, length = body_of(answer, binary={"V": True})
    described = json.loads(body[:length])
    assert described["outputs"][0]["parameters"] == {"labels": "a,b", "binary_data_size": 12}
    assert described["outputs"][1]["data"] == ["да", ""]
    back = v2.decode_response(body, length)
    assert (back.id, back.model_name, back.parameters) == ("r-7", "m", {"contract": "x/1"})
    np.testing.assert_array_equal(v2.tensors(back)["V"], volume)
    assert v2.tensors(back)["T"].tolist() == ["да".encode(), b""]


def test_arrays_that_are_not_contiguous_are_sent_in_their_order() -> None:
    array = np.arange(24, dtype=np.int16).reshape(4, 6)[::2, ::-3]
    np.testing.assert_array_equal(decode(*body_of(v2.request("m", {"X": array})))["X"], array)


def test_nan_travels_in_json_as_null() -> None:
    body, _ = body_of(v2.request("m", {"X": np.array([np.nan, 1], np.float32)}), binary=False)
    assert json.loads(body)["inputs"][0]["data"] == [None, 1.0]
    np.testing.assert_array_equal(decode(body)["X"], np.array([np.nan, 1], np.float32))


def test_a_number_too_large_for_the_type_becomes_infinite() -> None:
    assert decode(head(data=[1e39, 0]))["X"].tolist() == [np.inf, 0]


def test_no_copy_either_way() -> None:
    array = np.ones(1000, np.float32)
    parts, length = v2.encode(v2.request("m", {"X": array}))
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), array)
    body = b"".join(parts)
    back = decode(body, length)["X"]
    assert np.shares_memory(back, np.frombuffer(body, np.uint8))
    assert not back.flags.writeable


# --- what a request asks for ---


@pytest.mark.parametrize(
    ("parameters", "outputs", "expected"),
    [
        ({}, [], {"A": False, "B": False}),
        ({"binary_data_output": True}, [], {"A": True, "B": True}),
        ({"binary_data_output": False}, [], {"A": False, "B": False}),
        ({"binary_data_output": True}, [("A", {"binary_data": False})], {"A": False, "B": True}),
        ({}, [("B", {"binary_data": True})], {"A": False, "B": True}),
        ({"binary_data_output": True}, [("A", None)], {"A": True, "B": True}),
    ],
)
def test_binary_output_is_chosen_for_all_or_by_output(
    parameters: dict[str, Any], outputs: list[tuple[str, Any]], expected: dict[str, bool]
) -> None:
    wanted = [RequestedOutput(name, extra) for name, extra in outputs]
    request = InferRequest("m", [], parameters=parameters, request_outputs=wanted)
    assert v2.wants_binary(request, ["A", "B"]) == expected


def test_only_the_outputs_asked_for_are_answered_in_their_order() -> None:
    made = {"A": np.zeros(1), "B": np.ones(1)}
    asked = InferRequest("m", [], request_outputs=[RequestedOutput("B"), RequestedOutput("A")])
    assert [output.name for output in v2.response(asked, "m", made).outputs] == ["B", "A"]
    unknown = InferRequest("m", [], request_outputs=[RequestedOutput("C")])
    with pytest.raises(InvalidInput, match="output 'C' is not there, there are: A, B"):
        v2.response(unknown, "m", made)


def test_output_that_is_not_text_must_be_asked_for_as_binary() -> None:
    answer = v2.response(InferRequest("m", []), "m", {"T": v2.bytes_array([b"\xff"])})
    with pytest.raises(InvalidInput, match="ask for it as binary"):
        v2.encode(answer, False)


def test_id_and_parameters_are_read() -> None:
    request = v2.decode_request(head(request={"id": "7", "parameters": {"language": "ru", "n": 2}}), None, "m")
    assert (request.id, v2.parameters(request)) == ("7", {"language": "ru", "n": 2})


# --- what lies ---

BAD_HEADS = {
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not JSON"),
    "empty": (b"", "not JSON"),
    "a list": (b"[]", "must be an object"),
    "a number": (b"1", "must be an object"),
    "null": (b"null", "must be an object"),
    "nested too deep": (b"[" * 100_000, "not JSON"),
    "no inputs": (b"{}", "'inputs' must be a list of at least one tensor"),
    "inputs are no list": (b'{"inputs": {}}', "'inputs' must be a list"),
    "input is no object": (b'{"inputs": [1]}', "needs a 'name'"),
    "no name": (head(name=...), "needs a 'name'"),
    "name is no string": (head(name=1), "needs a 'name'"),
    "no shape": (head(shape=...), "needs a 'shape'"),
    "negative shape": (head(shape=[-2]), "needs a 'shape'"),
    "wildcard shape": (head(shape=[-1]), "needs a 'shape'"),
    "fractional shape": (head(shape=[2.0]), "needs a 'shape'"),
    "boolean shape": (head(shape=[True]), "needs a 'shape'"),
    "text shape": (head(shape=["2"]), "needs a 'shape'"),
    "huge dimension": (head(shape=[2**62]), "needs a 'shape'"),
    "product overflows": (head(shape=[2**32, 2**32]), "FP32"),
    "too many dimensions": (head(shape=[1] * 17), "at most 16"),
    "no datatype": (head(datatype=...), "unknown datatype None"),
    "unknown datatype": (head(datatype="FP8"), "unknown datatype 'FP8'"),
    "datatype is no string": (head(datatype=["FP32"]), "unknown datatype"),
    "no data": (head(data=...), "neither 'data' nor 'binary_data_size'"),
    "data null": (head(data=None), "neither 'data' nor 'binary_data_size'"),
    "too few elements": (head(data=[1]), r"'X' is not FP32 \[2\]"),
    "too many elements": (head(data=[1, 2, 3]), r"'X' is not FP32 \[2\]"),
    "ragged": (head(data=[[1], [2, 3]]), r"'X' is not FP32 \[2\]"),
    "words for numbers": (head(data=["a", "b"]), r"'X' is not FP32 \[2\]"),
    "objects for numbers": (head(data=[{}, {}]), r"'X' is not FP32 \[2\]"),
    "an object for data": (head(data={}), r"'X' is not FP32 \[2\]"),
    "out of range": (head(datatype="INT8", data=[1, 300]), r"'X' is not INT8 \[2\]"),
    "text for integers": (head(datatype="INT32", data=["1", "2"]), r"'X' is not INT32 \[2\]"),
    "fractions for integers": (head(datatype="INT32", data=[1.5, 2]), r"'X' is not INT32 \[2\]"),
    "null for an integer": (head(datatype="INT32", data=[None, 2]), r"'X' is not INT32 \[2\]"),
    "numbers for BYTES": (head(datatype="BYTES"), "BYTES elements are strings"),
    "deep BYTES": (head(datatype="BYTES", data=[[[["a"]]], 1]), "'X' is not BYTES"),
    "many dimensions in data": (
        b'{"inputs":[{"name":"X","shape":[2],"datatype":"FP32","data":' + b"[" * 100 + b"]" * 100 + b"}]}",
        "'X' is not FP32",
    ),
    "tensor parameters no object": (head(parameters=[1]), "'parameters' must be an object"),
    "parameters no object": (head(request={"parameters": "x"}), "'parameters' must be an object"),
    "id no string": (head(request={"id": 7}), "'id' must be a string"),
    "outputs no list": (head(request={"outputs": "A"}), "'outputs' must be a list"),
    "output without name": (head(request={"outputs": [{}]}), "each of 'outputs' needs a 'name'"),
    "output no object": (head(request={"outputs": ["A"]}), "each of 'outputs' needs a 'name'"),
    "output parameters no object": (
        head(request={"outputs": [{"name": "A", "parameters": "x"}]}),
        "'parameters' must be an object",
    ),
    "stray element without binary": (head(parameters={"binary_data_size": 8}), "0 are left in the body"),
    "the same tensor twice": (
        orjson.dumps({"inputs": [{"name": "X", "shape": [1], "datatype": "FP32", "data": [1]}] * 2}),
        "'X' is there twice",
    ),
}


@pytest.mark.parametrize(("body", "message"), BAD_HEADS.values(), ids=BAD_HEADS.keys())
def test_a_json_part_that_is_wrong_is_refused_with_what_was_wrong(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        decode(body)
    assert caught.value.http_status == 400


BAD_BINARY = {
    "too small": ({"shape": [2]}, 4, b"\0" * 4, r"FP32 \[2\] needs 8 bytes, binary_data_size says 4"),
    "too big": ({"shape": [2]}, 12, b"\0" * 12, r"FP32 \[2\] needs 8 bytes, binary_data_size says 12"),
    "more than there is": ({"shape": [2]}, 8, b"\0" * 4, "says 8 binary bytes, 4 are left"),
    "far more than there is": ({"shape": [2**20, 2**19]}, 2**41, b"\0" * 4, "4 are left in the body"),
    "negative": ({"shape": [2]}, -8, b"\0" * 8, "says -8 binary bytes"),
    "a fraction": ({"shape": [2]}, 8.0, b"\0" * 8, "must be a whole number"),
    "more digits than an integer has": ({"shape": [2]}, 1e300, b"\0" * 8, "must be a whole number"),
    "true": ({"shape": [1], "datatype": "BOOL"}, True, b"\0", "must be a whole number"),
    "text": ({"shape": [2]}, "8", b"\0" * 8, "must be a whole number"),
    "trailing bytes": ({"shape": [2]}, 8, b"\0" * 9, "1 bytes that no tensor's binary_data_size covers"),
    "overflow": ({"shape": [2**32, 2**32, 4]}, 0, b"", "binary_data_size says 0"),
    "BYTES with a stray byte": ({"datatype": "BYTES", "shape": [1]}, 6, b"\1\0\0\0aX", "1 stray bytes at its end"),
    "BYTES element too long": ({"datatype": "BYTES", "shape": [1]}, 5, b"\xff\xff\xff\xffa", "says 4294967295 bytes"),
    "BYTES is read no further than one more": (
        {"datatype": "BYTES", "shape": [2]},
        16,
        b"\0" * 12 + b"\xff" * 4,
        "hold more than 2 elements",
    ),
    "BYTES of another count": ({"datatype": "BYTES", "shape": [3]}, 5, b"\1\0\0\0a", "'X' is not BYTES"),
}


@pytest.mark.parametrize(("tensor", "size", "tail", "message"), BAD_BINARY.values(), ids=BAD_BINARY.keys())
def test_a_binary_part_that_lies_is_refused(tensor: dict[str, Any], size: Any, tail: bytes, message: str) -> None:
    text = head(**{"data": ..., **tensor, "parameters": {"binary_data_size": size}})
    with pytest.raises(InvalidInput, match=message):
        decode(text + tail, len(text))


@pytest.mark.parametrize("counts", [[v2.MAX_ELEMENTS + 1], [v2.MAX_ELEMENTS - 1, 2]])
def test_the_elements_of_all_bytes_tensors_are_limited(counts: list[int]) -> None:
    tensors = {str(index): v2.bytes_array([b""] * count) for index, count in enumerate(counts)}
    with pytest.raises(TooLarge, match=f"the BYTES tensors of a message may have {v2.MAX_ELEMENTS} together") as caught:
        decode(*body_of(v2.request("m", tensors)))
    assert caught.value.code == "too_many_items"
    assert (
        len(decode(*body_of(v2.request("m", {"X": v2.bytes_array([b""] * v2.MAX_ELEMENTS)})))["X"]) == v2.MAX_ELEMENTS
    )


@pytest.mark.parametrize("length", [-1, 10**6, 3])
def test_a_json_length_that_lies_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match=r"Inference-Header-Content-Length|not JSON"):
        decode(head(), length)


@pytest.mark.parametrize(("shape", "datatype"), [([-1], "FP32"), ([3], "FP32"), ([2, 2**62], "FP32"), ([1], "FP8")])
def test_what_grpc_brings_is_checked_too(shape: list[int], datatype: str) -> None:
    """KServe's servicer builds the request, so `decode_request` has not seen it."""
    tensor = InferInput("X", shape, datatype)
    tensor._raw_data = struct.pack("<2f", 1, 2)
    with pytest.raises(InvalidInput, match="'X'"):
        v2.tensors(InferRequest("m", [tensor]))


# --- fuzz ---

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
scalars: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2, 1.5, 2**31, 2**64, 1e300, "", "A", [], {}, [-1], [2, 2], [2**40, 0]]
)
VALID = {
    "id": "1",
    "parameters": {"contract": "x/1", "binary_data_output": True},
    "inputs": [
        {"name": "X", "shape": [2], "datatype": "INT16", "data": [1, 2]},
        {"name": "Y", "shape": [1, 8], "datatype": "UINT8", "parameters": {"binary_data_size": 8}},
    ],
    "outputs": [{"name": "A", "parameters": {"binary_data": True}}],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in inner for found in places(child, (*path, key)))]


@st.composite
def nearly_valid(draw: st.DrawFn) -> Any:
    """A valid request with one to three of its values, at any depth, replaced."""
    document = copy.deepcopy(VALID)
    for path in draw(st.lists(st.sampled_from(places(VALID)[1:]), min_size=1, max_size=3, unique=True)):
        holder: Any = document
        try:
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = copy.deepcopy(draw(scalars | json_values))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier replacement has cut this place off
    return document


def _read_all(body: bytes, json_length: int | None) -> None:
    """Everything a route does with a request before the model sees it."""
    request = v2.decode_request(body, json_length, "m")
    made = v2.tensors(request)
    assert all(array.size <= len(body) for array in made.values())
    v2.parameters(request)
    v2.wants_binary(request, ["A"])


@given(nearly_valid(), st.binary(min_size=8, max_size=8))
def test_fuzzed_requests_are_read_or_refused_as_invalid_input(request: dict[str, Any], tail: bytes) -> None:
    text = json.dumps(request).encode()
    for body, length in ((text, None), (text + tail, len(text))):
        with contextlib.suppress(InvalidInput):
            _read_all(body, length)


@given(st.binary(max_size=64), st.none() | st.integers(-5, 80))
def test_fuzzed_bytes_are_refused_as_invalid_input(body: bytes, length: int | None) -> None:
    with pytest.raises(InvalidInput):
        _read_all(body, length)


@given(nearly_valid(), st.binary(min_size=8, max_size=8))
def test_fuzzed_responses_are_read_or_refused_as_invalid_input(answer: dict[str, Any], tail: bytes) -> None:
    text = json.dumps({"outputs" if key == "inputs" else key: value for key, value in answer.items()}).encode()
    with contextlib.suppress(InvalidInput):
        made = v2.tensors(v2.decode_response(text + tail, len(text)))
        assert sum(array.size for array in made.values()) <= len(text + tail)
