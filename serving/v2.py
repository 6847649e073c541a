"""The V2 inference protocol with binary tensors, both ways, without copies.

KServe's own codec turns a binary tensor into a Python list, element by element (20 s for 200 MB, on the event loop).
Here a tensor stays a view of the received body, `InferInput._raw_data`, and goes out as the array's own memory.

Not here: the HTTP routes (`serving.routes`) and the client (`serving.hop`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters
from kserve.utils.numpy_codec import from_np_dtype, to_np_dtype

from serving import NAME, VERSION
from serving.errors import InvalidInput, TooLarge, shortened, shown

JSON_LENGTH = "inference-header-content-length"
"""Length of the JSON part of a body whose tensors follow it; the binary-tensor extension's header."""

MAX_RANK = 16
"""Dimensions of a tensor. Protocol-bound: it bounds what a shape alone can cost; contracts have four at most."""
MAX_ELEMENTS = 65_536
"""Elements of the BYTES tensors of one message, all together. Protocol-bound, as each becomes a Python object, and an
empty one takes four bytes; contracts have 4096 rows at most, a request's files are counted by MAX_INSTANCES."""
EXTENSIONS = ("binary_tensor_data", "parameters")
"""Extensions of the protocol that are served, by the names that Triton gave them; for REST and gRPC alike."""
Array = npt.NDArray[Any]
Body = bytes | bytearray | memoryview


def server_metadata() -> dict[str, Any]:
    """What a server says about itself: name, version and extensions."""
    return {"name": NAME, "version": VERSION, "extensions": list(EXTENSIONS)}


# --- arrays of a request or response ---------------------------------------------------------------------------------


def tensors(message: InferRequest | InferResponse) -> dict[str, Array]:
    """Arrays by tensor name. Binary tensors are read-only views; BYTES become arrays of `bytes` objects.

    Raises:
        InvalidInput: a tensor's data does not have its shape or type.
        TooLarge: the BYTES tensors have too many elements.
    """
    items = message.inputs if isinstance(message, InferRequest) else message.outputs
    arrays: dict[str, Array] = {}
    left = MAX_ELEMENTS
    for item in items:
        if item.name in arrays:
            raise InvalidInput(f"tensor {shown(item.name)} is there twice", param=item.name)
        arrays[item.name] = array = _array(item, left)
        left -= array.size if array.dtype == np.object_ else 0
    return arrays


def parameters(message: InferRequest | InferResponse) -> dict[str, Any]:
    """The message's parameters as plain values, whether it came over REST or gRPC."""
    return dict(to_http_parameters(message.parameters)) if message.parameters else {}


def _array(item: InferInput | InferOutput, most: int = MAX_ELEMENTS) -> Array:
    """A tensor's array. Raises InvalidInput; TooLarge for BYTES of more than `most` elements."""
    # Shape and type are checked here too: a request by gRPC has not come through `decode_request`.
    name, shape, dtype = item.name, list(item.shape), _dtype(item.name, item.datatype)
    _check_shape(name, shape)
    raw = item._raw_data  # noqa: SLF001  # KServe has no other way to reach the bytes without a copy
    count = math.prod(shape)
    if item.datatype == "BYTES" and count > most:
        raise TooLarge(
            f"tensor {shown(name)} has {count} elements; the BYTES tensors of a message may have {MAX_ELEMENTS} together",
            code="too_many_items",
            param=name,
        )
    try:
        if item.datatype == "BYTES":
            flat = _read_bytes(raw, count) if raw is not None else _encode_strings(item.data)
        else:
            flat = np.frombuffer(raw, dtype) if raw is not None else _read_numbers(item.data, dtype)
        return flat.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(
            f"tensor {shown(name)} is not {item.datatype} {shape}: {shortened(str(error), 200)}", param=name
        ) from None


