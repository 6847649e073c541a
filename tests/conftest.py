"""What tests of every folder share: pods as processes, and ASGI apps on real sockets of this process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol

import pytest

from tests.pods import Pod
from tests.servers import ServeApp, listen


class StartPod(Protocol):
    """Starts `python -m module --flags`; the pod is stopped with the test. See `tests.pods.Pod`."""

    def __call__(self, module: str, model_name: str = ..., env: dict[str, str] | None = ..., **flags: Any) -> Pod: ...


@pytest.fixture
def start_pod() -> Iterator[StartPod]:
    """A factory of pods that live as long as the test."""
    with ExitStack() as pods:
        yield lambda *arguments, **flags: pods.enter_context(Pod(*arguments, **flags))


@pytest.fixture(scope="module")
def start_shared_pod() -> Iterator[StartPod]:
    """A factory of pods that live as long as the tests of the module."""
    with ExitStack() as pods:
        yield lambda *arguments, **flags: pods.enter_context(Pod(*arguments, **flags))


@pytest.fixture
async def serve_app() -> AsyncIterator[ServeApp]:
    """A factory: serves an ASGI app on a socket, on the test's own event loop, and gives its port."""
    async with AsyncExitStack() as stack:

        async def serve(app: Any, port: int = 0) -> int:
            listener = await listen(app, port)
            stack.push_async_callback(listener.stop)
            return listener.port

        yield serve
