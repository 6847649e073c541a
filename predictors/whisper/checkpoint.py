"""Whisper's tensors in openai-whisper's checkpoint, read from a CTranslate2 file or a Hugging Face folder.

All three hold the same numbers under other names; CTranslate2 also stacks the projections of an attention. Renaming only:
nothing is computed, and quantised files are refused.
"""

import base64
import gzip
import json
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Heads = list[list[int]]
MODEL, HEADS = "model.pt", "alignment_heads.json"

_CT2_DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_CT2_FLOATS = ("<f4", "<f2")
_CT2_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(self_attention|attention|ffn)/(layer_norm|linear_\d)/(\w+)")
_CT2_BLOCK = {
    ("self_attention", "layer_norm"): ("attn_ln",),
    ("self_attention", "linear_0"): ("attn.query", "attn.key", "attn.value"),
    ("self_attention", "linear_1"): ("attn.out",),
    ("attention", "layer_norm"): ("cross_attn_ln",),
    ("attention", "linear_0"): ("cross_attn.query",),
    ("attention", "linear_1"): ("cross_attn.key", "cross_attn.value"),
    ("attention", "linear_2"): ("cross_attn.out",),
    ("ffn", "layer_norm"): ("mlp_ln",),
    ("ffn", "linear_0"): ("mlp.0",),
    ("ffn", "linear_1"): ("mlp.2",),
}
_CT2_TOP = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/layer_norm": "encoder.ln_post",
    "decoder/layer_norm": "decoder.ln",
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
}
_CT2_PARAMETERS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}

_HF_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
    (r"\.embed_tokens\.", ".token_embedding."),
)


def is_ctranslate2(folder: Path) -> bool:
    """Whether the folder holds a CTranslate2 model."""
    return (folder / "model.bin").is_file()


def is_hugging_face(folder: Path) -> bool:
    """Whether the folder holds a Hugging Face model with safetensors."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def convert(source: Path, target: Path) -> None:
    """Writes `model.pt` and, where the source says them, `alignment_heads.json` into `target`. Raises ValueError."""
    import torch  # noqa: PLC0415  # heavy libraries are imported when they are needed

    state, heads, alignment = from_ctranslate2(source) if is_ctranslate2(source) else _from_hugging_face(source)
    torch.save({"dims": dimensions(state, *heads), "model_state_dict": state}, target / MODEL)
    if alignment:
        (target / HEADS).write_text(json.dumps(alignment))


def alignment_heads(said: Heads | None, layers: int, heads_per_layer: int) -> Heads:
    """The heads of a decoder that follow the audio, pairs of layer and head.

    All of its later half, which is openai-whisper's own default, where the model does not say them, or names one that it has
    not: smaller models made of a large one may have kept its list.
    """
    if said and all(0 <= layer < layers and 0 <= head < heads_per_layer for layer, head in said):
        return said
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads_per_layer)]


def pack_heads(heads: Heads, layers: int, heads_per_layer: int) -> bytes:
    """Alignment heads, pairs of layer and head, as `whisper.model.Whisper.set_alignment_heads` takes them."""
    mask = np.zeros((layers, heads_per_layer), bool)
    for layer, head in heads:
        mask[layer, head] = True
    return base64.b85encode(gzip.compress(mask.tobytes()))


def dimensions(state: Mapping[str, "torch.Tensor"], audio_heads: int, text_heads: int) -> dict[str, int]:
    """openai-whisper's `ModelDimensions`, from the shapes."""

    def layers(side: str) -> int:
        return len({name.split(".")[2] for name in state if name.startswith(f"{side}.blocks.")})

    audio_context, audio_width = state["encoder.positional_embedding"].shape
    text_context, text_width = state["decoder.positional_embedding"].shape
    return {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": audio_context,
        "n_audio_state": audio_width,
        "n_audio_head": audio_heads,
        "n_audio_layer": layers("encoder"),
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": text_context,
        "n_text_state": text_width,
        "n_text_head": text_heads,
        "n_text_layer": layers("decoder"),
    }


