"""Fixtures of the audio transformer's tests."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.unit.audio.limits import media_limits
from transformers_pre.audio.media import DecoderPool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def media_pool() -> AsyncIterator[DecoderPool]:
    """Two decoders, one start for a module; its tests run in the module's loop."""
    async with DecoderPool(media_limits()) as pool:
        yield pool
