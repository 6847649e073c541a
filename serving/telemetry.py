"""What a pod tells about itself: JSON logs, Prometheus metrics, OpenTelemetry traces.

Nothing here ever sees what was said or shown: no transcript text, no file name, no URL, no key.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import orjson
import psutil
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that this task works on; every log line carries it."""

REQUESTS = Counter("sonotome_requests_total", "Requests answered", ["route", "status"])
IN_FLIGHT = Gauge("sonotome_requests_in_flight", "Requests, streams and WebSockets being worked on")
COLD_START = Gauge("cold_start_seconds", "Seconds from the start of the process", ["phase"])
QUEUE_LENGTH = Gauge(
    "sonotome_batch_queue_length", "Items waiting for a batch, or in an engine that batches by itself", ["model_name"]
)
BATCH_SIZE = Histogram(
    "sonotome_batch_size", "Items that shared one call of the engine", ["model_name"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_SECONDS = Histogram("sonotome_batch_queue_seconds", "Wait of an item before its batch began", ["model_name"])
DECODE_QUEUE_LENGTH = Gauge("sonotome_decode_queue_length", "Recordings waiting for a decoder process")
STUDY_QUEUE_LENGTH = Gauge("sonotome_study_queue_length", "CT studies waiting to be read")
STUDY_READ_SECONDS = Histogram(
    "sonotome_study_read_seconds",
    "Time from an upload to its volume, the wait included",
    buckets=(0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256),
)
AUDIO_SECONDS = Counter("sonotome_audio_seconds_total", "Seconds of audio taken in", ["model_name"])
WINDOWS = Counter("sonotome_windows_total", "Windows by what became of them", ["model_name", "outcome"])
FORCED_CUTS = Counter("sonotome_forced_cuts_total", "Cuts made inside unbroken speech", ["model_name"])
REDECODED_SECONDS = Counter(
    "sonotome_redecoded_seconds_total", "Seconds decoded again because a decoder stopped early", ["model_name"]
)
HOP_RETRIES = Counter("sonotome_hop_retries_total", "Calls of the predictor that were repeated", ["reason"])

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
tracer = trace.get_tracer("sonotome")
_provider: "TracerProvider | None" = None


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and the record's own extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record; a traceback goes into the field `exception`."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure_logging(level: str) -> None:
    """All loggers, KServe's and uvicorn's too, and Python's warnings, as JSON lines on stderr.

    KServe's latency lines and uvicorn's access lines are silenced: the access line of `serving.middleware` says both.
    So is what uvicorn and httpx tell of every connection and call: it holds whole paths, as the client chose them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("kserve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("kserve").setLevel(level)
    for name in ("kserve.trace", "uvicorn.access", "uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)


def configure_tracing(service: str) -> None:
    """Sends spans by OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise spans cost nothing.

    The provider stays our own: libraries that find a global one (FastAPI does) add spans to each request that hold its
    path and query, as the client wrote them.
    """
    global tracer, _provider  # noqa: PLW0603  # set once, before the process serves anything
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    # Imported here: the SDK takes 0.2 s that a pod without tracing need not pay at a cold start.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = _provider.get_tracer("sonotome")


def flush_traces() -> None:
    """Sends what spans are left; call it when the pod stops. A collector that does not answer holds it up for 2 s."""
    if _provider is not None:
        sending = threading.Thread(target=_provider.shutdown, daemon=True)  # it tries again for 10 s
        sending.start()
        sending.join(2.0)


@contextlib.contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, carrier: Mapping[str, str] | None = None
) -> Iterator[trace.Span]:
    """A span; `carrier` holds the headers of the request that caused it. An exception marks it as failed, by type only."""
    context = propagate.extract(carrier) if carrier is not None else None
    with tracer.start_as_current_span(
        name, context=context, kind=kind, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def inject(headers: MutableMapping[str, str]) -> None:
    """Adds the current trace context to the headers of an outgoing call."""
    propagate.inject(headers)


def note_request(route: str, status: int | str, began: float) -> None:
    """Counts an answered request and writes its log line.

    Args:
        route: the route's template, or "grpc" and the method; nothing that a client chose.
        status: of HTTP, e.g. 200, or the name of gRPC's, e.g. "OK".
        began: `time.perf_counter()` when it came.
    """
    REQUESTS.labels(route, str(status)).inc()
    seconds = round(time.perf_counter() - began, 4)
    logger.info("request", extra={"route": route, "status": status, "seconds": seconds})


def mark_cold_start(phase: str) -> None:
    """Notes how long after the process's start a phase (import, load, warmup, ready) was over."""
    process = psutil.Process()
    began = process.create_time() - psutil.boot_time()  # both by the same reading of the clock, which this cancels
    COLD_START.labels(phase).set(time.clock_gettime(time.CLOCK_BOOTTIME) - began)
