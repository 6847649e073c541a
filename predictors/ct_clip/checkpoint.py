"""Published checkpoints of CT-CLIP and its fine-tunes, as the weights of our modules.

| layout | keys |
|---|---|
| zero-shot, VocabFine | CT-CLIP's own |
| ClassFine (LiPro) | `trained_model.` and CT-CLIP's own; `classifier.{weight,bias}` |
| supervised | `{"model_state_dict", "target_pathologies"}`; `ct_clip.` and CT-CLIP's own, `pre_head_norm.*`, `classifier.1.*` |

Files are read without running what is in them (`weights_only`, or safetensors), by mapping them into memory. A key that is
missing or not known is refused by its name: random numbers must never be served. Not here: the prepared bundle (`bundle.py`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictors.ct_clip.encoder import Encoder, EncoderConfig

_IMAGE = "visual_transformer."
_TEXT = "text_transformer."
_NAMES = {
    r"to_patch_emb\.1\.": "patches.norm.",
    r"to_patch_emb\.2\.": "patches.project.",
    r"to_patch_emb\.3\.": "patches.out_norm.",
    r"spatial_rel_pos_bias\.net\.([01])\.0\.": r"position_bias.layers.\1.",
    r"spatial_rel_pos_bias\.net\.2\.": "position_bias.out.",
    r"enc_(spatial|temporal)_transformer\.norm_out\.": r"\1.out_norm.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.0\.dsconv\.": r"\1.layers.\2.position.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.q_scale$": r"\1.layers.\2.attention.query_scale",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.k_scale$": r"\1.layers.\2.attention.key_scale",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.norm\.": r"\1.layers.\2.attention.norm.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_q\.": r"\1.layers.\2.attention.to_query.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_kv\.": r"\1.layers.\2.attention.to_key_value.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_out\.": r"\1.layers.\2.attention.out.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.0\.": r"\1.layers.\2.norm.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.1\.": r"\1.layers.\2.widen.",
    r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.4\.": r"\1.layers.\2.narrow.",
    r"vq\._codebook\.embed$": "codebook",
}
_UNUSED = re.compile(
    # Parameters of other configurations of CT-CLIP, which its forward pass never reads.
    r"to_(visual|text)_latent_extra\.weight"
    r"|text_transformer\.(pooler\.dense\.(weight|bias)|embeddings\.position_ids)"
    r"|visual_transformer\.(to_patch_emb_first_frame\.[123]\.(weight|bias)|to_pixels(_first_frame)?\.0\.(weight|bias)"
    r"|vq\._codebook\.(initted|cluster_size|embed_avg|batch_mean|batch_variance)"
    r"|enc_(spatial|temporal)_transformer\.layers\.\d+\.1\.(null_kv|context_norm\.(gamma|beta)))"
)
_FIRST_FRAME = f"{_IMAGE}to_patch_emb_first_frame.1.weight"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a published file holds, by the names of our modules."""

    config: EncoderConfig
    image: Mapping[str, Tensor]
    """Of `encoder.Encoder`."""
    text: Mapping[str, Tensor]
    """Of `text.TextEncoder`, with the projection to the latent as `to_latent.weight`."""
    temperature: float
    head: Mapping[str, Tensor]
    """`classifier.*`, and `norm.*` of the supervised layout; empty for zero-shot and VocabFine."""
    labels: tuple[str, ...]
    """Findings of the supervised layout; empty for the others."""


def read(file: Path) -> Checkpoint:
    """Reads a published file. Raises ValueError that names the file, and the keys at fault."""
    return of_weights(file.name, *_loaded(file))


def of_weights(source: str, values: Mapping[str, Tensor], labels: tuple[str, ...] = ()) -> Checkpoint:
    """The same for weights by their published names; `source` is what an error calls them."""
    head = {key: value for key, value in values.items() if key.startswith(("classifier.", "pre_head_norm."))}
    model = {key: value for key, value in values.items() if key not in head}
    prefixes = {key.partition(".")[0] for key in model} & {"trained_model", "ct_clip"}
    if prefixes:
        (prefix,) = prefixes if len(prefixes) == 1 else (None,)
        if prefix is None or not all(key.startswith(f"{prefix}.") for key in model):
            raise ValueError(f"{source} is of no published layout: only some of its keys begin with {sorted(prefixes)}")
        model = {key.removeprefix(f"{prefix}."): value for key, value in model.items()}
    return _checkpoint(source, model, head, labels)


