"""What happens around every request: its id, its log line, the headers of every response."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import structlog
from flask import Flask, Response, g, request

from app.http.context import request_id
from app.logs import surviving
from app.metrics import metrics

# An answer of the API is no page: nothing in it runs, and nobody shows it in a frame.
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
REPLAYED = "Idempotent-Replayed"
log = structlog.get_logger("agenthub.http")


def register_hooks(app: Flask) -> None:
    """Give every request an id and a log line, and every response its common headers."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id())

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers["X-Frame-Options"] = "DENY"
        response.headers.setdefault("Content-Security-Policy", NOTHING)
        response.headers.setdefault("Cache-Control", "no-store")
        seconds = time.perf_counter() - g.started
        # A write is committed by now, whatever becomes of its count and its line.
        with surviving("count"):
            _count(response, seconds)
        with surviving("log"):
            log.info(
                "request",
                method=request.method,
                path=request.path,
                route=str(request.url_rule) if request.url_rule else None,
                status=response.status_code,
                duration_ms=round(seconds * 1000, 2),
                **_write(response),
            )
        return response


def _write(response: Response) -> dict[str, Any]:
    """Return what the log says of a write: which key, though not itself, and if it was a replay."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return {}
    # Whoever knows the key finds its lines; a key may hold what its client had better kept secret.
    digest = hashlib.sha256(key.strip().encode()).hexdigest()[:16]
    return {"idempotency_key_hash": digest, "replayed": REPLAYED in response.headers}


def _count(response: Response, seconds: float) -> None:
    """Count a request; what a client makes up has one label for all of it."""
    route = str(request.url_rule) if request.url_rule else "unmatched"
    method = request.method if request.method in METHODS else "other"
    counters = metrics()
    counters.requests.labels(method, route, str(response.status_code)).inc()
    counters.duration.labels(method, route).observe(seconds)
    if REPLAYED in response.headers:
        counters.replays.labels(route).inc()
