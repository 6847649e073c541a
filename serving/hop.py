"""The transformer's client of its predictor: V2 with binary tensors over HTTP, streamed, one deadline, honest errors.

Retried is only what the predictor never started on: a connection that could not be made or broke before the request had
gone out whole, and 503. Everything else is passed on: the predictor's own 4xx with its message, a connection that is lost
later as 503. Its address never reaches a client.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import orjson
from kserve import InferRequest, InferResponse
from opentelemetry.trace import SpanKind

from serving import served_by, telemetry, v2
from serving.deadline import HEADER, Deadline
from serving.errors import BY_STATUS, DeadlineExceeded, InternalError, PredictorUnavailable, ServingError

logger = logging.getLogger(__name__)

FORWARDED = ("authorization", "baggage", "traceparent", "tracestate")
"""Request headers that the predictor gets too, besides `x-request-id` and all `x-b3-*`."""

_THE_CLIENTS = (400, 401, 413, 415, 422)
"""The predictor's refusals that are about the client's request; any other is a fault of this pod's settings or ours."""

IDLE_SECONDS = 30.0
"""A connection that was idle this long is not used again.

The server keeps it longer (`serving.server.KEEP_ALIVE_SECONDS`), so that it never closes one that a request is just
being sent on. A small request would be lost with it, and nobody could tell whether it was started.
"""

_CHUNK = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between tries, doubled each time, with full jitter
_BROKEN = "broken"


