"""Runs a pod: settings → load → warm up → serve → drain.

The port is open while the model loads (liveness answers, readiness does not), so a slow load is no crash loop. A load
that fails ends the process with its reason. SIGTERM drains: readiness goes, new work is refused with 503, what is in
flight (requests, event streams, WebSockets, gRPC) may finish within `grace_seconds`, then everything closes.

KServe's own `ModelServer.start` blocks until the model is loaded and cuts WebSockets at SIGTERM; its parts (app, data
plane, routes, servicer) are used here in our order.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import psutil
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from kserve import ModelServer
from kserve.model_server import app as kserve_app
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from serving import grpc_server, telemetry
from serving.auth import Keys
from serving.dialects import Dialects, Render
from serving.middleware import ApiKeys, BodyLimit, DeadlineMiddleware, Drain, DrainMiddleware, HealthPaths, RequestScope
from serving.routes import HEALTH, BodyBudget, JsonLimit, health_router, mount_docs, protocol_router
from serving.settings import PodSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 65
"""How long an idle connection is kept: longer than the 60 s of common load balancers, and than a hop uses one again."""
_CLOSING_SECONDS = 3.0
_GOODBYE_SECONDS = 1.0  # for clients of WebSockets to answer the close
_KSERVES_HEALTH = ("/metrics", "/v2/health/live")
_KSERVES = {
    *_KSERVES_HEALTH,
    "/v1/models",
    "/v1/models/{}",
    "/v2/models",
    "/v2/models/{}",
}
"""The routes of KServe's that stay, but where ours have the same path."""


class PodModel(Protocol):
    """A KServe model that can start and stop: `serving.predictor.Predictor`, or a transformer's."""

    name: str
    ready: bool
    dead: asyncio.Event
    """Set when the model cannot go on: the pod ends with an error, and is restarted."""

    async def start_up(self) -> None: ...  # noqa: D102
    async def shut_down(self) -> None: ...  # noqa: D102
    def health(self) -> dict[str, Any]: ...  # noqa: D102


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the pod decides when to stop."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until `should_exit`. Raises RuntimeError when the port is taken; uvicorn would end the process here."""
        try:
            await super().serve(sockets)
        except SystemExit:
            raise RuntimeError(f"port {self.config.port} cannot be opened") from None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes every connection. Clients that were sent a close frame may answer it first: they are still sending.

        A connection that is closed with something unread in it is reset, and with it goes what its client has not read yet.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                while any(getattr(each, "close_sent", False) for each in self.server_state.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def serve(
    model: PodModel,
    settings: PodSettings,
    *,
    routers: Sequence[APIRouter] = (),
    dialects: Mapping[str, Render] | None = None,
    health: Iterable[str] = (),
    drain: Drain | None = None,
    bodies: BodyBudget | None = None,
) -> None:
    """Serves `model` until SIGTERM or SIGINT; exits the process with 1 when it cannot be loaded.

    Args:
        model: what is served; it must be a KServe `Model`.
        settings: ports, limits, keys.
        routers: the public routes of a transformer; they come before KServe's.
        dialects: error body by path prefix, besides KServe's.
        health: paths of `routers` that are health (`serving.middleware.HealthPaths`), besides the kit's own.
        drain: pass one to share it with routes that end long streams when the pod stops.
        bodies: pass one to share it with those of `routers` that take JSON.
    """
    telemetry.configure_logging(settings.log_level)
    telemetry.configure_tracing(settings.model_name)
    telemetry.mark_cold_start("import")
    try:
        keys = Keys(settings.api_keys.get_secret_value(), settings.api_keys_file)
    except ValueError as error:
        sys.exit(str(error))
    bodies = bodies or BodyBudget(settings.max_bodies_bytes)
    pod, runner = _Pod(model, settings, keys, drain or Drain(), bodies), asyncio.Runner()
    code = runner.run(pod.run(routers, dialects or {}, health))
    telemetry.flush_traces()
    if pod.abandoned:
        # A library's call cannot be interrupted, and Python would wait for its thread: no load, no batch may keep a
        # pod alive that has to go. Nor may processes that the library has started stay behind.
        _kill_children()
        logging.shutdown()
        os._exit(code)
    runner.close()
    sys.exit(code)


def _kill_children() -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=1)


