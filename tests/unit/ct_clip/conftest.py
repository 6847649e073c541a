"""A small model's files, made once."""

from pathlib import Path

import pytest

from tests import ct_clip_files
from tests.ct_clip_reference import TINY


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published files and tokenizer, and their bundles in `models`."""
    made = tmp_path_factory.mktemp("ct_clip")
    ct_clip_files.prepared(made, TINY, keep_text=True)
    return made
