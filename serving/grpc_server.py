"""V2 over gRPC: KServe's own servicer, with our message limit, keys and drain around it.

KServe's `GRPCServer` takes its limits from its own command line and no interceptors, so the server is put together here.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import Any

from grpc import StatusCode, aio
from grpc_interceptor.server import AsyncServerInterceptor
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from serving import telemetry, v2
from serving.auth import Keys
from serving.deadline import CURRENT, Deadline
from serving.dialects import from_exception
from serving.errors import InternalError, MethodNotAllowed, ServingError, TooLarge
from serving.middleware import Drain, request_id_of
from serving.routes import no_version

logger = logging.getLogger(__name__)
_HEALTH_METHODS = {"ServerLive", "ServerReady", "ModelReady"}


class Servicer(InferenceServicer):  # type: ignore[misc]  # kserve ships no types
    """KServe's servicer, with readiness that tells the truth, and without calls that would change what is served.

    Args:
        dataplane: KServe's, with the pod's model.
        ready: whether the model is loaded and warm, and the pod not draining.
        max_values: most elements of typed contents; each becomes a Python object, those of raw contents do not.
    """

    def __init__(self, dataplane: DataPlane, ready: Callable[[], bool], max_values: int):
        super().__init__(dataplane, ModelRepositoryExtension(dataplane.model_registry))
        self._ready = ready
        self._max_values = max_values

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name is the protocol's
        """As `/v2` has it; KServe's own names itself, and an extension that is not served."""
        return pb.ServerMetadataResponse(**v2.server_metadata())

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether the pod is ready; KServe's own says yes always."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As `ServerReady`, for this pod's one model."""
        self._check(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._ready())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """KServe's own, for this pod's one model."""
        self._check(request.name, request.version)
        return await super().ModelMetadata(request, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Raises TooLarge for too many typed values."""
        self._check(request.model_name, request.model_version)
        count = sum(len(values) for each in request.inputs for _, values in each.contents.ListFields())
        if count > self._max_values:
            raise TooLarge(
                f"{count} values in 'contents'; at most {self._max_values} are accepted (MAX_JSON_VALUES), "
                "send tensors as raw_input_contents",
                code="too_many_values",
            )
        return await super().ModelInfer(request, context)

    def _check(self, name: str, version: str) -> None:
        """Raises ModelNotFound for another model, NotFound for a version, which KServe's own servicer ignores."""
        self._data_plane.get_model_from_registry(name)
        if version:
            raise no_version(name, version)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Raises MethodNotAllowed: a client must not decide what a pod holds."""
        raise MethodNotAllowed("the model repository is not served")

    RepositoryModelUnload = RepositoryModelLoad


class RequestInterceptor(AsyncServerInterceptor):  # type: ignore[misc]  # the base ships no types
    """What `serving.middleware` does for HTTP: request id, span, log line, key, drain count, and errors of the one tree."""

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
                return await _known(name, method(request_or_iterator, context))
            return await self._noted(name, lambda: method(request_or_iterator, context), metadata)
        finally:
            telemetry.REQUEST_ID.reset(token)

    async def _noted(self, name: str, call: Callable[[], Awaitable[Any]], metadata: dict[str, str]) -> Any:
        """`call` in a span, counted and with a log line, however it ends."""
        began, route = time.perf_counter(), f"grpc {name}"
        status = StatusCode.CANCELLED  # what is left when neither an answer nor an error comes: the client went away
        refusal = None
        with telemetry.span(route, SpanKind.SERVER, metadata) as span:
            try:
                answer = await _known(name, self._admitted(call, metadata))
                status = StatusCode.OK
            except ServingError as error:
                refusal, status = error, error.status_code
                if error.http_status >= 500:  # a client's mistake is no failure of the server's
                    span.set_status(trace.StatusCode.ERROR)
            finally:
                span.set_attribute("rpc.grpc.status_code", status.value[0])
                telemetry.note_request(route, status.name, began)
        if refusal is not None:
            raise refusal
        return answer

    async def _admitted(self, call: Callable[[], Awaitable[Any]], metadata: dict[str, str]) -> Any:
        """`call` with a key, by its deadline, and in flight for the drain."""
        self._keys.check(metadata.get("authorization"))
        deadline = Deadline.of(metadata, self._seconds)
        token = CURRENT.set(deadline)
        self._drain.enter()
        try:
            async with deadline.enforced():
                return await call()
        finally:
            self._drain.leave()
            CURRENT.reset(token)


async def _known(name: str, work: Awaitable[Any]) -> Any:
    """What `work` gives; its errors become those of the tree."""
    try:
        return await work
    except Exception as error:  # the one place where everything unexpected ends
        known = from_exception(error)
        if known is None:
            logger.exception("unhandled error in %s", name)
        raise (known or InternalError()) from None


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
