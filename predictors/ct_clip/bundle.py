"""A prepared checkpoint: one safetensors file with what serving needs of it, and what it was made of.

| tensors | |
|---|---|
| `image.*` | the image encoder, float32 or float16 |
| `texts` | latents of the findings' prompts float32 [P, 2, latent]; zero-shot and VocabFine |
| `head.*` | the trained layer; ClassFine and supervised |
| `text.*`, `tokenizer` | the text encoder, and its tokenizer's JSON as bytes; where it was kept |

The rest is in the file's metadata, as JSON. It is read by mapping it into memory. Not here: how it is made (`prepare.py`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from predictors.ct_clip.encoder import Encoder, EncoderConfig

FORMAT = "sonotome-ct-clip/1"
Head = Literal["zero_shot", "vocabfine", "classfine", "supervised"]
BY_TEXT: tuple[Head, ...] = ("zero_shot", "vocabfine")
"""Heads that compare with texts; the others are trained layers."""
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Bundle:
    """One checkpoint and its head."""

    head: Head
    version: str
    """The name that its maker gave it."""
    source_sha256: str
    """Of the published file."""
    config: EncoderConfig
    labels: tuple[str, ...]
    temperature: float
    image: Mapping[str, Tensor]
    texts: Tensor | None = None
    layer: Mapping[str, Tensor] | None = None
    text: Mapping[str, Tensor] | None = None
    text_heads: int = 0
    tokenizer: bytes = b""


def write(bundle: Bundle, file: Path) -> None:
    """Writes a bundle; the file is there whole or not at all."""
    tensors = {name: value.contiguous() for name, value in _tensors(bundle).items()}
    if bundle.tokenizer:
        tensors["tokenizer"] = torch.frombuffer(bytearray(bundle.tokenizer), dtype=torch.uint8)
    told = {
        "format": FORMAT,
        "head": bundle.head,
        "version": bundle.version,
        "source_sha256": bundle.source_sha256,
        "config": asdict(bundle.config),
        "labels": bundle.labels,
        "temperature": bundle.temperature,
        "text_heads": bundle.text_heads,
    }
    partial = file.with_name(f"{file.name}.partial")
    # One entry: safetensors writes several in any order, and the same bundle is to have the same hash.
    save_file(tensors, partial, {"bundle": json.dumps(told)})
    partial.replace(file)


def read(file: Path, *, keep_text: bool = False) -> Bundle:
    """Reads a bundle; the text encoder only where it is to be kept. Raises ValueError: the file, and what does not fit."""
    try:
        with safe_open(file, "pt") as opened:
            told = json.loads((opened.metadata() or {}).get("bundle", "{}"))
            if told.get("format") != FORMAT:
                raise ValueError(
                    f"{file.name} is no bundle of this version ({FORMAT}); make one: python -m predictors.ct_clip.prepare"
                )
            names = [name for name in opened.keys() if keep_text or not name.startswith(("text.", "tokenizer"))]  # noqa: SIM118
            tensors = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    if told["head"] not in get_args(Head):
        raise ValueError(f"{file.name} is for the head {told['head']!r}, known are: {', '.join(get_args(Head))}")
    config = EncoderConfig(**{**told["config"], "grid": tuple(told["config"]["grid"])})
    text = _part(tensors, "text.")
    made = Bundle(
        told["head"],
        told["version"],
        told["source_sha256"],
        config,
        tuple(told["labels"]),
        told["temperature"],
        {name: value.float() for name, value in _part(tensors, "image.").items()},
        tensors.get("texts"),
        _part(tensors, "head.") or None,
        text or None,
        told["text_heads"],
        bytes(tensors["tokenizer"].numpy()) if "tokenizer" in tensors else b"",
    )
    check_shapes(file.name, made)
    return made


def check_shapes(source: str, bundle: Bundle) -> None:
    """Raises ValueError unless weights, labels and head go together; `source` is what the message calls the bundle."""
    with torch.device("meta"):
        wanted = {f"image.{name}": tuple(value.shape) for name, value in Encoder(bundle.config).state_dict().items()}
    labels, latent = len(bundle.labels), bundle.config.latent
    if bundle.head in BY_TEXT:
        wanted["texts"] = (labels, 2, latent)
    else:
        wanted |= {"head.classifier.weight": (labels, latent), "head.classifier.bias": (labels,)}
    if bundle.head == "supervised":
        wanted |= {"head.norm.weight": (latent,), "head.norm.bias": (latent,)}
    if bundle.text is not None:
        projected = bundle.text.get("to_latent.weight")
        wanted["text.to_latent.weight"] = (latent, *(projected.shape[1:] if projected is not None else ()))
    found = {name: tuple(value.shape) for name, value in _tensors(bundle).items()}
    if unknown := sorted(name for name in found if name.startswith(("image.", "head.")) and name not in wanted):
        raise ValueError(f"{source} does not fit together: {unknown[0]} belongs to no {bundle.head} head")
    for name, shape in wanted.items():
        if found.get(name) != shape:
            has = f"is {list(found[name])}" if name in found else "is missing"
            raise ValueError(
                f"{source} does not fit together: {name} {has}, {list(shape)} is wanted by a {bundle.head} head of {labels} "
                f"findings over a latent of {latent}"
            )


def _tensors(bundle: Bundle) -> dict[str, Tensor]:
    """The weights by their names in the file."""
    tensors = {f"image.{name}": value for name, value in bundle.image.items()}
    tensors |= {f"head.{name}": value for name, value in (bundle.layer or {}).items()}
    tensors |= {f"text.{name}": value for name, value in (bundle.text or {}).items()}
    return tensors if bundle.texts is None else tensors | {"texts": bundle.texts}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    seen = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_CHUNK):
            seen.update(block)
    return seen.hexdigest()
