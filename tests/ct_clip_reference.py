"""CT-CLIP's forward pass restated plainly, over weights by their published names: what the fast one is measured by.

Each operation is the original's: the bias of every pair of tokens at every call, similarities of all tokens to the codebook at
once and a one-hot matrix of them, one volume at a time. Weights are random; torch alone is imported.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Of a model; the defaults are CT-CLIP's."""

    dim: int = 512
    codebook: int = 8192
    side: int = 24
    patch: int = 20
    depth_patch: int = 10
    depth: int = 4
    heads: int = 8
    dim_head: int = 32
    latent: int = 512
    text: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 30522
    positions: int = 512


TINY = Sizes(32, 64, 4, 5, 2, 2, 4, 8, 16, 24, 2, 4, 200, 64)


def image_weights(sizes: Sizes, seed: int = 0) -> Weights:
    """Random weights of the image's part, those included that no forward pass reads."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float | None = None) -> Tensor:
        deviation = 1 / math.sqrt(max(1, math.prod(shape[1:]))) if scale is None else scale
        return torch.randn(shape, generator=generator) * deviation

    dim, inner, wide = sizes.dim, sizes.heads * sizes.dim_head, int(sizes.dim * 4 * 2 / 3)
    voxels = sizes.depth_patch * sizes.patch**2
    image: Weights = {"vq._codebook.initted": torch.ones(1), "vq._codebook.cluster_size": torch.ones(1, sizes.codebook)}
    image["vq._codebook.embed"] = normal(1, sizes.codebook, dim, scale=1.0)
    for name, size in (("to_patch_emb_first_frame", sizes.patch**2), ("to_patch_emb", voxels)):
        image |= {f"{name}.1.weight": 1 + normal(size, scale=0.1), f"{name}.1.bias": normal(size, scale=0.1)}
        image |= {f"{name}.2.weight": normal(dim, size), f"{name}.2.bias": normal(dim, scale=0.1)}
        image |= {f"{name}.3.weight": 1 + normal(dim, scale=0.1), f"{name}.3.bias": normal(dim, scale=0.1)}
    for name, size in (("to_pixels_first_frame", sizes.patch**2), ("to_pixels", voxels)):
        image |= {f"{name}.0.weight": normal(size, dim), f"{name}.0.bias": normal(size, scale=0.1)}
    for name, out, into in (("0.0", dim, 2), ("1.0", dim, dim), ("2", sizes.heads, dim)):
        image[f"spatial_rel_pos_bias.net.{name}.weight"] = normal(out, into)
        image[f"spatial_rel_pos_bias.net.{name}.bias"] = normal(out, scale=0.1)
    for part in ("spatial", "temporal"):
        stem = f"enc_{part}_transformer"
        image |= {f"{stem}.norm_out.gamma": 1 + normal(dim, scale=0.1), f"{stem}.norm_out.beta": torch.zeros(dim)}
        for layer in range(sizes.depth):
            at = f"{stem}.layers.{layer}"
            image |= {f"{at}.0.dsconv.weight": normal(dim, 1, 3, 3, 3), f"{at}.0.dsconv.bias": normal(dim, scale=0.1)}
            image[f"{at}.1.null_kv"] = torch.empty(sizes.heads, 0, sizes.dim_head)
            for scale in ("q_scale", "k_scale"):
                image[f"{at}.1.{scale}"] = 1 + normal(sizes.dim_head, scale=0.1)
            for norm in ("norm", "context_norm"):
                image |= {f"{at}.1.{norm}.gamma": 1 + normal(dim, scale=0.1), f"{at}.1.{norm}.beta": torch.zeros(dim)}
            image |= {f"{at}.1.to_q.weight": normal(inner, dim), f"{at}.1.to_kv.weight": normal(2 * inner, dim)}
            image[f"{at}.1.to_out.weight"] = normal(dim, inner)
            image |= {f"{at}.3.0.weight": 1 + normal(dim, scale=0.1), f"{at}.3.0.bias": normal(dim, scale=0.1)}
            image |= {f"{at}.3.1.weight": normal(2 * wide, dim), f"{at}.3.4.weight": normal(dim, wide)}
    weights = {f"visual_transformer.{name}": value for name, value in image.items()}
    joined = sizes.side**2 * dim
    return weights | {"to_visual_latent.weight": normal(sizes.latent, joined), "temperature": torch.tensor(1.2)}


@torch.no_grad()
def encode(weights: Weights, sizes: Sizes, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a volume [slices, columns, rows]: tokens before the codebook [t h w, dim], their codes [t h w], the latent [latent]."""
    image = {name.removeprefix("visual_transformer."): value for name, value in weights.items()}
    side, dim = sizes.side, sizes.dim
    slabs = len(volume) // sizes.depth_patch
    cut = volume.reshape(slabs, sizes.depth_patch, side, sizes.patch, side, sizes.patch).permute(0, 2, 4, 1, 3, 5)
    x = _norm(cut.reshape(slabs, side, side, -1), image, "to_patch_emb.1")
    x = functional.linear(x, image["to_patch_emb.2.weight"], image["to_patch_emb.2.bias"])
    x = _norm(x, image, "to_patch_emb.3")
    shape = (1, slabs, side, side, dim)
    x = _transformer(x.reshape(slabs, side**2, dim), image, "enc_spatial_transformer", shape, _bias(image, side))
    x = _transformer(x.transpose(0, 1), image, "enc_temporal_transformer", shape, None)
    tokens = x.transpose(0, 1).reshape(-1, dim)
    entries = image["vq._codebook.embed"][0]
    similar = functional.normalize(tokens, dim=-1) @ functional.normalize(entries, dim=-1).T
    codes = similar.argmax(-1)
    quantised = functional.one_hot(codes, len(entries)).to(entries.dtype) @ entries
    pooled = quantised.reshape(slabs, -1).mean(0)
    return tokens, codes, functional.normalize(functional.linear(pooled, weights["to_visual_latent.weight"]), dim=-1)


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _bias(image: Weights, side: int) -> Tensor:
    positions = torch.arange(side, device=image["spatial_rel_pos_bias.net.2.weight"].device)
    grid = torch.stack(torch.meshgrid(positions, positions, indexing="ij"), -1).reshape(-1, 2)
    apart = (grid[:, None] - grid[None]).float()
    x = apart.sign() * (apart.abs() + 1).log()
    for name in ("0.0", "1.0"):
        stem = f"spatial_rel_pos_bias.net.{name}"
        x = functional.leaky_relu(functional.linear(x, image[f"{stem}.weight"], image[f"{stem}.bias"]), 0.1)
    stem = "spatial_rel_pos_bias.net.2"
    return functional.linear(x, image[f"{stem}.weight"], image[f"{stem}.bias"]).permute(2, 0, 1)


