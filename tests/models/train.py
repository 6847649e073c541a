"""`python -m tests.models.train gigaam|vosk5 DIR`: trains a small Russian model and writes it in that layout.

The same packages on one machine give the same model: one thread, and a number of steps rather than of minutes.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.examples import Example, spoken, varied
from tests.models.features import GIGAAM, VOSK5, Array, FilterBank, log_mel
from tests.models.layouts import export_gigaam, export_vosk5
from tests.models.network import STRIDE, Network
from tests.models.units import Units, letters, pieces

_RATE = 5e-3  # the highest learning rate
_RISE = 0.08  # the share of the steps after which it is reached
_FLOOR = 1e-3  # the share of it that is left at the end
_SEED = 2
_HIDDEN_FRAMES, _HIDDEN_BINS = 10, 8  # the most that is hidden of a window while it is learnt


@dataclass(frozen=True)
class Plan:
    """How much is learnt."""

    sentences: int = 2500
    examples: int = 6000
    steps: int = 3000
    batch: int = 24
    width: int = 160
    """Channels of the network."""


@dataclass(frozen=True)
class Layout:
    """What the two models differ in."""

    bank: FilterBank
    units: Callable[[Sequence[str]], Units]
    export: Callable[[Network, Units, Path], None]


LAYOUTS = {"gigaam": Layout(GIGAAM, letters, export_gigaam), "vosk5": Layout(VOSK5, pieces, export_vosk5)}


@dataclass(frozen=True, eq=False)
class _Window:
    features: Array
    """[frames, bins]"""
    units: list[int]


def train(layout: Layout, plan: Plan, folder: Path) -> None:
    """Trains a model and writes its files to `folder`, which exists."""
    torch.set_num_threads(1)
    torch.manual_seed(_SEED)
    sentences = spoken(plan.sentences, _SEED)
    units = layout.units([sentence.text for sentence in sentences])
    windows = [_window(each, layout.bank, units) for each in varied(sentences, plan.examples, _SEED)]
    seconds = sum(len(window.features) for window in windows) / 100
    print(f"{len(windows)} examples of {seconds / 3600:.1f} h, {len(units.names)} units", flush=True)
    layout.export(_trained(windows, units, plan), units, folder)


def _window(example: Example, bank: FilterBank, units: Units) -> _Window:
    return _Window(log_mel(example.samples, bank), units.numbers(example.text))


def _trained(windows: Sequence[_Window], units: Units, plan: Plan) -> Network:
    network = Network(windows[0].features.shape[1], len(units.names), plan.width)
    known = np.concatenate([window.features for window in windows[::10]])
    network.mean[:, 0] = torch.from_numpy(known.mean(axis=0))
    network.deviation[:, 0] = torch.from_numpy(known.std(axis=0) + 1e-3)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    loss = nn.CTCLoss(blank=units.blank, zero_infinity=True)
    draw = random.Random(_SEED)
    batches = _batches(windows, plan.batch)
    network.train()
    started, losses = time.monotonic(), []
    for step in range(plan.steps):
        if step % len(batches) == 0:
            draw.shuffle(batches)
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step / plan.steps)
        found = _loss(network, loss, batches[step % len(batches)], draw)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(found.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}, loss {np.mean(losses[-100:]):.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network


def _batches(windows: Sequence[_Window], size: int) -> list[Sequence[_Window]]:
    """Windows of like length together, so that little is padded."""
    ordered = sorted(windows, key=lambda window: len(window.features))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _learning_rate(done: float) -> float:
    """At a share `done` of the steps: up in a line, down in half a wave."""
    if done < _RISE:
        return _RATE * (done / _RISE + 0.02)
    return _RATE * (0.5 * (1 + math.cos(math.pi * (done - _RISE) / (1 - _RISE))) + _FLOOR)


def _loss(network: Network, loss: nn.CTCLoss, batch: Sequence[_Window], draw: random.Random) -> Tensor:
    lengths = torch.tensor([len(window.features) for window in batch])
    features = torch.zeros(len(batch), len(network.mean), int(lengths.max()))
    for row, window in zip(features, batch, strict=True):
        row[:, : len(window.features)] = torch.from_numpy(window.features.T)
        _hide(row[:, : len(window.features)], network.mean, draw)
    found = network(features, lengths).transpose(0, 1)
    targets = torch.tensor([unit for window in batch for unit in window.units])
    return loss(found, targets, lengths // STRIDE, torch.tensor([len(window.units) for window in batch]))


def _hide(features: Tensor, mean: Tensor, draw: random.Random) -> None:
    """Puts the mean in place of a few frames and, in every second window, of a few bins (SpecAugment)."""
    first = draw.randrange(max(1, features.shape[1] - _HIDDEN_FRAMES))
    features[:, first : first + draw.randint(0, _HIDDEN_FRAMES)] = mean
    if draw.random() < 0.5:
        lowest = draw.randrange(len(features) - _HIDDEN_BINS)
        hidden = slice(lowest, lowest + draw.randint(1, _HIDDEN_BINS))
        features[hidden] = mean[hidden]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.train", description="Train a small Russian model.")
    parser.add_argument("layout", choices=sorted(LAYOUTS))
    parser.add_argument("folder", type=Path, metavar="DIR", help="where its files go; made where it is missing")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train(LAYOUTS[options.layout], Plan(), options.folder)


if __name__ == "__main__":
    main()
