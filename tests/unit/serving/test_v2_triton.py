"""The codec against the stock V2 client: what `tritonclient.http` writes is read, and what we write it reads."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kserve import InferRequest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving import v2

ARRAYS: dict[str, npt.NDArray[Any]] = {
    "BOOL": np.array([[True, False]]),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15)], np.int16),
    "INT32": np.zeros((2, 0, 3), np.int32),
    "INT64": np.array([2**63 - 1]),
    "UINT8": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "UINT16": np.array([65535], np.uint16),
    "UINT32": np.array([2**32 - 1], np.uint32),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([[0.1, -65504.0]], np.float16),
    "FP32": np.array([0.1, -1e38], np.float32),
    "FP64": np.array([0.1, 1e300]),
    "BYTES": np.array([b"", b"a\0b", "да".encode()], np.object_),
}


def written(inputs: list[InferInput], **options: Any) -> InferRequest:
    body, length = InferenceServerClient.generate_request_body(inputs, **options)
    return v2.decode_request(body, length, "m")


def tensor(name: str, array: npt.NDArray[Any], *, binary: bool) -> InferInput:
    made = InferInput(name, list(array.shape), name)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()


WAYS = [(name, binary) for name in ARRAYS for binary in (True, False)]


@pytest.mark.parametrize(("datatype", "binary"), [way for way in WAYS if way != ("FP16", False)])
def test_tensors_of_the_stock_client_are_read(datatype: str, binary: bool) -> None:
    """All but FP16 as JSON, which the client itself does not send."""
    array = ARRAYS[datatype]
    read = v2.tensors(written([tensor(datatype, array, binary=binary)]))[datatype]
    assert same(read, array)


def test_json_and_binary_tensors_of_one_request_keep_their_order() -> None:
    names = ["FP16", "INT64", "BYTES", "UINT8", "BOOL"]
    mixed = [tensor(name, ARRAYS[name], binary=index % 2 == 0) for index, name in enumerate(names)]
    read = v2.tensors(written(mixed))
    assert list(read) == names
    assert all(same(read[name], ARRAYS[name]) for name in names)


def test_id_parameters_and_the_choice_of_outputs_are_read() -> None:
    outputs = [InferRequestedOutput("A", binary_data=True), InferRequestedOutput("B", binary_data=False)]
    read = written(
        [tensor("INT8", ARRAYS["INT8"], binary=True)],
        outputs=outputs,
        request_id="r-1",
        parameters={"language": "ru", "beam_size": 5, "vad": True, "temperature": 0.5},
    )
    assert read.id == "r-1"
    assert v2.parameters(read) == {"language": "ru", "beam_size": 5, "vad": True, "temperature": 0.5}
    assert v2.wants_binary(read, ["A", "B"]) == {"A": True, "B": False}


def test_a_client_that_names_no_outputs_asks_for_binary() -> None:
    assert v2.wants_binary(written([tensor("INT8", ARRAYS["INT8"], binary=True)]), ["A"]) == {"A": True}


@pytest.mark.parametrize(("datatype", "binary"), WAYS)
def test_the_stock_client_reads_our_tensors(datatype: str, binary: bool) -> None:
    array = ARRAYS[datatype]
    if datatype == "BYTES" and not binary:
        array = np.array([b"text", "да".encode()], np.object_)
    answer = v2.response(InferRequest("m", [], request_id="r-2"), "m", {"X": array}, {"contract": "x/1"})
    parts, length = v2.encode(answer, binary)
    result = InferResult.from_response_body(b"".join(parts), header_length=length if binary else None)
    assert result.get_response()["id"] == "r-2"
    assert result.get_response()["parameters"] == {"contract": "x/1"}
    assert same(result.as_numpy("X"), array) or datatype == "BYTES"
    if datatype == "BYTES":  # the client gives `str` for a JSON tensor, `bytes` for a binary one
        read = [row if binary else row.encode() for row in result.as_numpy("X").tolist()]
        assert read == array.tolist()
