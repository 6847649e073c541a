"""A study through CT-CLIP at its published size with random weights: ours against the original's operations, and its 18 passes.

Each way runs in a process of its own, in turn: ours is the pod's engine with a prepared bundle, the other one is
`tests.ct_clip_reference` with the same weights. Loading counts for the memory, not for the time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.memory import own_peak_mb
from tests.bench.report import Section

THREADS = 2
ROUNDS = 3
CALLS = 2  # in one process; the best counts
PASSES = 18
"""Forward passes of the image that the original makes for a study, one for the two prompts of each finding."""


def make(folder: Path) -> None:
    """The same random weights in both layouts, and a volume."""
    import torch
    from safetensors.torch import save_file

    from predictors.ct_clip import bundle, checkpoint
    from predictors.ct_clip.heads import PATHOLOGIES
    from tests import ct_clip_reference as reference

    weights = reference.image_weights(reference.Sizes())
    found = checkpoint.of_weights("random weights", weights)
    generator = torch.Generator().manual_seed(3)
    texts = torch.randn(len(PATHOLOGIES), 2, found.config.latent, generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=-1)
    (folder / "models").mkdir()
    made = bundle.Bundle("zero_shot", "random", "", found.config, PATHOLOGIES, found.temperature, found.image, texts)
    bundle.write(made, folder / "models" / "ctclip.safetensors")
    save_file(weights | {"texts": texts, "scale": torch.tensor(found.temperature)}, folder / "plain.safetensors")
    coarse = torch.rand(1, 1, 24, 24, 24, generator=generator) * 2 - 1
    volume = torch.nn.functional.interpolate(coarse, (240, 480, 480), mode="trilinear")[0, 0]
    volume += 0.05 * torch.randn(volume.shape, generator=generator)
    np.save(folder / "volume.npy", volume.clamp(-1, 1).numpy())


def make_in_a_process(folder: Path) -> None:
    """As `make`, without torch in this process."""
    subprocess.run([sys.executable, "-m", "tests.bench.ct_clip", "make", str(folder)], check=True)


def _ours(folder: Path) -> Callable[[], list[float]]:
    from predictors.ct_clip.reader import CtReader
    from predictors.ct_clip.settings import CtClipSettings
    from serving.contracts.ct import CtInput, CtOptions, CtResult

    engine = CtReader(CtClipSettings(model_id=str(folder / "models"), num_threads=THREADS, device="cpu"))
    engine.load()
    volume = np.load(folder / "volume.npy")

    def read() -> list[float]:
        (result,) = engine.run([CtInput(volume, CtOptions())])
        assert isinstance(result, CtResult)
        return [float(value) for value in result.scores["zero_shot"].values]

    return read


def _plain(folder: Path) -> Callable[[], list[float]]:
    import torch
    from safetensors.torch import load_file

    from predictors.ct_clip import heads
    from tests import ct_clip_reference as reference

    torch.set_num_threads(THREADS)
    weights = load_file(folder / "plain.safetensors")
    texts, scale = weights.pop("texts"), float(weights.pop("scale"))
    volume = torch.from_numpy(np.load(folder / "volume.npy"))

    def read() -> list[float]:
        with torch.inference_mode():
            latent = reference.encode(weights, reference.Sizes(), volume)[2]
            return [float(value) for value in heads.by_texts(latent[None], texts, scale)[0]]

    return read


WAYS = {"ours": _ours, "the original's operations": _plain}


def _measured(way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.ct_clip", way, str(folder)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def run() -> Section:
    """The section for the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_in_a_process(folder)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, measured in found.items():
                measured.append(_measured(way, folder))
    section = Section(
        "A chest CT through CT-CLIP",
        f"One study, zero-shot, the published size (179 M parameters of the image encoder) with random weights, {THREADS} "
        f"threads; median of {ROUNDS}, peak RSS of the process.",
    )
    seconds = {way: statistics.median(each["seconds"] for each in measured) for way, measured in found.items()}
    for way, measured in found.items():
        section.row(
            f"{way}: one forward pass", f"{seconds[way]:.1f} s, {max(each['peak_mb'] for each in measured):.0f} MB"
        )
    ours, plain = seconds.values()
    section.row("ours / the original's operations (goal ≤ 0.75)", f"{ours / plain:.2f}")
    section.row(
        f"a whole study: times as fast as {PASSES} of the original's passes, measured as one (goal ≥ 12)",
        f"{PASSES * plain / ours:.0f}",
    )
    one, other = (np.array(measured[0]["probabilities"]) for measured in found.values())
    section.row("largest difference of a probability", f"{np.abs(one - other).max():.1e}")
    return section


def main() -> None:
    """Entry point of one way, or of what both read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=[*WAYS, "make"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.way == "make":
        make(options.folder)
        return
    read = WAYS[options.way](options.folder)
    times, probabilities = [], []
    for _ in range(CALLS):
        begun = time.perf_counter()
        probabilities = read()
        times.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": min(times), "peak_mb": own_peak_mb(), "probabilities": probabilities}))


if __name__ == "__main__":
    main()
