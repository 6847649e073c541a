"""ASGI apps on real sockets, served by uvicorn on the test's own event loop. Pods as processes are in `tests.pods`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from serving.server import Server

ServeApp = Callable[..., Awaitable[int]]
"""Type of the fixture `serve_app`: (app, port=0) → the port."""


async def until(check: Callable[[], Any], seconds: float = 10.0) -> None:
    """Returns once `check` is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # what is watched has no event: another process, a library's flag
            await asyncio.sleep(0.002)


class Listener:
    """A running server; `port` is where it listens."""

    def __init__(self, server: Server, task: asyncio.Task[None]):
        self._server = server
        self._task = task
        self.port = int(server.servers[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes its port and its connections, whatever goes on in them."""
        # By hand: uvicorn looks at its flag ten times a second only, and a test should not wait for that.
        self._task.cancel()
        await asyncio.wait({self._task})
        for server in self._server.servers:
            server.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await until(lambda: not self._server.server_state.connections and not self._server.server_state.tasks)


async def listen(app: Any, port: int = 0) -> Listener:
    """Serves `app` on a loopback port, a free one for 0."""
    config = uvicorn.Config(
        app, "127.0.0.1", port, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    return Listener(server, task)