class PredictorClient:
    """Calls one model of one predictor, over a pool of kept-alive connections.

    Args:
        host: host, or host:port, as KServe's `--predictor_host` has it.
        model_name: the model's name on the predictor.
        use_ssl: whether to call it over https.
        connections: connections at a time, over all requests.
        retry_seconds: how long a predictor that cannot be reached, or answers 503, is called again.
    """

    def __init__(
        self, host: str, model_name: str, *, use_ssl: bool = False, connections: int = 64, retry_seconds: float = 60.0
    ):
        self.model_name = model_name
        self._retry_seconds = retry_seconds
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
        )
        self._http = httpx.AsyncClient(
            base_url=f"{'https' if use_ssl else 'http'}://{host}",
            limits=limits,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def infer(self, request: InferRequest, headers: Mapping[str, str], deadline: Deadline) -> InferResponse:
        """The predictor's answer.

        Args:
            request: built by `serving.v2.request`; its arrays are sent as they lie in memory.
            headers: those of the client's request; the ones in `FORWARDED` go along.
            deadline: of the whole request; what is left of it is the predictor's limit.

        Raises:
            ServingError: the predictor's own refusal, PredictorUnavailable or DeadlineExceeded.
        """
        parts, length = v2.encode(request)
        sent = _forward(headers)
        sent["content-type"] = "application/octet-stream"
        sent["content-length"] = str(sum(len(part) for part in parts))
        sent[v2.JSON_LENGTH] = str(length)
        with telemetry.span("hop", SpanKind.CLIENT):
            telemetry.inject(sent)
            pause, give_up = _FIRST_PAUSE, time.monotonic() + self._retry_seconds
            broken = False
            while True:
                try:
                    return await self._send(parts, sent, deadline)
                except _NeverStarted as error:
                    wait = random.uniform(0, pause)  # noqa: S311  # jitter, no secret
                    # A try needs some time too, or 503 would become 504. And what breaks twice on its way may be the
                    # request's own doing: a body that the predictor's memory cannot hold.
                    late = wait + _FIRST_PAUSE >= min(deadline.left(), give_up - time.monotonic())
                    if late or (broken and error.reason == _BROKEN):
                        raise error.refusal from None
                    broken = broken or error.reason == _BROKEN
                    telemetry.HOP_RETRIES.labels(error.reason).inc()
                    await asyncio.sleep(wait)
                    pause = min(2 * pause, _LONGEST_PAUSE)

    async def health(self, seconds: float) -> dict[str, Any]:
        """The predictor's `/health`. Raises PredictorUnavailable while it does not answer with 200 and a loaded model."""
        try:
            ready = await self._http.get(f"/v2/models/{self.model_name}/ready", timeout=seconds)
            answer = await self._http.get("/health", timeout=seconds)
            state = answer.json() if ready.status_code == answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            state = None
        if not isinstance(state, dict):
            raise PredictorUnavailable("the predictor is not ready")
        return state

    async def _send(self, parts: list[v2.Body], headers: dict[str, str], deadline: Deadline) -> InferResponse:
        left = deadline.left()
        headers[HEADER] = f"{left:.3f}"
        body = _Outgoing(parts)
        try:
            async with asyncio.timeout(left):
                response = await self._http.post(
                    f"/v2/models/{self.model_name}/infer",
                    content=body,
                    headers=httpx.Headers(headers, "latin-1"),  # as Starlette read them: any byte goes along
                    timeout=left,
                )
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise deadline.exceeded("the predictor did not answer within the request's") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            logger.warning("the predictor cannot be reached", extra={"reason": type(error).__name__})
            raise _NeverStarted("connect", PredictorUnavailable("the predictor cannot be reached")) from None
        except httpx.TransportError as error:
            logger.warning("the connection to the predictor was lost", extra={"reason": type(error).__name__})
            if not body.is_out:
                raise _NeverStarted(_BROKEN, PredictorUnavailable("the connection to the predictor broke")) from None
            raise PredictorUnavailable("the predictor went away while it worked on this request") from None
        except httpx.DecodingError:
            logger.exception("the predictor's answer is not what its content-encoding says")
            raise InternalError from None
        finally:
            body.release()
        served_by.note(response.headers.get(served_by.HEADER, ""))
        if response.status_code == 200:
            return _decode(response)
        raise _refusal(response)


class _NeverStarted(Exception):  # a signal inside this module, not an error of the tree
    """The predictor did not begin: the call may be repeated."""

    def __init__(self, reason: str, refusal: ServingError):
        self.reason = reason
        self.refusal = refusal


def _forward(headers: Mapping[str, str]) -> dict[str, str]:
    lowered = {name.lower(): value for name, value in headers.items()}
    kept = {name: value for name, value in lowered.items() if name in FORWARDED or name.startswith("x-b3-")}
    request_id = telemetry.REQUEST_ID.get() or lowered.get("x-request-id")
    return {**kept, "x-request-id": request_id} if request_id else kept


class _Outgoing:
    """A body on its way. As long as it is not out, the predictor cannot have all of it, and begins nothing without.

    httpx's responses and requests refer to each other, and so to this, until Python's collector comes round: what a body may
    weigh must not wait for it.
    """

    def __init__(self, parts: list[v2.Body]):
        self._parts = parts
        self.is_out = False

    def release(self) -> None:
        """Lets go of what was to be sent."""
        self._parts = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(len(self._parts)):
            for start in range(0, len(memoryview(self._parts[number])), _CHUNK):
                yield bytes(memoryview(self._parts[number])[start : start + _CHUNK])  # no local refers to it meanwhile
        self.is_out = True  # the last chunk was written, or nobody would have asked for the next


def _decode(response: httpx.Response) -> InferResponse:
    length = response.headers.get(v2.JSON_LENGTH)
    try:
        return v2.decode_response(response.content, int(length) if length is not None else None)
    except (ValueError, ServingError):
        logger.exception("the predictor's answer is not V2")
        raise InternalError from None


def _refusal(response: httpx.Response) -> Exception:
    """The predictor's refusal as an error of ours: same status, same message; 5xx messages are not passed on."""
    status = response.status_code
    if status == 503:
        refusal = PredictorUnavailable("the predictor is busy or not ready", retry_after=_retry_after(response))
        return _NeverStarted("503", refusal)
    if status == 502:  # of a proxy on the way, Knative's in the pod: its container is gone, whether it had begun or not
        return PredictorUnavailable("the predictor went away while it worked on this request")
    if status in _THE_CLIENTS:
        return BY_STATUS[status](_message(response), code="refused_by_predictor")
    if status == 504:
        return DeadlineExceeded("the predictor did not finish within the request's deadline")
    logger.error("the predictor failed", extra={"status": status})
    return InternalError()


def _message(response: httpx.Response) -> str:
    try:
        return str(orjson.loads(response.content)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "the predictor refused the request"


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 6 else 1.0
