"""What vLLM's worker process does for Whisper besides decoding: it keeps encodings, and aligns tokens with the audio.

vLLM encodes a window again for every request, and a window makes several: its language, each step of the temperature
ladder, each step of a beam search. Its attention kernels do not tell their weights, which the times of words come from;
here the decoder's layers run once over the finished text with plain attention in the kernels' place.

vLLM imports this module and mixes `WhisperWorker` into its worker; its methods are called by `collective_rpc`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank, tensor_model_parallel_all_reduce

from predictors.whisper.alignment import MEDIAN_FRAMES


class WhisperWorker:
    """Methods for vLLM's worker, which has a `model_runner`."""

    model_runner: Any

    def whisper_keep_encodings(self, count: int) -> None:
        """From now on the last `count` encodings stay; each takes 1500 x width numbers, 3.8 MB of large-v3 at 2 bytes.

        On an eager CPU their keys and values stay as well, which take 2 x layers of that and a tenth of the time of an encoding.
        """
        model = self.model_runner.get_model().model
        # A compiled decoder does not see that its projections were exchanged.
        noting = self.model_runner.device.type == "cpu" and self.model_runner.model_config.enforce_eager
        model.get_encoder_outputs = encodings = _Encodings(model.get_encoder_outputs, count, noting=noting)
        if noting:
            for layer in model.decoder.layers:
                layer.encoder_attn.kv_proj = _Projection(layer.encoder_attn.kv_proj, encodings)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch's types are not read
    def whisper_align(
        self, features: bytes, mels: int, tokens: list[int], heads: list[list[int]], frames: int, *, last: bool
    ) -> list[Any]:
        """How much each token looks at each 20 ms of audio.

        Args:
            features: log-mel features [mels, 3000], float32.
            mels: their first dimension.
            tokens: the decoder's whole input, prompt and text.
            heads: layer and number of the attention heads that follow the audio.
            frames: steps of 20 ms that are audio.
            last: whether no more is asked about this window.

        Returns:
            Tokens, frames, and float32 [tokens, frames] as bytes: the mean over the heads of their weights, each
            standardised over the tokens and smoothed over the frames, as openai-whisper does (`timing.find_alignment`).
        """
        model = self.model_runner.get_model()
        device, dtype = self.model_runner.device, model.dtype
        mel = torch.frombuffer(bytearray(features), dtype=torch.float32).view(mels, -1).to(device, dtype)
        encoding, projected = model.model.get_encoder_outputs.use(mel, last=last)
        decoder = model.model.decoder
        with _watched(decoder.layers, heads, frames) as watched, _projected(decoder.layers, projected):
            places = torch.arange(len(tokens), device=device)
            hidden = decoder.embed_input_ids(torch.tensor(tokens, device=device)) + decoder.embed_positions(places)
            for layer in decoder.layers[: 1 + max(at for at, _ in heads)]:  # of the others nothing is watched
                hidden = layer(hidden, encoder_hidden_states=encoding)
        total = torch.zeros(len(tokens), frames, device=device)
        for each in watched:
            total += each.seen
        total = tensor_model_parallel_all_reduce(total) / len(heads)
        matrix = total.float().cpu().numpy()
        return [*matrix.shape, matrix.tobytes()]


@dataclass
class _Kept:
    encoding: torch.Tensor
    """[1500, width]."""
    projected: dict[Any, torch.Tensor] = field(default_factory=dict)
    """The keys and values [1500, 2 * width] that layers' projections made of it."""


