"""What the contracts over windows of audio (asr/1, caption/1) share: the tensors `AUDIO` and `LENGTHS`, and V1's `audio`.

No contract by itself: what is asked of a window, and what comes back, is in the modules of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import v2
from serving.errors import InvalidInput, TooLarge, shortened
from serving.threads import from_base64

MAX_WINDOWS = 4096
"""Windows in one request. It bounds what a few bytes can ask for: an empty tensor may have any number of rows."""

Samples = npt.NDArray[np.float32]


def input_types() -> list[dict[str, Any]]:
    """V2 metadata of the inputs."""
    return [
        {"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "LENGTHS", "datatype": "INT32", "shape": [-1]},
    ]


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


def tensors(windows: Sequence[Samples]) -> dict[str, v2.Array]:
    """`AUDIO` and `LENGTHS` of windows; a single one is not copied. What `rows` reads."""
    lengths = np.array([len(samples) for samples in windows], np.int32)
    if len(windows) == 1:
        audio = np.ascontiguousarray(windows[0], np.float32)[None]
    else:
        audio = np.zeros((len(windows), int(lengths.max())), np.float32)
        for row, samples in zip(audio, windows, strict=True):
            row[: len(samples)] = samples
    return {"AUDIO": audio, "LENGTHS": lengths}


def v1_windows(body: dict[str, Any]) -> list[Samples]:
    """The windows of a V1 body: `{"instances": [{"audio": [...] | {"b64": ...}}]}`.

    `audio` is a list of numbers in [-1, 1], or base64 of little-endian float32 samples. Raises InvalidInput.
    """
    _check_count(len(body["instances"]))
    return [_v1_samples(instance, f"instances[{i}]") for i, instance in enumerate(body["instances"])]


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
            f"{where}.audio must be mono samples in [-1, 1]: a list of numbers, or {{'b64': float32 little-endian}}; "
            f"{shortened(str(error), 200)}",
            param=f"{where}.audio",
        ) from None
    return samples


def warm_up_samples() -> Samples:
    """Two seconds of a buzzing, gliding tone with pauses: enough like a voice to run every stage of a model."""
    time = np.arange(2 * 16_000, dtype=np.float32) / 16_000
    glide = 2 * np.pi * np.cumsum(120 + 60 * np.sin(2 * np.pi * 1.5 * time)) / 16_000
    voice = sum(np.sin(k * glide) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    samples: Samples = (0.1 * voice * syllables).astype(np.float32)
    return samples
