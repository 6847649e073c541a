"""CT-CLIP's encoder on a GPU, for a machine that has torch and nothing else: `python -m tests.bench.ct_clip_gpu` prints JSON.

Random weights at full size. Each arithmetic is compared with float32 on the CPU, and timed at one and four studies; the plain
restatement (`tests.ct_clip_reference`) is timed on the same card. Not part of `make bench`, whose machine has no GPU.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from predictors.ct_clip import checkpoint
from predictors.ct_clip.encoder import Encoder, Encoding
from tests import ct_clip_reference as reference

REPEATS = 5
ARITHMETIC = {
    "float32": (torch.float32, False),
    "float32, TF32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
PROMPTS = 36


def _seconds(device: str, work: Callable[[], Any]) -> float:
    """Best of some, after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return min(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _volumes(sizes: reference.Sizes, slabs: int, count: int) -> torch.Tensor:
    """Smooth noise in [-1, 1], as of a body."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, 1, 24, 24, 24, generator=generator) * 2 - 1
    shape = (slabs * sizes.depth_patch, sizes.side * sizes.patch, sizes.side * sizes.patch)
    fine = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[:, 0]
    return (fine + 0.05 * torch.randn(fine.shape, generator=generator)).clamp(-1, 1)


def _compared(found: Encoding, wanted: Encoding, text: torch.Tensor, scale: float) -> dict[str, float]:
    """Share of equal codes, and how far latents and probabilities are off."""
    ours, theirs = found.latent.float().cpu(), wanted.latent.float().cpu()
    chances = [(latent @ text.T * scale).unflatten(-1, (-1, 2)).softmax(-1)[..., 0] for latent in (ours, theirs)]
    return {
        "codes_equal": (found.codes.cpu() == wanted.codes.cpu()).float().mean().item(),
        "latent_cosine": (ours * theirs).sum(-1).min().item(),
        "latent_off": (ours - theirs).abs().max().item(),
        "probability_off": (chances[0] - chances[1]).abs().max().item(),
    }


def measure(sizes: reference.Sizes, slabs: int, device: str) -> dict[str, Any]:
    """All figures for one device."""
    weights = reference.image_weights(sizes)
    found = checkpoint.of_weights("random weights", weights)
    encoder = Encoder(found.config)
    encoder.load_state_dict(dict(found.image))
    encoder.eval().prepare()
    volumes = _volumes(sizes, slabs, 4)
    text = torch.nn.functional.normalize(torch.randn(PROMPTS, sizes.latent, generator=torch.Generator().manual_seed(3)))
    scale = found.temperature  # of the logits, before it is used as an exponent
    begun = time.perf_counter()
    wanted = encoder(volumes[:1])
    report: dict[str, Any] = {"device": device, "cpu_float32_seconds": time.perf_counter() - begun}
    encoder.to(device).prepare()
    there = volumes.to(device)
    for name, (dtype, tf32) in ARITHMETIC.items():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        report[name] = {
            "seconds_1": _seconds(device, lambda d=dtype: encoder(there[:1], d)),
            "seconds_4": _seconds(device, lambda d=dtype: encoder(there, d)),
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
            "against_cpu_float32": _compared(encoder(there[:1], dtype), wanted, text, torch.tensor(scale).exp().item()),
        }
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain = {name: value.to(device) for name, value in weights.items()}
    report["plain_restatement_seconds"] = _seconds(device, lambda: reference.encode(plain, sizes, there[0]))
    _, codes, latent = reference.encode(plain, sizes, there[0])
    report["plain_restatement_against_cpu_float32"] = _compared(
        Encoding(codes.view(wanted.codes.shape), latent[None]), wanted, text, torch.tensor(scale).exp().item()
    )
    return report


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, to try this script itself")
    options = parser.parse_args()
    sizes, slabs = (reference.TINY, 4) if options.tiny else (reference.Sizes(), 24)
    print(json.dumps(measure(sizes, slabs, options.device), indent=1))  # its purpose


if __name__ == "__main__":
    main()
