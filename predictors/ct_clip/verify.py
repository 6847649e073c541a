"""`python -m predictors.ct_clip.verify DIR`: compares this implementation with a reference folder, figure by figure.

A reference folder holds what the original computed: `ctclip.pt`, `classfine.pt` and `supervised.pt` (the published layouts, any
sizes), `config.json` (the original's arguments) and `ref.npz` with the volume, the prompts' token ids, and the results. Each
head is read from the latent of its own file's image encoder, as it is served; each line says whose encoder that was. Ends with 1
when a figure is outside of its bound.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictors.ct_clip import checkpoint, heads
from predictors.ct_clip.checkpoint import Checkpoint
from predictors.ct_clip.encoder import Encoder
from predictors.ct_clip.text import TextEncoder

TrainedHead = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Figure:
    """One comparison. `value` has to be at most `bound`; for a share of equal codes, at least."""

    name: str
    value: float
    bound: float
    encoder: str
    """Which encoder's output was compared."""
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether it is within its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'pass' if self.passed else 'FAIL'}  {self.name:<20} {self.value:.3g}  ({sign} {self.bound:g})  {self.encoder}"


def compare(folder: Path) -> list[Figure]:
    """All figures of a folder. Raises ValueError for what is missing or of another layout."""
    try:
        reference = dict(np.load(folder / "ref.npz"))
        config = json.loads((folder / "config.json").read_text())["cfg"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} is no reference folder: {error}") from None
    read = checkpoint.read(folder / "ctclip.pt")
    volume = torch.from_numpy(np.asarray(reference["volume"], np.float32)).flatten(0, -4)
    encoder = _encoder(read)
    tokens = encoder.tokens(volume)
    encoding = encoder(volume)
    text = TextEncoder.of("ctclip.pt", read.text, config["bert"]["num_attention_heads"])
    latents = text(*(torch.from_numpy(reference[name]).long() for name in ("ids", "mask")))
    pairs = latents.view(-1, 2, latents.shape[-1])
    equal = float((encoding.codes.flatten().numpy() == reference["vq_idx"].ravel()).mean())
    zero_shot = heads.by_texts(encoding.latent, pairs, read.temperature)
    image, words = "image encoder of ctclip.pt", "text encoder of ctclip.pt"
    return [
        Figure("pre_vq", _off(tokens, reference["pre_vq"]), 1e-4, image),
        Figure("vq_idx equal", equal, 1.0 if tokens.numel() < 1 << 20 else 0.999, image, at_least=True),
        Figure("image_latent", _off(encoding.latent, reference["image_latent"]), 1e-6 if equal == 1 else 0.02, image),
        Figure("text_latents", _off(latents, reference["text_latents"]), 1e-5, words),
        Figure("zero_shot_probs", _off(zero_shot, reference["zero_shot_probs"]), 1e-5, f"{image}, {words}"),
        *(
            _trained(folder / f"{name}.pt", head, reference[f"{name}_probs"], volume, (read, encoding.latent))
            for name, head in (("classfine", heads.classfine), ("supervised", heads.supervised))
        ),
    ]


def _encoder(read: Checkpoint) -> Encoder:
    encoder = Encoder(read.config)
    encoder.load_state_dict(dict(read.image))
    encoder.eval().prepare()
    return encoder


def _trained(
    file: Path, head: TrainedHead, wanted: Any, volume: torch.Tensor, known: tuple[Checkpoint, torch.Tensor]
) -> Figure:
    """The figure of a trained head. Its encoder is run unless it is bit for bit that of ctclip.pt, `known` with its latent."""
    read, (ctclip, latent) = checkpoint.read(file), known
    same = read.config == ctclip.config and all(
        torch.equal(read.image[name], ctclip.image[name]) for name in read.image
    )
    used = f"image encoder of {file.name}" + (", the same weights as ctclip.pt's" if same else "")
    found = head(latent if same else _encoder(read)(volume).latent, read.head)
    return Figure(f"{file.stem}_probs", _off(found, wanted), 1e-5, used)


def _off(found: torch.Tensor, wanted: Any) -> float:
    """The largest difference; of tokens that were kept every so often, those alone."""
    flat = found.reshape(-1, found.shape[-1]).numpy()
    kept = np.asarray(wanted).reshape(-1, flat.shape[-1])
    step = -(-len(flat) // len(kept))
    return float(np.abs(flat[::step] - kept).max())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    try:
        figures = compare(parser.parse_args().folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for figure in figures:
        print(figure)  # noqa: T201  # its purpose
    sys.exit(0 if all(figure.passed for figure in figures) else 1)


if __name__ == "__main__":
    main()
