"""A Whisper of one layer with random tensors, in the three layouts that the predictor reads, for tests of the loaders."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTH, HEADS, MELS, VOCABULARY, AUDIO_CONTEXT, TEXT_CONTEXT = 8, 2, 80, 51865, 4, 6
ALIGNMENT_HEADS = [[0, 1]]
DIMENSIONS = {
    "n_mels": MELS,
    "n_audio_ctx": AUDIO_CONTEXT,
    "n_audio_state": WIDTH,
    "n_audio_head": HEADS,
    "n_audio_layer": 1,
    "n_vocab": VOCABULARY,
    "n_text_ctx": TEXT_CONTEXT,
    "n_text_state": WIDTH,
    "n_text_head": HEADS,
    "n_text_layer": 1,
}


def openai_state() -> dict[str, Array]:
    """Every tensor by openai-whisper's name, float16."""
    draw = np.random.default_rng(0)
    state: dict[str, Array] = {}

    def add(name: str, *shape: int) -> None:
        state[name] = draw.standard_normal(shape).astype(np.float16)

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        add(f"{name}.weight", out, into)
        if bias:
            add(f"{name}.bias", out)

    def norm(name: str) -> None:
        add(f"{name}.weight", WIDTH)
        add(f"{name}.bias", WIDTH)

    for side in ("encoder", "decoder"):
        block = f"{side}.blocks.0"
        for attention in ("attn",) if side == "encoder" else ("attn", "cross_attn"):
            for projection in ("query", "key", "value", "out"):
                linear(f"{block}.{attention}.{projection}", WIDTH, WIDTH, bias=projection != "key")
            norm(f"{block}.{attention}_ln")
        linear(f"{block}.mlp.0", 4 * WIDTH, WIDTH)
        linear(f"{block}.mlp.2", WIDTH, 4 * WIDTH)
        norm(f"{block}.mlp_ln")
    norm("encoder.ln_post")
    norm("decoder.ln")
    add("encoder.positional_embedding", AUDIO_CONTEXT, WIDTH)
    add("decoder.positional_embedding", TEXT_CONTEXT, WIDTH)
    add("decoder.token_embedding.weight", VOCABULARY, WIDTH)
    for name, into in (("conv1", MELS), ("conv2", WIDTH)):
        add(f"encoder.{name}.weight", WIDTH, into, 3)
        add(f"encoder.{name}.bias", WIDTH)
    return state


def ctranslate2_variables(state: dict[str, Array]) -> dict[str, Array]:
    """The same tensors by CTranslate2's names, projections stacked, and its other variables."""
    no_bias = np.zeros(WIDTH, np.float16)
    found: dict[str, Array] = {"decoder/alignment_layer": np.int16(-1), "decoder/scale_embeddings": np.int8(0)}

    def stack(to: str, *parts: str) -> None:
        found[f"{to}/weight"] = np.concatenate([state[f"{part}.weight"] for part in parts])
        found[f"{to}/bias"] = np.concatenate([state.get(f"{part}.bias", no_bias) for part in parts])

    def norm(to: str, name: str) -> None:
        found[f"{to}/gamma"], found[f"{to}/beta"] = state[f"{name}.weight"], state[f"{name}.bias"]

    for side in ("encoder", "decoder"):
        block, layer = f"{side}.blocks.0", f"{side}/layer_0"
        stack(f"{layer}/self_attention/linear_0", *(f"{block}.attn.{part}" for part in ("query", "key", "value")))
        stack(f"{layer}/self_attention/linear_1", f"{block}.attn.out")
        norm(f"{layer}/self_attention/layer_norm", f"{block}.attn_ln")
        stack(f"{layer}/ffn/linear_0", f"{block}.mlp.0")
        stack(f"{layer}/ffn/linear_1", f"{block}.mlp.2")
        norm(f"{layer}/ffn/layer_norm", f"{block}.mlp_ln")
        found[f"{side}/num_heads"] = np.int16(HEADS)
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.positional_embedding"]
    cross = "decoder/layer_0/attention"
    stack(f"{cross}/linear_0", "decoder.blocks.0.cross_attn.query")
    stack(f"{cross}/linear_1", "decoder.blocks.0.cross_attn.key", "decoder.blocks.0.cross_attn.value")
    stack(f"{cross}/linear_2", "decoder.blocks.0.cross_attn.out")
    norm(f"{cross}/layer_norm", "decoder.blocks.0.cross_attn_ln")
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    for name in ("conv1", "conv2"):
        stack(f"encoder/{name}", f"encoder.{name}")
    found["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    return found


def hugging_face_state(state: dict[str, Array]) -> dict[str, Array]:
    """The same tensors by the names of `transformers.WhisperForConditionalGeneration`."""
    parts = {
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
        "attn.out": "self_attn.out_proj",
        "attn_ln": "self_attn_layer_norm",
        "cross_attn.query": "encoder_attn.q_proj",
        "cross_attn.key": "encoder_attn.k_proj",
        "cross_attn.value": "encoder_attn.v_proj",
        "cross_attn.out": "encoder_attn.out_proj",
        "cross_attn_ln": "encoder_attn_layer_norm",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
        "mlp_ln": "final_layer_norm",
    }
    tops = {"positional_embedding": "embed_positions.weight", "token_embedding.weight": "embed_tokens.weight"}
    norms = {"encoder": "ln_post.", "decoder": "ln."}
    found = {}
    for name, tensor in state.items():
        side, _, rest = name.partition(".")
        if rest.startswith("blocks.0."):
            module, _, parameter = rest.removeprefix("blocks.0.").rpartition(".")
            rest = f"layers.0.{parts[module]}.{parameter}"
        elif rest.startswith(norms[side]):
            rest = f"layer_norm.{rest.removeprefix(norms[side])}"
        found[f"model.{side}.{tops.get(rest, rest)}"] = tensor
    return found


def write_ctranslate2(folder: Path, variables: dict[str, Array]) -> None:
    """A `model.bin` of CTranslate2's format 6, and the `config.json` that says the alignment heads."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    rows = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        array = np.ascontiguousarray(value)
        rows += [text(name), struct.pack("<B", value.ndim), struct.pack(f"<{value.ndim}I", *value.shape)]
        rows += [struct.pack("<BI", kinds[array.dtype.name], array.nbytes), array.tobytes()]
    rows += [struct.pack("<I", 1), text("decoder/projection/weight"), text("decoder/embeddings/weight")]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(b"".join(rows))
    (folder / "config.json").write_text(json.dumps({"alignment_heads": ALIGNMENT_HEADS}))
