"""The Whisper service as two real processes with real weights, shared by the tests that only call it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import Service, whisper

RECORDINGS = Path(__file__).parents[2] / ".data/recordings"


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Predictor (Whisper-base on CTranslate2) and transformer, ready."""
    with whisper() as running:
        yield running


@pytest.fixture(scope="session")
def call() -> bytes:
    """30.000 s of a telephone call between two people, WAV."""
    return (RECORDINGS / "pyannote/audio/sample/sample.wav").read_bytes()
