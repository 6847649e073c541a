"""What is read from latents: probabilities of findings, by comparison with texts or by a trained layer.

Arithmetic on tensors alone, float32. Not here: where the latents and the layers come from.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

PATHOLOGIES = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule",
    "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip
"""The 18 findings of CT-RATE, in CT-CLIP's order: zero-shot and ClassFine."""


def texts(findings: Sequence[str]) -> list[str]:
    """Two prompts a finding, present and not, as CT-CLIP words them."""
    return [text for finding in findings for text in (f"{finding} is present.", f"{finding} is not present.")]


def logits(images: Tensor, prompts: Tensor, temperature: float) -> Tensor:
    """Of images [B, latent] and prompts [P, 2, latent]: [B, P, 2]. `temperature` is the logarithm of their scale."""
    scale = prompts.new_tensor(temperature).exp()
    return (prompts @ images.T).permute(2, 0, 1) * scale


def by_texts(images: Tensor, prompts: Tensor, temperature: float) -> Tensor:
    """Probability that each finding is present [B, P]: of its two prompts, how much nearer the first is."""
    return logits(images, prompts, temperature).softmax(-1)[..., 0]


def classfine(images: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Probabilities [B, findings] of ClassFine's layer; it was trained on latents cut off below zero."""
    return functional.linear(images.relu(), head["classifier.weight"], head["classifier.bias"]).sigmoid()


def supervised(images: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Probabilities [B, findings] of the supervised layer, behind a norm."""
    normed = functional.layer_norm(images, images.shape[-1:], head["norm.weight"], head["norm.bias"])
    return functional.linear(normed, head["classifier.weight"], head["classifier.bias"]).sigmoid()


def shares(entries: Tensor, projection: Tensor, prompts: Tensor, temperature: float) -> Tensor:
    """What each token adds to the difference of a finding's two logits, [P, t, h, w]; they sum to it.

    Before its length is made 1, the latent is linear in the mean entry of each column of tokens (`encoder.Encoder.pooled`), so
    that a token's part of the cosine is its entry through the projection, over the tokens of its column and the latent's length.

    Args:
        entries: the codebook's entry of each token of one volume [t, h, w, dim].
        projection: weights of the latent [latent, h w dim].
        prompts: latents of the findings' texts [P, 2, latent].
        temperature: logarithm of the logits' scale.
    """
    slabs, height, width, dim = entries.shape
    latent = projection @ entries.mean(0).flatten()
    directions = (prompts[:, 0] - prompts[:, 1]) @ projection  # [P, h w dim]
    parts = (entries.permute(1, 2, 0, 3) @ directions.view(-1, height, width, dim, 1)).squeeze(-1)  # [P, h, w, t]
    scale = prompts.new_tensor(temperature).exp() / (slabs * latent.norm())
    return parts.permute(0, 3, 1, 2) * scale