class _Pod:
    def __init__(self, model: PodModel, settings: PodSettings, keys: Keys, drain: Drain, bodies: BodyBudget):
        self._model = model
        self._settings = settings
        self._keys = keys
        self._drain = drain
        self._bodies = bodies
        self._stop = asyncio.Event()
        self.abandoned = False
        """Whether a thread may still be at work for the model when `run` returns."""

    async def run(self, routers: Sequence[APIRouter], dialects: Mapping[str, Render], health: Iterable[str]) -> int:
        settings = self._settings
        # Only its data plane is used: registry, metadata, and the context that KServe's classes expect.
        kserve = ModelServer(http_port=settings.http_port, enable_grpc=False, workers=1)
        kserve.register_model(self._model)
        server = Server(configuration(self._application(kserve, routers, dialects, health), settings))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        serving = asyncio.create_task(server.serve())
        grpc = None
        code = 0
        try:
            if settings.enable_grpc:
                servicer = grpc_server.Servicer(
                    kserve.dataplane,
                    lambda: self._model.ready and not self._drain.draining.is_set(),
                    settings.max_json_values,
                )
                grpc = await grpc_server.start(
                    servicer,
                    f"{settings.host}:{settings.grpc_port}",
                    max_message=settings.grpc_max_message_bytes,
                    seconds=settings.request_timeout_seconds,
                    keys=self._keys,
                    drain=self._drain,
                )
            code = await self._until_stopped(serving)
        except (ValueError, RuntimeError) as error:  # unusable weights, device or port: one line, no traceback
            logger.critical("cannot start: %s", error)
            code = 1
        except Exception:
            logger.critical("cannot start", exc_info=True)
            code = 1
        finally:
            self._drain.begin()  # what is in flight goes on, so the model stays ready for it
            await self._finish_work(server, serving, grpc)
        return code

    def _application(
        self,
        kserve: ModelServer,
        routers: Sequence[APIRouter],
        dialects: Mapping[str, Render],
        health: Iterable[str],
    ) -> FastAPI:
        app: FastAPI = kserve_app
        app.router.default_response_class = JSONResponse  # KServe's choice is deprecated, and each first use warns
        mount_docs(app, f"Sonotome · {self._model.name}", "Speech, audio and chest-CT inference on KServe.")
        draining = self._drain.draining.is_set
        for router in (
            *routers,
            health_router(self._model, draining),
            protocol_router(
                self._model,
                JsonLimit(self._settings.max_json_bytes, self._settings.max_json_values),
                self._bodies,
            ),
        ):
            app.include_router(router)
        # Not by KServe's RESTServer: with vLLM installed it imports all of that for its OpenAI routes, which no model here has.
        app.add_api_route("/metrics", metrics_handler, methods=["GET"])
        for register in (register_v1_endpoints, register_v2_endpoints):
            register(app, kserve.dataplane, kserve.model_repository_extension)
        _drop_replaced(app)
        return wrap(
            app,
            dialects,
            self._keys,
            self._drain,
            self._settings.max_body_bytes,
            seconds=self._settings.request_timeout_seconds,
            health=health,
            revision=self._settings.k_revision,
        )

    async def _until_stopped(self, serving: asyncio.Task[None]) -> int:
        starting = asyncio.create_task(self._model.start_up())
        stopping = asyncio.create_task(self._stop.wait())
        dying = asyncio.create_task(self._model.dead.wait())
        try:
            await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            if starting.done():
                await starting
                telemetry.mark_cold_start("ready")
                logger.info("ready", extra={"model": self._model.name, "http_port": self._settings.http_port})
                await asyncio.wait({stopping, serving, dying}, return_when=asyncio.FIRST_COMPLETED)
            return 0 if self._stop.is_set() else 1
        finally:
            self.abandoned = not starting.done()  # cancelling it ends the waiting, not the loading
            for task in (starting, stopping, dying):
                task.cancel()
            await asyncio.gather(starting, stopping, dying, return_exceptions=True)

    async def _finish_work(self, server: Server, serving: asyncio.Task[None], grpc: Any) -> None:
        grace = self._settings.grace_seconds
        try:
            await asyncio.wait_for(self._drain.wait(), grace)
        except TimeoutError:
            logger.warning("work was cut off after GRACE_SECONDS", extra={"grace_seconds": grace})
        if grpc is not None:
            await grpc.stop(grace=1)
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        try:
            await asyncio.wait_for(self._model.shut_down(), _CLOSING_SECONDS)
        except TimeoutError:
            logger.warning("the model did not stop in time")
            self.abandoned = True
        logger.info("stopped")


