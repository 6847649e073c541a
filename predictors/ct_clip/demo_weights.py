"""A tiny CT-CLIP of random tensors, to try the service where no weights may be fetched: its probabilities mean nothing.

It takes the volume that the real one takes, 240 x 480 x 480, in the same tokens. The tensors are drawn from a fixed seed, so
that the same study is answered alike everywhere.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from predictors.ct_clip import bundle, heads, risk
from predictors.ct_clip.bundle import Bundle
from predictors.ct_clip.encoder import Encoder, EncoderConfig
from serving import cache

NAME = "demo:random"
_CONFIG = EncoderConfig(
    dim=32, codebook=256, spatial_depth=1, temporal_depth=1, heads=2, dim_head=16, latent=32
)  # of the published sizes, what a volume is cut into
_FINDINGS = tuple(
    name.lower().replace(" ", "_") for name in heads.PATHOLOGIES[:15]
)  # as many as the supervised layer has
_TEMPERATURE = 2.0
_VERSION = 1  # of the tensors, for the cache
_STUDIES = 400  # that the risk model learns from


def folder() -> Path:
    """The folder of the bundles, made once, into the cache. Raises ValueError."""
    return cache.folder(f"ct-clip-random-{_VERSION}", make)


def make(target: Path) -> None:
    """Writes the three bundles and the risk model into `target`."""
    torch.manual_seed(0)
    encoder = Encoder(_CONFIG)
    image = {name: value.detach() for name, value in encoder.state_dict().items()}
    texts = functional.normalize(torch.randn(len(heads.PATHOLOGIES), 2, _CONFIG.latent), dim=-1)

    def layer(rows: int) -> dict[str, torch.Tensor]:
        return {"classifier.weight": torch.randn(rows, _CONFIG.latent), "classifier.bias": torch.zeros(rows)}

    norm = {"norm.weight": torch.ones(_CONFIG.latent), "norm.bias": torch.zeros(_CONFIG.latent)}
    made = {
        "ctclip": Bundle("zero_shot", NAME, "", _CONFIG, heads.PATHOLOGIES, _TEMPERATURE, image, texts),
        "classfine": Bundle(
            "classfine", NAME, "", _CONFIG, heads.PATHOLOGIES, 0.0, image, layer=layer(len(heads.PATHOLOGIES))
        ),
        "supervised": Bundle(
            "supervised", NAME, "", _CONFIG, _FINDINGS, 0.0, image, layer=norm | layer(len(_FINDINGS))
        ),
    }
    for name, each in made.items():
        bundle.write(each, target / f"{name}.safetensors")
    risk_model(target / "lightgbm.txt", _FINDINGS, heads.PATHOLOGIES)


def risk_model(file: Path, supervised: Sequence[str], by_text: Sequence[str]) -> None:
    """A LightGBM model that has learnt from random studies that two findings, one of each head, are a pathology."""
    import lightgbm  # noqa: PLC0415  # after torch

    random = np.random.default_rng(0)
    rows, told = [], []
    for _ in range(_STUDIES):
        one, other = (random.random(len(names), np.float32) for names in (supervised, by_text))
        rows.append(risk.features(one, other))
        told.append(float(one[2] + other[9] > 1))
    data = lightgbm.Dataset(np.array(rows), told, feature_name=risk.feature_names(supervised, by_text))
    parameters = {
        "objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1, "deterministic": True, "seed": 1,
    }  # fmt: skip
    lightgbm.train(parameters, data, num_boost_round=30).save_model(str(file))
