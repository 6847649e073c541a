"""Tiny checkpoints, made once a run."""

from pathlib import Path

import pytest
import torch

from tests.unit.audio_caption import tiny

# Threads that wait for each other take minutes where the cores are busy, and the models are tiny.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.hugging_face(tmp_path_factory.mktemp("caption") / "hf")


@pytest.fixture(scope="session")
def of_2023(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.of_2023(tmp_path_factory.mktemp("caption") / "2023")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions go where the run's other files are, and are shared by its tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
