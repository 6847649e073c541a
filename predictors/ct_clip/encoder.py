"""CT-CLIP's image encoder: a volume to a latent, by way of one entry of a codebook for each token.

The architecture is CT-CLIP's (a factorised 3D vision transformer, CT-ViT) as its published configuration runs it, quirks
included: they were trained. Arithmetic may be half precision, but norms, the codebook's search and the latent are float32.
torch alone is imported, so that it can be measured on a machine that has nothing else. Not here: weights' files
(`checkpoint.py`) and what is read from a latent (`heads.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ATTENTION_SCALE = 8.0
"""Of the cosine of query and key; trained with it, whatever the size of a head."""
LEAK = 0.1
"""Slope of the position bias's network below zero."""
FEED_FORWARD = 4 * 2 / 3
"""Width of the feed-forward layers, in widths of the model, rounded down."""
_SEARCHED = 1024  # tokens whose similarity to the whole codebook is in memory at a time: 34 MB at 8192 entries
_FED = 4608  # tokens whose widened layers are in memory at a time, a third of a volume's: 100 MB


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder. The defaults are CT-CLIP's."""

    dim: int = 512
    codebook: int = 8192
    grid: tuple[int, int] = (24, 24)
    """Tokens of a slab, columns by rows."""
    patch: int = 20
    """Voxels of a token along columns and rows."""
    depth_patch: int = 10
    """Slices of a token."""
    spatial_depth: int = 4
    temporal_depth: int = 4
    heads: int = 8
    dim_head: int = 32
    latent: int = 512

    @property
    def image(self) -> tuple[int, int]:
        """Columns and rows of a volume."""
        return self.grid[0] * self.patch, self.grid[1] * self.patch

    @property
    def voxels(self) -> int:
        """Of a token."""
        return self.depth_patch * self.patch**2


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a batch of B volumes became, t slabs of h by w tokens each."""

    codes: Tensor
    """int64 [B, t, h, w]: entries of the codebook."""
    latent: Tensor
    """float32 [B, latent], of length 1."""


class Encoder(nn.Module):
    """Volumes float32 [B, slices, columns, rows] in [-1, 1] to latents. Slices are any multiple of `depth_patch`."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.patches = Patches(config)
        self.position_bias = PositionBias(config)
        self.spatial = Transformer(config, config.spatial_depth)
        self.temporal = Transformer(config, config.temporal_depth)
        self.codebook = nn.Parameter(torch.randn(config.codebook, config.dim))
        self.to_latent = nn.Linear(config.grid[0] * config.grid[1] * config.dim, config.latent, bias=False)
        nothing = torch.empty(0, device="cpu")  # also where the weights are made on no device at all
        self.register_buffer("bias", nothing, persistent=False)
        self.register_buffer("directions", nothing, persistent=False)

    @torch.inference_mode()
    def prepare(self) -> "Encoder":
        """Computes what depends on the weights alone; to be called after they are loaded and moved."""
        self.bias = self.position_bias()
        self.directions = functional.normalize(self.codebook, dim=-1)
        return self

    @torch.inference_mode()
    def forward(self, volumes: Tensor, dtype: torch.dtype = torch.float32) -> Encoding:
        """Encodes volumes; `dtype` is the arithmetic of the transformers."""
        codes = self.search(self.tokens(volumes, dtype))
        return Encoding(codes, functional.normalize(self.to_latent(self.pooled(codes).flatten(1)), dim=-1))

    @torch.inference_mode()
    def tokens(self, volumes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Tokens before the codebook, float32 [B, t, h, w, dim]."""
        with torch.autocast(volumes.device.type, dtype, enabled=dtype != torch.float32):
            tokens = self.patches(volumes)
            batch, slabs, height, width, dim = tokens.shape
            rows = tokens.view(batch * slabs, height * width, dim)
            rows = self.spatial(rows, tokens.shape[:4], self.bias)
            rows = rows.view(batch, slabs, height * width, dim).transpose(1, 2).reshape(-1, slabs, dim)
            rows = self.temporal(rows, tokens.shape[:4])
        grid = rows.float().view(batch, height * width, slabs, dim).transpose(1, 2)
        return grid.reshape(batch, slabs, height, width, dim)

    def search(self, tokens: Tensor) -> Tensor:
        """The entry that points most nearly where each token does, int64 [B, t, h, w]."""
        flat = tokens.reshape(-1, self.config.dim)
        found = [(functional.normalize(part, dim=-1) @ self.directions.T).argmax(-1) for part in flat.split(_SEARCHED)]
        return torch.cat(found).view(tokens.shape[:-1])

    def pooled(self, codes: Tensor) -> Tensor:
        """The mean entry of each column of tokens, float32 [B, h, w, dim]."""
        return torch.stack([self.codebook[each].mean(0) for each in codes])


class Patches(nn.Module):
    """Cuts a volume into tokens, slab by slab: a normalised slab is a ninth of a gigabyte less to hold."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.voxels)
        self.project = nn.Linear(config.voxels, config.dim)
        self.out_norm = nn.LayerNorm(config.dim)

    def forward(self, volumes: Tensor) -> Tensor:
        """Volumes [B, slices, columns, rows] to tokens [B, t, h, w, dim]."""
        config, (height, width) = self.config, self.config.grid
        batch, slices = volumes.shape[:2]
        slabs = volumes.reshape(-1, config.depth_patch, height, config.patch, width, config.patch)
        found = [
            self.out_norm(self.project(self.norm(slab.permute(1, 3, 0, 2, 4).reshape(height, width, -1))))
            for slab in slabs
        ]
        return torch.stack(found).view(batch, slices // config.depth_patch, height, width, -1)


class PositionBias(nn.Module):
    """A bias of attention for each pair of tokens of a slab, by how far they lie apart; float32 [heads, h w, h w].

    It is computed for each distance that occurs, once, not for each pair.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([nn.Linear(2, config.dim), nn.Linear(config.dim, config.dim)])
        self.out = nn.Linear(config.dim, config.heads)

    def forward(self) -> Tensor:
        """The bias of every pair."""
        height, width = self.config.grid
        device = self.out.weight.device
        down = torch.arange(1 - height, height, device=device)
        across = torch.arange(1 - width, width, device=device)
        apart = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).float()
        x = apart.sign() * (apart.abs() + 1).log()
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), LEAK)
        table = self.out(x)  # [2 h - 1, 2 w - 1, heads]
        row = torch.arange(height, device=device)
        column = torch.arange(width, device=device)
        rows = row[:, None] - row[None] + height - 1  # [h, h]
        columns = column[:, None] - column[None] + width - 1
        pairs = table[rows[:, None, :, None], columns[None, :, None, :]]  # [h, w, h, w, heads]
        return pairs.reshape(height * width, height * width, -1).permute(2, 0, 1).contiguous()


class Transformer(nn.Module):
    """Layers of position, attention and feed-forward, each added to what it reads."""

    def __init__(self, config: EncoderConfig, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(depth))
        self.out_norm = nn.LayerNorm(config.dim)

    def forward(self, rows: Tensor, shape: torch.Size, bias: Tensor | None = None) -> Tensor:
        """Rows of tokens [N, n, dim] of volumes with `shape` (B, t, h, w) in tokens."""
        for layer in self.layers:
            rows = layer(rows, shape, bias)
        normed: Tensor = self.out_norm(rows)
        return normed


class Layer(nn.Module):
    """One layer of a transformer."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.position = nn.Conv3d(config.dim, config.dim, 3, groups=config.dim)
        self.attention = Attention(config)
        inner = int(config.dim * FEED_FORWARD)
        self.norm = nn.LayerNorm(config.dim)
        self.widen = nn.Linear(config.dim, 2 * inner, bias=False)
        self.narrow = nn.Linear(inner, config.dim, bias=False)

    def forward(self, rows: Tensor, shape: torch.Size, bias: Tensor | None) -> Tensor:
        """As `Transformer.forward`."""
        rows = rows + self._positions(rows, shape)
        rows = rows + self.attention(rows, bias)
        return rows + torch.cat([self._fed(part) for part in rows.flatten(0, 1).split(_FED)]).view(rows.shape)

    def _fed(self, tokens: Tensor) -> Tensor:
        value, gate = self.widen(self.norm(tokens)).chunk(2, -1)
        fed: Tensor = self.narrow(functional.gelu(gate).mul_(value))
        return fed

    def _positions(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """A convolution over the volume's neighbours, that sees slabs before it only.

        The temporal transformer's rows lie as (h, w), t, and are taken for t, h, w here without being turned: with them, the
        convolution's "slabs" are the grid's columns. CT-CLIP was trained so.
        """
        volume = rows.reshape(*shape, -1).permute(0, 4, 1, 2, 3)
        moved = self.position(functional.pad(volume, (1, 1, 1, 1, 2, 0)))
        return moved.permute(0, 2, 3, 4, 1).reshape(rows.shape)


class Attention(nn.Module):
    """Attention by the cosine of queries and keys; keys and values are of the tokens as they came, queries of normed ones."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        inner = config.heads * config.dim_head
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.to_query = nn.Linear(config.dim, inner, bias=False)
        self.to_key_value = nn.Linear(config.dim, 2 * inner, bias=False)
        self.query_scale = nn.Parameter(torch.ones(config.dim_head))
        self.key_scale = nn.Parameter(torch.ones(config.dim_head))
        self.out = nn.Linear(inner, config.dim, bias=False)

    def forward(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Rows [N, n, dim]; `bias` [heads, n, n] is added to their similarities."""
        query = self._apart(self.to_query(self.norm(rows)))
        key, value = map(self._apart, self.to_key_value(rows).chunk(2, -1))
        query = (functional.normalize(query.float(), dim=-1) * self.query_scale).to(value.dtype)
        key = (functional.normalize(key.float(), dim=-1) * self.key_scale).to(value.dtype)
        mask = None if bias is None else bias.to(value.dtype).expand(len(rows), -1, -1, -1)
        attended = functional.scaled_dot_product_attention(query, key, value, mask, scale=ATTENTION_SCALE)
        joined: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return joined

    def _apart(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
