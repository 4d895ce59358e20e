"""OpenTelemetry: a span for each request, where the operator has named a collector.

The SDK is an extra (``pip install 'agenthub[otel]'``) and is loaded only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, Response, g, request

from app.config import SettingsError
from app.exits import at_exit
from app.http.context import request_id
from app.logs import surviving

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# An exporter that cannot reach its collector gives a batch up after this.
EXPORT_SECONDS = 5


def make_provider(endpoint: str) -> TracerProvider:
    """Return a provider that exports to an OTLP/HTTP collector from a thread of its own.

    Spans wait in a queue of 2,048; when the collector does not keep up, further ones are dropped
    and no request waits. Raises ``SettingsError`` when the SDK is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "AGENTHUB_OTLP_ENDPOINT needs OpenTelemetry: pip install 'agenthub[otel]'"
        ) from None
    resource = Resource.create({"service.name": "agenthub"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    at_exit(provider.shutdown)
    return provider


def register_tracing(app: Flask, provider: TracerProvider) -> None:
    """Give each request a span, a child of the caller's where it sent ``traceparent``."""
    from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("agenthub")
    caller = TraceContextTextMapPropagator()

    @app.before_request
    def begin() -> None:
        route = str(request.url_rule) if request.url_rule else None
        attributes: dict[str, Any] = {
            "http.request.method": request.method,
            "url.path": request.path,
            "agenthub.request_id": request_id(),
        }
        if route:
            attributes["http.route"] = route
        parent = {name: request.headers.get(name, "") for name in ("traceparent", "tracestate")}
        g.span = tracer.start_span(
            f"{request.method} {route}" if route else request.method,
            caller.extract(parent),
            SpanKind.SERVER,
            attributes,
        )
        trace_id = format_trace_id(g.span.get_span_context().trace_id)
        structlog.contextvars.bind_contextvars(trace_id=trace_id)

    @app.after_request
    def finish(response: Response) -> Response:
        with surviving("span"):
            g.span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 500:
                g.span.set_status(StatusCode.ERROR)
        return response

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        with surviving("span"):
            if "span" in g:
                g.span.end()
