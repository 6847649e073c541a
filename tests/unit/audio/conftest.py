"""Fixtures of the audio transformer's tests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.unit.audio.limits import media_limits
from tests.unit.audio.live import LivePod, live_pod
from transformers_pre.audio.media import DecoderPool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def media_pool() -> AsyncIterator[DecoderPool]:
    """Two decoders, one start for a module; its tests run in the module's loop."""
    async with DecoderPool(media_limits()) as pool:
        yield pool


@pytest.fixture
async def pod() -> AsyncIterator[LivePod]:
    """Both pods of live audio, in the test's own process."""
    async with live_pod() as found:
        yield found