def _loaded(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415  # a file of torch's does without

        return load_file(file), ()
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001  # torch raises RuntimeError, UnpicklingError, EOFError, … for what is no checkpoint
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{file.name} is no checkpoint that can be read without running code in it: {reason}"
        ) from None
    labels: tuple[str, ...] = ()
    if isinstance(found, dict) and isinstance(found.get("model_state_dict"), dict):
        labels = tuple(map(str, found.get("target_pathologies", ())))
        found = found["model_state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file.name} holds no weights by name")
    return found, labels


def _checkpoint(
    source: str, model: Mapping[str, Tensor], head: Mapping[str, Tensor], labels: tuple[str, ...]
) -> Checkpoint:
    used = {key: value for key, value in model.items() if not _UNUSED.fullmatch(key)}
    image, text, strange = {}, {}, []
    for key, value in used.items():
        if key == "to_visual_latent.weight":
            image["to_latent.weight"] = value
        elif key == "to_text_latent.weight":
            text["to_latent.weight"] = value
        elif key.startswith(_TEXT):
            text[key.removeprefix(_TEXT)] = value
        elif (name := _image_name(key)) is not None:
            image[name] = value
        elif key != "temperature":
            strange.append(key)
    if strange:
        raise ValueError(f"{source} has {len(strange)} weights that CT-CLIP has not: {', '.join(sorted(strange)[:5])}")
    if "codebook" in image:
        image["codebook"] = image["codebook"].reshape(image["codebook"].shape[-2:])
    config = _config(source, model, image)
    _check_names(source, "image encoder", _expected(config), image)
    temperature = used.get("temperature")
    if temperature is None:
        raise ValueError(f"{source} lacks: temperature")
    renamed = {
        key.replace("pre_head_norm.", "norm.").replace("classifier.1.", "classifier."): head[key] for key in head
    }
    return Checkpoint(config, image, text, float(temperature), renamed, labels)


def _image_name(key: str) -> str | None:
    short = key.removeprefix(_IMAGE)
    for pattern, name in _NAMES.items():
        if short != key and re.match(pattern, short):
            return re.sub(pattern, name, short).replace(".gamma", ".weight").replace(".beta", ".bias")
    return None


def _config(source: str, model: Mapping[str, Tensor], image: Mapping[str, Tensor]) -> EncoderConfig:
    """The sizes that the weights were made with. Those of the grid are square: the file does not tell them apart."""
    needed = ("patches.project.weight", "position_bias.out.weight", "spatial.layers.0.attention.query_scale",
              "codebook", "to_latent.weight")  # fmt: skip
    missing = [name for name in needed if name not in image] + [key for key in (_FIRST_FRAME,) if key not in model]
    if missing:
        raise ValueError(f"{source} is no checkpoint of CT-CLIP, it lacks: {', '.join(missing)}")
    dim, voxels = image["patches.project.weight"].shape
    latent, joined = image["to_latent.weight"].shape
    patch, side = math.isqrt(len(model[_FIRST_FRAME])), math.isqrt(joined // dim)
    return EncoderConfig(
        dim=dim,
        codebook=len(image["codebook"]),
        grid=(side, side),
        patch=patch,
        depth_patch=voxels // patch**2,
        spatial_depth=_depth(image, "spatial"),
        temporal_depth=_depth(image, "temporal"),
        heads=len(image["position_bias.out.weight"]),
        dim_head=len(image["spatial.layers.0.attention.query_scale"]),
        latent=latent,
    )


def _depth(image: Mapping[str, Any], part: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in image if name.startswith(f"{part}.layers."))


def _expected(config: EncoderConfig) -> set[str]:
    with torch.device("meta"):
        return set(Encoder(config).state_dict())


def _check_names(source: str, what: str, expected: set[str], found: Mapping[str, Any]) -> None:
    missing, strange = sorted(expected - set(found)), sorted(set(found) - expected)
    if missing or strange:
        told = [f"lacks {len(missing)}: {', '.join(missing[:5])}"] if missing else []
        told += [f"has {len(strange)} that are not known: {', '.join(strange[:5])}"] if strange else []
        raise ValueError(f"{source}, weights of the {what}: it {'; it '.join(told)}")
