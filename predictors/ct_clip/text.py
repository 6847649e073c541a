"""CT-CLIP's text encoder, a BERT: prompts to latents. Needed when a bundle is prepared, or for prompts of a client's own.

The layers are those of BERT (Devlin et al., 2019) by the names that its checkpoints have; padding is masked, so that its length
does not matter. Not here: which prompts (`heads.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EPSILON = 1e-12
"""Of BERT's layer norms."""
HEAD_SIZE = 64
"""Of BERT's attention, in every size that was published."""
_LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Weights by their names in the checkpoint, without its prefix, and `to_latent.weight`; `heads` of attention."""

    weights: Mapping[str, Tensor]
    heads: int

    @classmethod
    def of(cls, source: str, weights: Mapping[str, Tensor], heads: int | None = None) -> "TextEncoder":
        """Checks that all weights are there and nothing else. Raises ValueError that names them."""
        layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")}
        expected = {f"embeddings.{name}.weight" for name in _EMBEDDINGS} | {"to_latent.weight"}
        stems = ["embeddings.LayerNorm", *(f"encoder.layer.{number}.{name}" for number in layers for name in _LAYER)]
        expected |= {f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")}
        missing, strange = sorted(expected - set(weights)), sorted(set(weights) - expected)
        if missing or strange or layers != set(range(len(layers))):
            raise ValueError(
                f"{source}, weights of the text encoder: it lacks {missing[:5] or 'nothing'}, has {strange[:5] or 'no'} others, "
                f"and layers {sorted(layers)}"
            )
        width = weights["embeddings.word_embeddings.weight"].shape[1]
        heads = heads or width // HEAD_SIZE
        if not heads or width % heads:
            raise ValueError(f"{source}: {heads} heads of attention do not divide its width of {width}")
        return cls(weights, heads)

    @torch.inference_mode()
    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Latents float32 [N, latent], of length 1, of token ids int64 [N, L]; `mask` is 0 where they are padding."""
        weights = self.weights
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        seen = mask.bool()[:, None, None]
        layers = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")}
        for number in sorted(layers):
            x = self._layer(x, f"encoder.layer.{number}", seen)
        return functional.normalize(x[:, 0] @ weights["to_latent.weight"].T, dim=-1)

    def _layer(self, x: Tensor, at: str, seen: Tensor) -> Tensor:
        parts = (self._linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2).flatten(2)
        x = self._norm(x + self._linear(attended, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        wide = functional.gelu(self._linear(x, f"{at}.intermediate.dense"))
        return self._norm(x + self._linear(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], EPSILON
        )

    @property
    def positions(self) -> int:
        """Most tokens of a prompt."""
        return len(self.weights["embeddings.position_embeddings.weight"])

    def to(self, device: str) -> "TextEncoder":
        """The same on another device."""
        return TextEncoder({name: value.to(device) for name, value in self.weights.items()}, self.heads)


def tokenizer(folder: Path, most: int) -> "Tokenizer":
    """BERT's tokenizer (lower-cased WordPiece) of `tokenizer.json` or `vocab.txt`, at most `most` tokens a prompt.

    Raises ValueError when the folder has neither.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415  # prompts of the bundle's own do without
    from tokenizers.implementations import BertWordPieceTokenizer  # noqa: PLC0415

    if (file := folder / "tokenizer.json").is_file():
        made = Tokenizer.from_file(str(file))
    elif (file := folder / "vocab.txt").is_file():
        made = BertWordPieceTokenizer(str(file), lowercase=True)._tokenizer  # noqa: SLF001  # the wrapper has no truncation by itself
    else:
        raise ValueError(f"{folder.name} has neither tokenizer.json nor vocab.txt, the text encoder's tokenizer")
    made.enable_truncation(most)
    made.enable_padding()
    return made


def encoded(made: "Tokenizer", prompts: Sequence[str], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 [N, L] each."""
    found = made.encode_batch(list(prompts))
    ids = torch.tensor([each.ids for each in found], device=device)
    return ids, torch.tensor([each.attention_mask for each in found], device=device)