def _transformer(x: Tensor, image: Weights, stem: str, shape: tuple[int, ...], bias: Tensor | None) -> Tensor:
    depth = 1 + max(int(name.split(".")[2]) for name in image if name.startswith(f"{stem}.layers."))
    heads = len(image["spatial_rel_pos_bias.net.2.weight"])
    for layer in range(depth):
        at = f"{stem}.layers.{layer}"
        turned = functional.pad(x.reshape(shape).permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 2, 0))
        kernel = image[f"{at}.0.dsconv.weight"], image[f"{at}.0.dsconv.bias"]
        x = x + functional.conv3d(turned, *kernel, groups=x.shape[-1]).permute(0, 2, 3, 4, 1).reshape(x.shape)
        x = x + _attention(x, image, f"{at}.1", heads, bias)
        value, gate = functional.linear(_norm(x, image, f"{at}.3.0"), image[f"{at}.3.1.weight"]).chunk(2, -1)
        x = x + functional.linear(functional.gelu(gate) * value, image[f"{at}.3.4.weight"])
    return functional.layer_norm(x, x.shape[-1:], image[f"{stem}.norm_out.gamma"], image[f"{stem}.norm_out.beta"])


def _attention(x: Tensor, image: Weights, at: str, heads: int, bias: Tensor | None) -> Tensor:
    normed = functional.layer_norm(x, x.shape[-1:], image[f"{at}.norm.gamma"], image[f"{at}.norm.beta"])
    query = functional.linear(normed, image[f"{at}.to_q.weight"])
    key, value = functional.linear(x, image[f"{at}.to_kv.weight"]).chunk(2, -1)
    query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    query = functional.normalize(query, dim=-1) * image[f"{at}.q_scale"]
    key = functional.normalize(key, dim=-1) * image[f"{at}.k_scale"]
    similar = query @ key.transpose(-1, -2) * 8
    attended = (similar if bias is None else similar + bias).softmax(-1) @ value
    return functional.linear(attended.transpose(1, 2).flatten(2), image[f"{at}.to_out.weight"])


