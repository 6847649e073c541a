"""`python -m predictors.ct_clip.verify DIR`: compares this implementation with a reference folder, figure by figure.

A reference folder holds what the original computed: `ctclip.pt`, `classfine.pt` and `supervised.pt` (the published layouts, any
sizes), `config.json` (the original's arguments) and `ref.npz` with the volume, the prompts' token ids, and the results. Ends with
1 when a figure is outside of its bound.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictors.ct_clip import checkpoint, heads
from predictors.ct_clip.encoder import Encoder
from predictors.ct_clip.text import TextEncoder


@dataclass(frozen=True)
class Figure:
    """One comparison. `value` has to be at most `bound`; for a share of equal codes, at least."""

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether it is within its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'pass' if self.passed else 'FAIL'}  {self.name:<20} {self.value:.3g}  ({sign} {self.bound:g})"


def compare(folder: Path) -> list[Figure]:
    """All figures of a folder. Raises ValueError for what is missing or of another layout."""
    try:
        reference = dict(np.load(folder / "ref.npz"))
        config = json.loads((folder / "config.json").read_text())["cfg"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} is no reference folder: {error}") from None
    read = checkpoint.read(folder / "ctclip.pt")
    encoder = Encoder(read.config)
    encoder.load_state_dict(dict(read.image))
    encoder.eval().prepare()
    volume = torch.from_numpy(np.asarray(reference["volume"], np.float32)).flatten(0, -4)
    tokens = encoder.tokens(volume)
    encoding = encoder(volume)
    text = TextEncoder.of("ctclip.pt", read.text, config["bert"]["num_attention_heads"])
    latents = text(*(torch.from_numpy(reference[name]).long() for name in ("ids", "mask")))
    pairs = latents.view(-1, 2, latents.shape[-1])
    fine, trained = (checkpoint.read(folder / name) for name in ("classfine.pt", "supervised.pt"))
    equal = float((encoding.codes.flatten().numpy() == reference["vq_idx"].ravel()).mean())
    return [
        Figure("pre_vq", _off(tokens, reference["pre_vq"]), 1e-4),
        Figure("vq_idx equal", equal, 1.0 if tokens.numel() < 1 << 20 else 0.999, at_least=True),
        Figure("image_latent", _off(encoding.latent, reference["image_latent"]), 1e-6 if equal == 1 else 0.02),
        Figure("text_latents", _off(latents, reference["text_latents"]), 1e-5),
        Figure(
            "zero_shot_probs",
            _off(heads.by_texts(encoding.latent, pairs, read.temperature), reference["zero_shot_probs"]),
            1e-5,
        ),
        Figure(
            "classfine_probs", _off(heads.classfine(encoding.latent, fine.head), reference["classfine_probs"]), 1e-5
        ),
        Figure(
            "supervised_probs",
            _off(heads.supervised(encoding.latent, trained.head), reference["supervised_probs"]),
            1e-5,
        ),
    ]


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
