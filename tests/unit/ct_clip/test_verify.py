"""The comparison with a reference folder, over one that the plain restatement computed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from predictors.ct_clip import checkpoint, heads, text, verify
from tests.ct_clip_reference import TINY, encode, read_text
from tests.unit.ct_clip.test_encoder import volumes

SHARED = Path(os.environ.get("CT_CLIP_REFERENCES", "../shared/ct"))


PREFIXES = {"classfine": "trained_model.", "supervised": "ct_clip."}


@pytest.fixture(params=[True, False], ids=["one encoder", "three encoders"])
def references(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A reference folder of the tiny model; its three files share an image encoder, or each has its own."""
    own = torch.load(folder / "ctclip.pt", weights_only=True)
    shutil.copy(folder / "ctclip.pt", tmp_path)
    (volume,) = volumes(TINY, 4)
    of_head = {}
    for name, prefix in PREFIXES.items():
        made = torch.load(folder / f"{name}.pt", weights_only=True)
        inner = made.get("model_state_dict", made)
        if request.param:
            inner |= {f"{prefix}{key}": value for key, value in own.items()}
        torch.save(made, tmp_path / f"{name}.pt")
        (*_, of_head[name]) = encode({key.removeprefix(prefix): inner[key] for key in inner}, TINY, volume)
    tokens, codes, latent = encode(own, TINY, volume)
    ids, mask = text.encoded(text.tokenizer(folder, TINY.positions), heads.texts(heads.PATHOLOGIES))
    latents = torch.stack(
        [read_text(own, TINY, row[seen.bool()].tolist()) for row, seen in zip(ids, mask, strict=True)]
    )
    fine, trained = (checkpoint.read(tmp_path / f"{name}.pt").head for name in ("classfine", "supervised"))
    normed = torch.nn.functional.layer_norm(
        of_head["supervised"], latent.shape, trained["norm.weight"], trained["norm.bias"]
    )
    pairs = (latents @ latent * own["temperature"].exp()).view(-1, 2)
    np.savez(
        tmp_path / "ref.npz",
        volume=volume[None, None], ids=ids, mask=mask, pre_vq=tokens, vq_idx=codes, image_latent=latent[None],
        text_latents=latents, zero_shot_probs=pairs.softmax(-1)[:, 0],
        classfine_probs=torch.sigmoid(fine["classifier.weight"] @ of_head["classfine"].relu() + fine["classifier.bias"]),
        supervised_probs=torch.sigmoid(trained["classifier.weight"] @ normed + trained["classifier.bias"]),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"cfg": {"bert": {"num_attention_heads": TINY.text_heads}}}))
    return tmp_path


def test_a_folder_that_was_computed_plainly_passes(references: Path) -> None:
    assert [str(figure) for figure in verify.compare(references) if not figure.passed] == []


@pytest.mark.parametrize("name", ["pre_vq", "vq_idx", "image_latent", "text_latents", "classfine_probs"])
def test_a_figure_that_is_off_fails(references: Path, name: str) -> None:
    reference = dict(np.load(references / "ref.npz"))
    np.savez(references / "ref.npz", **reference | {name: reference[name] + 1})
    assert [figure.name.split()[0] for figure in verify.compare(references) if not figure.passed] == [name]


@pytest.mark.parametrize("name", PREFIXES)
def test_another_image_encoder_of_a_trained_head_fails(references: Path, name: str) -> None:
    made = torch.load(references / f"{name}.pt", weights_only=True)
    inner = made.get("model_state_dict", made)
    inner[f"{PREFIXES[name]}visual_transformer.to_patch_emb.2.weight"] *= -1
    torch.save(made, references / f"{name}.pt")
    (failed,) = (figure for figure in verify.compare(references) if not figure.passed)
    assert (failed.name, failed.encoder) == (f"{name}_probs", f"image encoder of {name}.pt")


def test_each_figure_says_whose_encoder_it_is_of(references: Path, request: pytest.FixtureRequest) -> None:
    told = {figure.name: str(figure) for figure in verify.compare(references)}
    shared = request.node.callspec.params["references"]
    for name in PREFIXES:
        assert f"image encoder of {name}.pt" in told[f"{name}_probs"]
        assert told[f"{name}_probs"].endswith(", the same weights as ctclip.pt's") == shared
    assert told["zero_shot_probs"].endswith("image encoder of ctclip.pt, text encoder of ctclip.pt")


def test_a_folder_without_a_reference_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="is no reference folder"):
        verify.compare(folder)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no reference folders of the original here")
@pytest.mark.parametrize("name", ["golden", "golden_noncubic"])
def test_what_the_original_computed_passes(name: str, tmp_path: Path) -> None:
    shutil.copytree(SHARED / name, tmp_path / name)
    assert [str(figure) for figure in verify.compare(tmp_path / name) if not figure.passed] == []
