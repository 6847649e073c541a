"""Logs, metrics and spans: one JSON object a line, and nothing in them of what was said, sent or called."""

import io
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from serving import errors, telemetry

# --- logs ---


def formatted(message: str, *arguments: Any, level: int = logging.INFO, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("unit").makeRecord("unit", level, "f.py", 1, message, arguments, None, extra=extra)
    line = telemetry.JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


@given(st.text(), st.dictionaries(st.text(min_size=1).map(lambda key: f"x{key}"), st.text() | st.integers(-9, 9)))
def test_any_record_is_one_json_object_on_one_line(text: str, extra: dict[str, Any]) -> None:
    line = formatted("%s", text, **extra)
    assert (line["message"], line["level"], line["logger"]) == (text, "INFO", "unit")
    assert {key: line[key] for key in extra} == extra


def test_what_json_has_no_type_for_is_written_as_text() -> None:
    assert formatted("x", where=io, items={"a": (1, b"2")})["items"] == {"a": [1, "b'2'"]}


def test_a_line_carries_the_id_of_its_request() -> None:
    assert "request_id" not in formatted("outside")
    token = telemetry.REQUEST_ID.set("id-1")
    assert formatted("inside")["request_id"] == "id-1"
    telemetry.REQUEST_ID.reset(token)


def test_a_traceback_is_a_field() -> None:
    try:
        raise RuntimeError("secret path /x")
    except RuntimeError:
        record = logging.getLogger("unit").makeRecord("unit", 40, "f.py", 1, "failed", (), sys.exc_info())
    line = json.loads(telemetry.JsonFormatter().format(record))
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("RuntimeError: secret path /x")


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Reads what a pod has written to stderr, line by line; the loggers are put back afterwards."""
    names = ("", "kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore")
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in map(logging.getLogger, names)]
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logging.captureWarnings(False)
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate


def test_every_librarys_log_is_json(lines: Lines) -> None:
    telemetry.configure_logging("INFO")
    for name in ("kserve", "uvicorn.error", "some.library"):
        logging.getLogger(name).warning("from %s", name)
    assert [line["message"] for line in lines()] == ["from kserve", "from uvicorn.error", "from some.library"]


def test_warnings_are_json_too(lines: Lines) -> None:
    telemetry.configure_logging("INFO")
    warnings.showwarning("old\nspelling", DeprecationWarning, "f.py", 1)  # what Python calls for a warning
    (line,) = lines()
    assert "old\nspelling" in line["message"]
    assert line["level"] == "WARNING"


def test_lines_that_repeat_ours_or_hold_paths_are_left_out(lines: Lines) -> None:
    """uvicorn writes a WebSocket's whole path and query, httpx the URL it calls."""
    telemetry.configure_logging("INFO")
    for name in ("uvicorn.access", "uvicorn.error", "httpx", "httpcore", "kserve.trace"):
        logging.getLogger(name).info('127.0.0.1 - "WebSocket /ws?file=secret.wav" [accepted]')
    assert lines() == []


def test_the_level_is_the_settings(lines: Lines) -> None:
    telemetry.configure_logging("ERROR")
    logging.getLogger("kserve").warning("no")
    logging.getLogger("serving").error("yes")
    assert [line["message"] for line in lines()] == ["yes"]


# --- metrics ---


@pytest.mark.parametrize(
    "name",
    [
        "request_preprocess_seconds_count", "request_predict_seconds_count", "request_postprocess_seconds_count",
    ],
)  # fmt: skip
def test_kserves_stage_metrics_are_in_the_same_registry(name: str) -> None:
    from kserve.metrics import get_labels, POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME  # noqa: I001

    for histogram in (PRE_HIST_TIME, PREDICT_HIST_TIME, POST_HIST_TIME):
        histogram.labels(**get_labels("stages")).observe(0.1)
    assert (REGISTRY.get_sample_value(name, {"model_name": "stages"}) or 0) > 0


def test_ours_are_there() -> None:
    telemetry.AUDIO_SECONDS.labels("m").inc(2.5)
    telemetry.WINDOWS.labels("m", "silent").inc()
    telemetry.FORCED_CUTS.labels("m").inc()
    telemetry.REDECODED_SECONDS.labels("m").inc(1.5)
    telemetry.QUEUE_LENGTH.labels("m").set(3)
    telemetry.mark_cold_start("load")
    for name, labels, least in (
        ("sonotome_audio_seconds_total", {"model_name": "m"}, 2.5),
        ("sonotome_windows_total", {"model_name": "m", "outcome": "silent"}, 1),
        ("sonotome_forced_cuts_total", {"model_name": "m"}, 1),
        ("sonotome_redecoded_seconds_total", {"model_name": "m"}, 1.5),
        ("sonotome_batch_queue_length", {"model_name": "m"}, 3),
        ("cold_start_seconds", {"phase": "load"}, 0.001),
    ):
        assert (REGISTRY.get_sample_value(name, labels) or 0) >= least, name


def test_the_operators_manual_has_every_metric() -> None:
    manual = (Path(__file__).parents[3] / "charts/sonotome/README.md").read_text()
    ours = {each._name for each in vars(telemetry).values() if isinstance(each, MetricWrapperBase)}
    assert len(ours) > 10
    assert {name for name in ours if f"`{name}" not in manual and f"`{name}_total" not in manual} == set()


def test_a_cold_start_counts_from_the_start_of_the_process() -> None:
    script = (
        "import time; time.sleep(0.5); from serving import telemetry; telemetry.mark_cold_start('x');"
        "print(telemetry.COLD_START.labels('x')._value.get())"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0.5 <= float(done.stdout) <= time.monotonic() - begun + 0.02  # the kernel tells starts in hundredths


# --- spans ---


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of the kit end up, for one test: the process's provider can be set only once."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", provider.get_tracer("unit"))
    return exporter


def finished(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return list(spans.get_finished_spans())


PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def test_a_span_continues_its_callers_trace_and_passes_it_on(spans: InMemorySpanExporter) -> None:
    sent: dict[str, str] = {}
    with telemetry.span("outer", trace.SpanKind.SERVER, PARENT), telemetry.span("hop", trace.SpanKind.CLIENT):
        telemetry.inject(sent)
    hop, outer = finished(spans)
    assert hop.parent is not None
    assert outer.parent is not None
    assert f"{outer.context.trace_id:032x}" == f"{hop.context.trace_id:032x}" == PARENT["traceparent"][3:35]
    assert (outer.parent.span_id, hop.parent.span_id) == (0xB7AD6B7169203331, outer.context.span_id)
    assert sent["traceparent"] == f"00-{hop.context.trace_id:032x}-{hop.context.span_id:016x}-01"


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "nonsense"}, {"traceparent": "00-0-0-0", "baggage": "\x00"}])
def test_a_trace_header_that_is_none_starts_a_new_trace(spans: InMemorySpanExporter, carrier: dict[str, str]) -> None:
    with telemetry.span("outer", carrier=carrier):
        pass
    assert finished(spans)[0].parent is None


def test_an_error_marks_its_span_by_type_and_tells_no_more(spans: InMemorySpanExporter) -> None:
    with pytest.raises(errors.InvalidInput), telemetry.span("work"):
        raise errors.InvalidInput("what was said")
    (span,) = finished(spans)
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "InvalidInput")
    assert "what was said" not in span.to_json()
    assert span.events == ()


def test_without_a_collector_the_callers_context_still_goes_along() -> None:
    sent: dict[str, str] = {}
    with telemetry.span("outer", carrier=PARENT):
        telemetry.inject(sent)
    assert sent["traceparent"] == PARENT["traceparent"]


def test_without_an_endpoint_there_is_no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    before = telemetry.tracer
    telemetry.configure_tracing("m")
    assert telemetry.tracer is before
    telemetry.flush_traces()  # and nothing to flush