def configuration(app: FastAPI, settings: PodSettings) -> uvicorn.Config:
    """What uvicorn is told: the pod's address and limits, and that logs and signals are not its own."""
    return uvicorn.Config(
        app,
        settings.host,
        settings.http_port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ws_max_size=settings.max_websocket_message_bytes,
        # A pong comes behind what the client has sent and nobody has read yet: who waits for it ends healthy connections
        # whenever the model is slow. Clients that are gone are the routes' affair, which know who owes a message.
        ws_ping_timeout=None,
        timeout_graceful_shutdown=1,
    )


def _drop_replaced(app: FastAPI) -> None:
    """Takes those of KServe's routes off that ours replace, or that let a client unload the model or ask for nothing."""
    routers = list(_routers(app.router))
    ours = {_pattern(route) for router in routers for route in router.routes if not _is_kserves(route)}
    for router in routers:
        router.routes[:] = [
            route for route in router.routes if not _is_kserves(route) or _pattern(route) in _KSERVES - ours
        ]


def _pattern(route: Any) -> str:
    """A route's path, whatever its parameters are called."""
    return re.sub(r"\{.*?\}", "{}", getattr(route, "path", ""))


def _routers(router: APIRouter) -> Iterator[APIRouter]:
    """A router and those that were included in it, at any depth."""
    yield router
    for route in router.routes:
        if hasattr(route, "original_router"):
            yield from _routers(route.original_router)


def _is_kserves(route: Any) -> bool:
    return str(getattr(getattr(route, "endpoint", None), "__module__", "")).startswith("kserve.")


def wrap(
    app: FastAPI,
    dialects: Mapping[str, Render],
    keys: Keys,
    drain: Drain,
    max_body_bytes: int,
    *,
    seconds: float = 600.0,
    health: Iterable[str] = (),
    revision: str = "",
) -> FastAPI:
    """Puts `serving.middleware` around an app and takes its own error handlers off, so that every error ends there."""
    shapes, probed = Dialects(), HealthPaths([*_KSERVES_HEALTH, *HEALTH, *health])
    for prefix, render in dialects.items():
        shapes.register(prefix, render)
    for handled in list(app.exception_handlers):
        app.add_exception_handler(handled, _reraise)
    app.add_middleware(BodyLimit, limit=max_body_bytes)  # the last one added is the outermost
    app.add_middleware(ApiKeys, keys=keys, health=probed)
    app.add_middleware(DrainMiddleware, drain=drain, health=probed)
    app.add_middleware(DeadlineMiddleware, seconds=seconds, health=probed)
    app.add_middleware(RequestScope, dialects=shapes, drain=drain, health=probed, revision=revision)
    return app


async def _reraise(_request: Any, error: Exception) -> Any:
    raise error
