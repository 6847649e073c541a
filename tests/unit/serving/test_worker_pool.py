"""A pool of workers that closes while it starts one: nothing of that one is left."""

import asyncio

import psutil
import pytest

from serving.workers.pool import Worker

MODULE = "transformers_pre.audio.decoder"
MEMORY_BYTES = 64 << 20


@pytest.mark.parametrize("step", range(30))
async def test_a_start_that_is_cancelled_leaves_no_process_and_no_descriptor(step: int) -> None:
    """A step is one turn of the event loop; the later ones find it waiting for the process's first message."""
    here = psutil.Process()
    descriptors, children = here.num_fds(), here.children()
    starting = asyncio.create_task(Worker.start(MODULE, MEMORY_BYTES))
    for _ in range(step):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert here.children() == children
    assert here.num_fds() <= descriptors
