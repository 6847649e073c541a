"""A small CT-CLIP with random weights, as files: the published layouts, a tokenizer, the prepared bundles, a risk model."""

from pathlib import Path

import torch
from tokenizers.implementations import BertWordPieceTokenizer

from predictors.ct_clip import bundle
from predictors.ct_clip.demo_weights import risk_model
from predictors.ct_clip.heads import PATHOLOGIES, texts
from predictors.ct_clip.prepare import prepare
from tests import ct_clip_reference as reference

FINDINGS = ("ribs_fracture", "pleural_effusion", "cancer", "covid")
SERVED = reference.Sizes(16, 64, 8, 60, 30, 1, 2, 8, 16, 24, 1, 2, 400, 64)
"""Takes the volume that the transformer makes, 240 x 480 x 480."""


def published(folder: Path, sizes: reference.Sizes) -> None:
    """The three published files, and the text encoder's tokenizer."""
    for name, weights in reference.checkpoints(sizes, FINDINGS).items():
        torch.save(weights, folder / name)
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(texts(PATHOLOGIES), vocab_size=sizes.vocabulary - 50, show_progress=False)
    trainer.save(str(folder / "tokenizer.json"))


def prepared(folder: Path, sizes: reference.Sizes, *, keep_text: bool = False) -> Path:
    """The bundles of `published`'s files, and a risk model over them, in a folder `models`."""
    published(folder, sizes)
    models = folder / "models"
    models.mkdir()
    for name, head in (("ctclip", "zero_shot"), ("classfine", "classfine"), ("supervised", "supervised")):
        made = prepare(
            folder / f"{name}.pt",
            head,  # type: ignore[arg-type]
            version=f"test {name}",
            tokenizer=folder,
            keep_text=keep_text,
            text_heads=sizes.text_heads,
        )
        bundle.write(made, models / f"{name}.safetensors")
    risk_model(models / "lightgbm.txt", FINDINGS, PATHOLOGIES)
    return models
