"""A small model's files, made once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import ct_clip_files
from tests.ct_clip_reference import TINY


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: on two it sums products otherwise, and results differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published files and tokenizer, and their bundles in `models`."""
    made = tmp_path_factory.mktemp("ct_clip")
    with one_thread():
        ct_clip_files.prepared(made, TINY, keep_text=True)
    return made
