"""Spans of requests, where the operator has named a collector."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from flask import Flask

from app import create_app
from app.config import Settings, SettingsError
from app.http import tracing
from app.http.context import EXTENSION

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Where the spans go."""
    return InMemorySpanExporter()


@pytest.fixture
def traced(settings: Settings, spans: InMemorySpanExporter) -> Iterator[Flask]:
    """An application with tracing."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = create_app(settings)
    tracing.register_tracing(app, provider)
    yield app
    provider.shutdown()
    app.extensions[EXTENSION].database.dispose()


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_request_is_a_span_within_its_callers_trace(
    traced: Flask, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        traced.test_client().get("/v1/agents/@acme:nobody", headers=headers)
    span = only(spans)
    assert span.name == "GET /v1/agents/<agent_id>"
    assert span.attributes == {
        "http.request.method": "GET",
        "url.path": "/v1/agents/@acme:nobody",
        "http.route": "/v1/agents/<agent_id>",
        "http.response.status_code": 404,
        "agenthub.request_id": "mine",
    }
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert [line["trace_id"] for line in lines if line["event"] == "request"] == [TRACE]


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_what_is_no_trace_begins_one(
    traced: Flask, spans: InMemorySpanExporter, traceparent: str
) -> None:
    headers = {"traceparent": traceparent}
    assert traced.test_client().get("/no/such/page", headers=headers).status_code == 404
    span = only(spans)
    assert (span.name, span.parent) == ("GET", None)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_collector_that_is_away_holds_nothing_up(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    provider = tracing.make_provider("http://127.0.0.1:1")
    app = create_app(settings)
    tracing.register_tracing(app, provider)
    client = app.test_client()
    for _ in range(50):
        assert client.get("/healthz").status_code == 200
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider.shutdown()
    app.extensions[EXTENSION].database.dispose()


def test_it_is_off_unless_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_env({}).otlp_endpoint is None
    standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert Settings.from_env(standard).otlp_endpoint == "http://collector:4318"
    own = standard | {"AGENTHUB_OTLP_ENDPOINT": "http://own:4318"}
    assert Settings.from_env(own).otlp_endpoint == "http://own:4318"
    with pytest.raises(SettingsError, match="AGENTHUB_OTLP_ENDPOINT: expected a URL"):
        Settings.from_env({"AGENTHUB_OTLP_ENDPOINT": "collector"})


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'agenthub\[otel\]'"):
        tracing.make_provider("http://127.0.0.1:4318")