def _read_numbers(data: Any, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what is too large for a float becomes infinite; contracts refuse that
        array = np.asarray(data, dtype)
    if np.issubdtype(dtype, np.integer) and not np.array_equal(array, np.asarray(data)):
        raise TypeError("its elements must be whole numbers")  # NumPy would cut their fractions off
    return array


def _read_bytes(raw: Body, count: int) -> Array:
    """Elements of a serialised BYTES tensor: each is a little-endian u32 length and that many bytes.

    Raises ValueError, for more than `count` as soon as there is one more.
    """
    found: list[bytes] = []
    view, start = memoryview(raw), 0
    while start < len(view):
        end = start + 4
        if end > len(view):
            raise ValueError(f"{len(view) - start} stray bytes at its end")
        size = int.from_bytes(view[start:end], "little")
        start, end = end, end + size
        if end > len(view):
            raise ValueError(f"an element says {size} bytes, {len(view) - start} are left")
        if len(found) == count:
            raise ValueError(f"its data hold more than {count} elements")
        found.append(bytes(view[start:end]))
        start = end
    return bytes_array(found)


def _encode_strings(data: Any) -> Array:
    flat = np.asarray(data, dtype=np.object_).ravel() if data is not None else np.empty(0, np.object_)
    for element in flat:
        if not isinstance(element, str | bytes):
            raise TypeError(f"BYTES elements are strings, got {type(element).__name__}")
    return bytes_array([element.encode() if isinstance(element, str) else element for element in flat])


def bytes_array(rows: Sequence[bytes]) -> Array:
    """A BYTES tensor [N] of `rows`. `np.array(rows)` would strip trailing zeros."""
    array = np.empty(len(rows), np.object_)
    array[:] = rows
    return array


# --- building messages -----------------------------------------------------------------------------------------------


def request(model_name: str, arrays: Mapping[str, Array], parameters: Mapping[str, Any] | None = None) -> InferRequest:
    """A request with binary inputs that asks for binary outputs; the arrays are not copied when contiguous."""
    inputs = []
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype == np.object_ else from_np_dtype(array.dtype)
        item = InferInput(name, list(array.shape), datatype)
        item._raw_data = _raw(array)  # noqa: SLF001
        inputs.append(item)
    return InferRequest(model_name, inputs, parameters={**(parameters or {}), "binary_data_output": True})


def response(
    request: InferRequest,
    model_name: str,
    arrays: Mapping[str, Array],
    parameters: Mapping[str, Any] | None = None,
    output_parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> InferResponse:
    """A response to `request` with those of `arrays` that it asks for (all, if it names none).

    Raises:
        InvalidInput: the request asks for an output that is not there.
    """
    wanted = [output.name for output in request.request_outputs or []] or list(arrays)
    if len(set(wanted)) != len(wanted):
        raise InvalidInput("an output is asked for twice", param="outputs")
    for name in wanted:
        if name not in arrays:
            raise InvalidInput(f"output {shown(name)} is not there, there are: {', '.join(arrays)}", param="outputs")
    outputs = []
    for name in wanted:
        array = arrays[name]
        datatype = "BYTES" if array.dtype == np.object_ else from_np_dtype(array.dtype)
        extra = dict((output_parameters or {}).get(name, {}))
        item = InferOutput(name, list(array.shape), datatype, parameters=extra or None)
        raw = _raw(array)
        item._raw_data = bytes(raw) if request.from_grpc else raw  # noqa: SLF001  # protobuf takes nothing but bytes
        outputs.append(item)
    return InferResponse(request.id or "", model_name, outputs, parameters=dict(parameters or {}) or None)


def _raw(array: Array) -> Body:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""
    return b"".join(part for row in array.ravel() for part in (len(row).to_bytes(4, "little"), row))


# --- on the wire -----------------------------------------------------------------------------------------------------


def decode_request(body: Body, json_length: int | None, model_name: str) -> InferRequest:
    """A request as it came over HTTP. `json_length` is the header's value, None where there was none.

    Raises:
        InvalidInput: with what is wrong with the header, the JSON or a tensor's size.
    """
    head, tail = _split(body, json_length)
    items = head.get("inputs")
    if not isinstance(items, list) or not items:
        raise InvalidInput("'inputs' must be a list of at least one tensor", param="inputs")
    inputs = []
    for item in items:  # no comprehension: its closure over `tail` would hold a refused body
        inputs.append(_read_tensor(item, tail, InferInput))  # noqa: PERF401
    tail.finish()
    wanted = []
    for output in _list(head, "outputs"):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise InvalidInput("each of 'outputs' needs a 'name'", param="outputs")
        wanted.append(RequestedOutput(output["name"], _mapping(output, "parameters")))
    return InferRequest(
        model_name,
        inputs,
        request_id=_text(head, "id"),
        parameters=_mapping(head, "parameters"),
        request_outputs=wanted or None,
    )


def decode_response(body: Body, json_length: int | None) -> InferResponse:
    """A response as it came over HTTP. Raises InvalidInput when it is not one."""
    head, tail = _split(body, json_length)
    outputs = [_read_tensor(item, tail, InferOutput) for item in _list(head, "outputs")]
    tail.finish()
    return InferResponse(
        _text(head, "id") or "", _text(head, "model_name") or "", outputs, parameters=_mapping(head, "parameters")
    )


def encode(message: InferRequest | InferResponse, binary: Mapping[str, bool] | bool = True) -> tuple[list[Body], int]:
    """The parts of a body (JSON, then each binary tensor) and the length of the JSON part.

    Args:
        message: a request or response built by this module.
        binary: whether a tensor goes as binary, for all or by name. With none binary there is one part, plain JSON.
    """
    is_request = isinstance(message, InferRequest)
    items = message.inputs if is_request else message.outputs
    described, tail = [], []
    for item in items:
        parameters = dict(item.parameters or {})
        entry: dict[str, Any] = {"name": item.name, "shape": list(item.shape), "datatype": item.datatype}
        if binary if isinstance(binary, bool) else binary.get(item.name, False):
            raw = item._raw_data  # noqa: SLF001
            parameters["binary_data_size"] = len(raw)
            tail.append(raw)
        else:
            entry["data"] = _json_data(item)
        if parameters:
            entry["parameters"] = parameters
        described.append(entry)
    head: dict[str, Any] = {"inputs" if is_request else "outputs": described}
    if message.id:
        head["id"] = message.id
    if not is_request:
        head["model_name"] = message.model_name
        head["model_version"] = None
    if message.parameters:
        head["parameters"] = dict(message.parameters)
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return [text, *tail], len(text)


def wants_binary(request: InferRequest, names: Sequence[str]) -> dict[str, bool]:
    """Which outputs the client wants as binary: each one's `binary_data`, else the request's `binary_data_output`.

    Raises:
        InvalidInput: one of them is no boolean.
    """
    everywhere = _flag(request.parameters or {}, "binary_data_output", default=False)
    chosen = dict.fromkeys(names, everywhere)
    for output in request.request_outputs or []:
        chosen[output.name] = _flag(output.parameters or {}, "binary_data", default=everywhere)
    return chosen


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} must be true or false", param=name)
    return value


def _json_data(item: InferInput | InferOutput) -> Any:
    array = _array(item).ravel()
    if item.datatype != "BYTES":
        return np.ascontiguousarray(array) if array.dtype != np.float16 else array.astype(np.float32)
    try:
        return [row.decode() for row in array]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"output {shown(item.name)} is not text: ask for it as binary (parameters.binary_data = true)",
            param="outputs",
        ) from None