class _Encodings:
    """The model's encoder, which remembers. Equal features, to the bit, have one encoding.

    Args:
        encode: the encoder.
        count: encodings that stay.
        noting: whether `_Projection` tells what the decoder makes of them.
    """

    def __init__(self, encode: Any, count: int, *, noting: bool):
        self._encode = encode
        self._count = count
        self._noting = noting
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._given: list[_Kept] = []
        """What the decoder's next step gets, in this order."""
        self._taken = False

    def __call__(self, input_features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Encodings [N, 1500, width] of N windows' features, however they are nested."""
        windows = [window for part in input_features for window in (part if part.ndim > 2 else [part])]
        keys = [_key(window) for window in windows]
        missing = {key: window for key, window in zip(keys, windows, strict=True) if key not in self._kept}
        if missing:
            for key, encoding in zip(missing, self._encode(list(missing.values())), strict=True):
                self._kept[key] = _Kept(encoding.clone())  # not a view that keeps the whole batch
        for key in keys:
            self._kept.move_to_end(key)
        if self._taken:
            self._given, self._taken = [], False
        if self._noting:
            self._given += [self._kept[key] for key in keys]
        found = torch.stack([self._kept[key].encoding for key in keys])
        while len(self._kept) > self._count:
            self._kept.popitem(last=False)
        return found

    def note(self, projection: Any, encodings: torch.Tensor, made: torch.Tensor) -> None:
        """Keeps what a layer's projection made of the encodings [N * 1500, width] of a step."""
        self._taken = True
        parts = max(1, len(self._given))
        for kept, given, own in zip(self._given, encodings.chunk(parts), made.chunk(parts), strict=False):
            if torch.equal(given, kept.encoding):  # not what vLLM warms up with
                kept.projected[projection] = own

    def use(self, features: torch.Tensor, *, last: bool) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
        """The encoding of a window [mels, 3000], and what was made of it.

        The `last` time they go from here; else they would outlive those still at work. A window that is not aligned (silence,
        a client that left) leaves its own to be pushed out by the next ones.
        """
        key = _key(features)
        kept = self._kept.pop(key, None) if last else self._kept.get(key)
        return (self._encode([features])[0], {}) if kept is None else (kept.encoding, kept.projected)


def _key(features: torch.Tensor) -> bytes:
    return hashlib.blake2b(features.float().cpu().numpy().tobytes(), digest_size=16).digest()


class _Projection(nn.Module):  # type: ignore[misc]  # as above
    """A layer's projection of encodings to keys and values, which tells `_Encodings` of them."""

    def __init__(self, project: Any, encodings: _Encodings):
        super().__init__()
        self.project = project
        self._encodings = encodings

    def forward(self, encodings: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """As vLLM's layer: [N * 1500, 2 * width], and a bias that is added elsewhere."""
        made, bias = self.project(encodings)
        self._encodings.note(self, encodings, made)
        return made, bias


class _Made(nn.Module):  # type: ignore[misc]  # as above
    """What a projection made before."""

    def __init__(self, made: torch.Tensor):
        super().__init__()
        self._made = made

    def forward(self, _encodings: torch.Tensor) -> tuple[torch.Tensor, None]:
        """As `_Projection.forward`."""
        return self._made, None


class _Plain(nn.Module):  # type: ignore[misc]  # as above
    """Attention without a cache, for one window: q [T, heads * size], k and v [S, heads * size]."""

    def __init__(self, kernel: Any, *, causal: bool, watch: Sequence[int] = (), frames: int = 0):
        super().__init__()
        self._heads = kernel.num_heads
        self._causal = causal
        self._watch = watch
        self._frames = frames
        self.seen: torch.Tensor | float = 0.0
        """The sum over the watched heads of their weights [T, frames], standardised and smoothed."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """[T, heads * size]."""
        q, k, v = (part.view(part.shape[0], self._heads, -1).transpose(0, 1) for part in (q, k, v))
        for head in self._watch:
            scores = q[head].float() @ k[head, : self._frames].float().T * q.shape[-1] ** -0.5
            self.seen += _smoothed(_standardised(scores.softmax(dim=-1)))
        mixed = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=self._causal)[0]
        return mixed.transpose(0, 1).reshape(q.shape[1], -1)


@contextmanager
def _watched(layers: Sequence[Any], heads: Sequence[Sequence[int]], frames: int) -> Iterator[list[_Plain]]:
    """Plain attention in every layer for as long as the block lasts; those over the audio, with what they have seen."""
    kernels = [(layer.self_attn.attn, layer.encoder_attn.attn) for layer in layers]
    crossing = []
    try:
        for number, layer in enumerate(layers):
            count = layer.encoder_attn.num_heads
            first = get_tensor_model_parallel_rank() * count  # a GPU of several has some of the heads
            mine = [head - first for at, head in heads if at == number and first <= head < first + count]
            crossing.append(_Plain(layer.encoder_attn, causal=False, watch=mine, frames=frames))
            layer.self_attn.attn = _Plain(layer.self_attn, causal=True)
            layer.encoder_attn.attn = crossing[-1]
        yield crossing
    finally:
        for layer, (own, cross) in zip(layers, kernels, strict=True):
            layer.self_attn.attn, layer.encoder_attn.attn = own, cross


@contextmanager
def _projected(layers: Sequence[Any], projected: Mapping[Any, torch.Tensor]) -> Iterator[None]:
    """For as long as the block lasts layers get the keys and values that were made before, as far as they were kept."""
    projections = [layer.encoder_attn.kv_proj for layer in layers]
    try:
        for layer, projection in zip(layers, projections, strict=True):
            if projection in projected:
                layer.encoder_attn.kv_proj = _Made(projected[projection])
            elif isinstance(projection, _Projection):  # these are no encodings of a step
                layer.encoder_attn.kv_proj = projection.project
        yield
    finally:
        for layer, projection in zip(layers, projections, strict=True):
            layer.encoder_attn.kv_proj = projection


def _standardised(weights: torch.Tensor) -> torch.Tensor:
    deviation, mean = torch.std_mean(weights, dim=0, keepdim=True, correction=0)
    return (weights - mean) / deviation.clamp_min(torch.finfo(weights.dtype).tiny)


def _smoothed(weights: torch.Tensor) -> torch.Tensor:
    """The median of MEDIAN_FRAMES neighbours, reflected at the ends."""
    half = MEDIAN_FRAMES // 2
    if weights.shape[-1] <= half:
        return weights
    padded = nn.functional.pad(weights[None], (half, half), mode="reflect")[0]
    # Sorted whole planes at a time, by exchanges of neighbours: torch's median sorts place by place, ten times as slowly.
    planes = list(padded.unfold(-1, MEDIAN_FRAMES, 1).unbind(-1))
    for turn in range(MEDIAN_FRAMES):
        for at in range(turn % 2, MEDIAN_FRAMES - 1, 2):
            low, high = planes[at : at + 2]
            planes[at], planes[at + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return planes[half]
