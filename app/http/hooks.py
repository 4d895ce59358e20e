"""What happens around every request: its id, its log line, the headers of every response."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import structlog
from flask import Flask, Response, g, request

from app.http.context import request_id
from app.http.waiting import waiter
from app.logs import surviving
from app.metrics import metrics

# An answer of the API is no page: nothing in it runs, and nobody shows it in a frame.
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# What every answer sends unless its view says otherwise.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": NOTHING,
    "Cache-Control": "no-store",
}
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
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        held = waiter()
        if held is None or not held.is_held:
            route = str(request.url_rule) if request.url_rule else None
            status = response.status_code
            record(request.method, request.path, route, status, g.started, **_write(response))
        return response


def record(
    method: str, path: str, route: str | None, status: int, begun: float, **more: Any
) -> None:
    """Count and log an answered request, which began at ``begun`` of ``time.perf_counter``.

    A write is committed by then, so nothing is raised, whatever becomes of its count and its line.
    """
    seconds = time.perf_counter() - begun
    with surviving("count"):
        _count(method, route or "unmatched", status, seconds, bool(more.get("replayed")))
    with surviving("log"):
        duration_ms = round(seconds * 1000, 2)
        log.info(
            "request",
            method=method,
            path=path,
            route=route,
            status=int(status),
            duration_ms=duration_ms,
            **more,
        )


def _write(response: Response) -> dict[str, Any]:
    """Return what the log says of a write: which key, though not itself, and if it was a replay."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return {}
    # Whoever knows the key finds its lines; a key may hold what its client had better kept secret.
    digest = hashlib.sha256(key.strip().encode()).hexdigest()[:16]
    return {"idempotency_key_hash": digest, "replayed": REPLAYED in response.headers}


def _count(method: str, route: str, status: int, seconds: float, replayed: bool) -> None:
    """Count a request; what a client makes up has one label for all of it."""
    method = method if method in METHODS else "other"
    counters = metrics()
    counters.requests.labels(method, route, str(int(status))).inc()
    counters.duration.labels(method, route).observe(seconds)
    if replayed:
        counters.replays.labels(route).inc()