class _Tail:
    """The bytes behind the JSON part, handed out in order."""

    def __init__(self, view: memoryview):
        self._view = view
        self._start = 0

    def take(self, name: str, size: int) -> memoryview:
        left = len(self._view) - self._start
        if not 0 <= size <= left:
            raise InvalidInput(
                f"tensor {shown(name)} says {size} binary bytes, {left} are left in the body", param=name
            )
        part = self._view[self._start : self._start + size]
        self._start += size
        return part

    def finish(self) -> None:
        if self._start != len(self._view):
            raise InvalidInput(
                f"the body has {len(self._view) - self._start} bytes that no tensor's binary_data_size covers"
            )


def _split(body: Body, json_length: int | None) -> tuple[dict[str, Any], _Tail]:
    view = memoryview(body)
    length = len(view) if json_length is None else json_length
    if not 0 <= length <= len(view):
        raise InvalidInput(f"Inference-Header-Content-Length is {length}, the body has {len(view)} bytes")
    try:
        head = orjson.loads(view[:length])
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the JSON part is not JSON: {error}") from None
    if not isinstance(head, dict):
        raise InvalidInput("the JSON part must be an object")
    return head, _Tail(view[length:])


def _read_tensor(item: Any, tail: _Tail, cls: type[InferInput] | type[InferOutput]) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise InvalidInput("each tensor needs a 'name'", param="inputs")
    name, shape, datatype = item["name"], item.get("shape"), item.get("datatype")
    _check_shape(name, shape)
    dtype = _dtype(name, datatype)
    parameters = _mapping(item, "parameters") or {}
    size = parameters.pop("binary_data_size", None)
    tensor = cls(name, shape, datatype, data=item.get("data"), parameters=parameters or None)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise InvalidInput(f"tensor {shown(name)}: binary_data_size must be a whole number", param=name)
        tensor._raw_data = tail.take(name, size)
    elif item.get("data") is None:
        raise InvalidInput(f"tensor {shown(name)} has neither 'data' nor 'binary_data_size'", param=name)
    if size is not None and datatype != "BYTES":
        needed = math.prod(shape or []) * dtype.itemsize
        if needed != size:
            raise InvalidInput(
                f"tensor {shown(name)} of {datatype} {shape} needs {needed} bytes, binary_data_size says {size}",
                param=name,
            )
    return tensor


def _dtype(name: str, datatype: Any) -> np.dtype[Any]:
    known = to_np_dtype(datatype) if isinstance(datatype, str) else None
    if known is None:
        raise InvalidInput(f"tensor {shown(name)} has the unknown datatype {shown(datatype)}", param=name)
    dtype: np.dtype[Any] = np.dtype(known)
    return dtype


def _check_shape(name: str, shape: Any) -> None:
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in shape)
    ):
        raise InvalidInput(
            f"tensor {shown(name)} needs a 'shape': a list of at most {MAX_RANK} whole numbers", param=name
        )


def _list(head: dict[str, Any], key: str) -> Iterator[Any]:
    value = head.get(key) or []
    if not isinstance(value, list):
        raise InvalidInput(f"{key!r} must be a list", param=key)
    return iter(value)


def _mapping(head: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = head.get(key)
    if value is not None and not isinstance(value, dict):
        raise InvalidInput(f"{key!r} must be an object", param=key)
    return value


def _text(head: dict[str, Any], key: str) -> str | None:
    value = head.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{key!r} must be a string", param=key)
    return value
