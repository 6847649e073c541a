"""What tests of every folder share: pods as processes, and ASGI apps on real sockets of this process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol

import httpx
import pytest

from tests.pods import Pod, running
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


@pytest.fixture(scope="session")
def pod() -> Iterator[Pod]:
    """The predictor pod of `tests.gated_pod`, its gate closed; tests share it and leave it as it was."""
    flags: dict[str, Any] = {"max_batch_size": 4, "max_queue": 8, "max_batch_wait_ms": 20, "refuse_above": 0.9}
    with running("tests.gated_pod", "gated", **flags) as made:
        yield made


@pytest.fixture
def http(pod: Pod) -> Iterator[httpx.Client]:
    """A client of the test's `pod`."""
    with httpx.Client(base_url=pod.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
async def serve_app() -> AsyncIterator[ServeApp]:
    """A factory: serves an ASGI app on a socket, on the test's own event loop, and gives its port."""
    async with AsyncExitStack() as stack:

        async def serve(app: Any, port: int = 0) -> int:
            listener = await listen(app, port)
            stack.push_async_callback(listener.stop)
            return listener.port

        yield serve