def from_ctranslate2(folder: Path) -> tuple[dict[str, "torch.Tensor"], tuple[int, int], Heads]:
    """The tensors by openai-whisper's names, the heads of encoder and decoder, and those that follow the audio, if known.

    Raises ValueError when the file is quantised.
    """
    import torch  # noqa: PLC0415

    state, heads = {}, {}
    for name, array in read_variables(folder / "model.bin"):
        if name.endswith("/num_heads"):
            heads[name.split("/")[0]] = int(array)
        for key, part in _renamed(name, array):
            if array.dtype.str not in _CT2_FLOATS:
                raise ValueError(
                    "only CTranslate2 reads its quantised weights (BACKEND=ctranslate2); other backends need a float16 model"
                )
            state[key] = torch.from_numpy(part.copy())
    config = folder / "config.json"
    alignment: Heads = json.loads(config.read_text()).get("alignment_heads", []) if config.is_file() else []
    return state, (heads["encoder"], heads["decoder"]), alignment


def read_variables(path: Path) -> Iterator[tuple[str, Array]]:
    """Names and arrays of a CTranslate2 `model.bin`, as views of the file.

    The format: u32 version, model name, u32 revision, u32 count; then for each variable its name, u8 rank, u32 sizes,
    u8 type, u32 bytes, data. A string is a u16 length, its final zero counted, and the text. Aliases follow; Whisper's
    only one is the output layer, which is the embedding.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name, shape, kind, place in _entries(data):
            if kind not in _CT2_DTYPES:
                raise ValueError(
                    "only CTranslate2 reads its bfloat16 weights (BACKEND=ctranslate2); other backends need a float16 model"
                )
            yield name, np.frombuffer(data[place], _CT2_DTYPES[kind]).reshape(shape)


def decoder_size(path: Path) -> tuple[int, int]:
    """Layers, and heads of each, of the decoder in a CTranslate2 `model.bin`; of its data nothing else is read."""
    layers, heads = set(), 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name, _, kind, place in _entries(data):
            layer = _CT2_LAYER.fullmatch(name)
            if layer is not None and layer[1] == "decoder":
                layers.add(layer[2])
            if name == "decoder/num_heads":
                heads = int(np.frombuffer(data[place], _CT2_DTYPES[kind])[0])
    return len(layers), heads


def _entries(data: mmap.mmap) -> Iterator[tuple[str, list[int], int, slice]]:
    """Name, shape, type and place of every variable; the format is `read_variables`'."""
    position = 0

    def number(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(code, data, position)
        position += struct.calcsize(code)
        return int(value)

    def string() -> str:
        nonlocal position
        size = number("<H")
        position += size
        return data[position - size : position - 1].decode()

    number("<I"), string(), number("<I")
    for _ in range(number("<I")):
        name = string()
        shape = [number("<I") for _ in range(number("<B"))]
        kind, size = number("<B"), number("<I")
        yield name, shape, kind, slice(position, position + size)
        position += size


def _renamed(name: str, array: Array) -> Iterator[tuple[str, Array]]:
    """openai-whisper's name and part of what CTranslate2 keeps under `name`; nothing for what is not a weight."""
    if name in _CT2_TOP:
        yield _CT2_TOP[name], array
        return
    top, _, parameter = name.rpartition("/")
    if top in _CT2_TOP:
        yield f"{_CT2_TOP[top]}.{_CT2_PARAMETERS[parameter]}", array
    layer = _CT2_LAYER.fullmatch(name)
    if layer is None or layer[5] not in _CT2_PARAMETERS:
        return
    side, index, block, module, parameter = layer.groups()
    targets = _CT2_BLOCK[block, module]
    for target, part in zip(targets, np.split(array, len(targets)), strict=True):
        if not (target.endswith(".key") and parameter == "bias"):  # Whisper's keys have no bias; it is stored as zeros
            yield f"{side}.blocks.{index}.{target}.{_CT2_PARAMETERS[parameter]}", part


def _from_hugging_face(folder: Path) -> tuple[dict[str, "torch.Tensor"], tuple[int, int], Heads]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415  # only this layout needs it
    except ImportError:
        raise ValueError("a Hugging Face folder needs the package safetensors, which is not installed") from None
    state = {}
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(file).items():
            renamed = name
            for pattern, replacement in _HF_NAMES:
                renamed = re.sub(pattern, replacement, renamed)
            if renamed != "proj_out.weight":  # the embedding again
                state[renamed] = tensor
    config = json.loads((folder / "config.json").read_text())
    generation = folder / "generation_config.json"
    alignment: Heads = json.loads(generation.read_text()).get("alignment_heads", []) if generation.is_file() else []
    return state, (config["encoder_attention_heads"], config["decoder_attention_heads"]), alignment
