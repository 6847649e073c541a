"""A collector of traces for tests: what pods tell of their requests."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.pods import wait_for


class Collector:
    """An OTLP collector on a loopback port: keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def until(self, trace_id: int, name: str) -> Any:
        """The span of this trace and name; it waits for it."""

        def find() -> Any:
            return next((span for span in self.of(trace_id) if span.name == name), None)

        return wait_for(f"span {name!r}", find, 20)

    def of(self, trace_id: int) -> list[Any]:
        """The spans of this trace that have come so far."""
        return [span for span in self.spans if int.from_bytes(span.trace_id, "big") == trace_id]

    def text(self) -> str:
        """All spans that have come so far, as text."""
        return "\n".join(map(str, self.spans))


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs."""
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()