def text_weights(sizes: Sizes, seed: int = 1) -> Weights:
    """Random weights of the text's part, by their published names, and the legacy buffer that published files have."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    width = sizes.text
    text: Weights = {"embeddings.position_ids": torch.arange(sizes.positions)[None]}
    for name, count in (("word", sizes.vocabulary), ("position", sizes.positions), ("token_type", 2)):
        text[f"embeddings.{name}_embeddings.weight"] = normal(count, width)
    linear = {
        "attention.self.query": (width, width), "attention.self.key": (width, width), "attention.self.value": (width, width),
        "attention.output.dense": (width, width), "intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width),
    }  # fmt: skip
    stems = [f"encoder.layer.{layer}" for layer in range(sizes.text_layers)]
    for name, shape in [(f"{stem}.{part}", shape) for stem in stems for part, shape in linear.items()]:
        text |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    norms = [f"{stem}.{part}.LayerNorm" for stem in stems for part in ("attention.output", "output")]
    for name in ("embeddings.LayerNorm", *norms):
        text |= {f"{name}.weight": 1 + normal(width), f"{name}.bias": normal(width)}
    text |= {"pooler.dense.weight": normal(width, width), "pooler.dense.bias": normal(width)}
    return {f"text_transformer.{name}": value for name, value in text.items()} | {
        "to_text_latent.weight": normal(sizes.latent, width)
    }


@torch.no_grad()
def read_text(weights: Weights, sizes: Sizes, ids: list[int]) -> Tensor:
    """The latent [latent] of a prompt's token ids, without padding."""
    text = {name.removeprefix("text_transformer."): value for name, value in weights.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ text[f"{name}.weight"].T + text[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * text[f"{name}.weight"]
            + text[f"{name}.bias"]
        )

    x = text["embeddings.word_embeddings.weight"][ids] + text["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + text["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(sizes.text_layers):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{at}.attention.self.{name}").view(len(ids), sizes.text_heads, -1).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        weight = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        attended = linear((weight @ value).transpose(0, 1).reshape(len(ids), -1), f"{at}.attention.output.dense")
        x = norm(x + attended, f"{at}.attention.output.LayerNorm")
        wide = linear(x, f"{at}.intermediate.dense")
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        x = norm(x + linear(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return functional.normalize(weights["to_text_latent.weight"] @ x[0], dim=-1)


def checkpoints(sizes: Sizes, labels: tuple[str, ...], seed: int = 0) -> dict[str, dict[str, object]]:
    """What the three published files of a model hold, by their names; each of its own random weights but for the text."""
    generator = torch.Generator().manual_seed(seed + 99)
    text = text_weights(sizes)
    extra = {f"{name}_extra.weight": torch.zeros(2, 2) for name in ("to_text_latent", "to_visual_latent")}
    own = [image_weights(sizes, seed + number) | text | extra for number in range(3)]

    def layer(count: int, name: str) -> Weights:
        return {
            f"{name}.weight": torch.randn(count, sizes.latent, generator=generator),
            f"{name}.bias": torch.randn(count, generator=generator),
        }

    norm = {
        "pre_head_norm.weight": torch.rand(sizes.latent, generator=generator),
        "pre_head_norm.bias": torch.zeros(sizes.latent),
    }
    fine = {f"trained_model.{name}": value for name, value in own[1].items()}
    trained = {f"ct_clip.{name}": value for name, value in own[2].items()}
    return {
        "ctclip.pt": dict(own[0]),
        "classfine.pt": {**fine, **layer(18, "classifier")},
        "supervised.pt": {
            "model_state_dict": {**trained, **norm, **layer(len(labels), "classifier.1")},
            "target_pathologies": list(labels),
        },
    }
