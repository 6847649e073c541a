"""Tensors of a Hugging Face folder as NumPy arrays: safetensors, or the older `pytorch_model.bin`, read without torch.

That file is a zip with a pickle that says names, types and shapes, and a file of raw numbers for each storage. The
pickle may name torch's own functions for tensors and nothing else, so a file cannot run code here.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"

_STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}


def tensors(folder: Path) -> dict[str, Array]:
    """Every tensor by its name. Raises ValueError for what cannot be read."""
    if (folder / SAFETENSORS).is_file():
        from safetensors import SafetensorError  # noqa: PLC0415  # only this layout needs it
        from safetensors.numpy import load_file  # noqa: PLC0415

        try:
            return dict(load_file(folder / SAFETENSORS))
        except (SafetensorError, KeyError, TypeError) as error:  # NumPy has no bfloat16
            raise ValueError(f"{folder / SAFETENSORS} cannot be read as float32 or float16 tensors: {error}") from None
    try:
        with zipfile.ZipFile(folder / PICKLED) as archive:
            return _pickled(archive)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / PICKLED} is no checkpoint of tensors by torch 1.6 or later: {error}") from None


def _pickled(archive: zipfile.ZipFile) -> dict[str, Array]:
    index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if index is None:
        raise pickle.UnpicklingError("it has no data.pkl")
    top = index.removesuffix("data.pkl")

    @cache  # several tensors may lie in one: tied ones, or all
    def storage(key: str, kind: str) -> Array:
        return np.frombuffer(archive.read(f"{top}data/{key}"), _STORAGES[kind])

    with archive.open(index) as file:
        state = _Unpickler(file, storage).load()
    if not isinstance(state, dict):
        raise pickle.UnpicklingError(f"it holds a {type(state).__name__}, not tensors by their names")
    return {name: value for name, value in state.items() if isinstance(value, np.ndarray)}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storage: Callable[[str, str], Array]):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Array:
        _, kind, key, *_ = pid
        return self._storage(key, kind)


def _tensor(storage: Array, offset: int, size: Sequence[int], stride: Sequence[int], *_unused: object) -> Array:
    bounds = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if offset < 0 or min(size, default=1) < 1 or min(stride, default=0) < 0 or bounds > len(storage):
        raise pickle.UnpicklingError("a tensor does not lie in its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)
