"""V2 over gRPC: KServe's own servicer, with our message limit, keys and drain around it.

KServe's `GRPCServer` takes its limits from its own command line and no interceptors, so the server is put together here.
"""

import logging
from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import Any

from grpc import aio
from grpc_interceptor.server import AsyncServerInterceptor
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from opentelemetry.trace import SpanKind

from serving import telemetry
from serving.auth import Keys
from serving.deadline import CURRENT, Deadline
from serving.dialects import from_exception
from serving.errors import InternalError, MethodNotAllowed
from serving.middleware import Drain, request_id_of
from serving.routes import no_version

logger = logging.getLogger(__name__)
_HEALTH_METHODS = {"ServerLive", "ServerReady", "ModelReady"}


class Servicer(InferenceServicer):  # type: ignore[misc]  # kserve ships no types
    """KServe's servicer, with readiness that tells the truth, and without calls that would change what is served."""

    def __init__(self, dataplane: DataPlane, ready: Callable[[], bool]):
        super().__init__(dataplane, ModelRepositoryExtension(dataplane.model_registry))
        self._ready = ready

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name is the protocol's
        """Whether the model is loaded and warm, and the pod not draining; KServe's own says yes always."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As `ServerReady`, for this pod's one model. Raises ModelNotFound for any other."""
        self._data_plane.get_model_from_registry(request.name)
        return pb.ModelReadyResponse(ready=self._ready())

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Raises NotFound for a version: KServe's own ignores it."""
        if request.model_version:
            raise no_version(request.model_name, request.model_version)
        return await super().ModelInfer(request, context)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Raises MethodNotAllowed: a client must not decide what a pod holds."""
        raise MethodNotAllowed("the model repository is not served")

    RepositoryModelUnload = RepositoryModelLoad


class RequestInterceptor(AsyncServerInterceptor):  # type: ignore[misc]  # the base ships no types
    """What `serving.middleware` does for HTTP: request id, key, drain count, and errors of the one tree."""

    def __init__(self, keys: Keys, drain: Drain, seconds: float):
        self._keys = keys
        self._drain = drain
        self._seconds = seconds

    async def intercept(
        self,
        method: Callable[[Any, aio.ServicerContext], Awaitable[Any]],
        request_or_iterator: Any,
        context: aio.ServicerContext,
        method_name: str,
    ) -> Any:
        """Serves one call."""
        name = method_name.rpartition("/")[2]
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        request_id = request_id_of(metadata)
        await context.send_initial_metadata((("x-request-id", request_id),))
        token = telemetry.REQUEST_ID.set(request_id)
        try:
            if name in _HEALTH_METHODS:
                return await method(request_or_iterator, context)
            self._keys.check(metadata.get("authorization"))
            return await self._counted(name, lambda: method(request_or_iterator, context), metadata)
        except Exception as error:
            known = from_exception(error)
            if known is None:
                logger.exception("unhandled error in %s", name)
            raise (known or InternalError()) from None
        finally:
            telemetry.REQUEST_ID.reset(token)

    async def _counted(self, name: str, call: Callable[[], Awaitable[Any]], metadata: dict[str, str]) -> Any:
        """`call` by its deadline, in flight for the drain, in a span."""
        deadline = Deadline.of(metadata, self._seconds)
        token = CURRENT.set(deadline)
        self._drain.enter()
        try:
            with telemetry.span(f"grpc {name}", SpanKind.SERVER, metadata):
                async with deadline.enforced():
                    return await call()
        finally:
            self._drain.leave()
            CURRENT.reset(token)


async def start(
    servicer: Servicer, address: str, *, max_message: int, seconds: float, keys: Keys, drain: Drain
) -> aio.Server:
    """Starts the server on `address`, e.g. "[::]:8081". Raises RuntimeError when the port is taken."""
    server = aio.server(
        futures.ThreadPoolExecutor(max_workers=4),
        # KServe's interceptor is the outer one: it turns the error that ours raises into a status.
        interceptors=(ExceptionToStatusInterceptor(), RequestInterceptor(keys, drain, seconds)),
        options=[
            ("grpc.max_send_message_length", max_message),
            ("grpc.max_receive_message_length", max_message),
            ("grpc.so_reuseport", 0),  # a second process on the port is a mistake, not a second listener
        ],
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    return server
