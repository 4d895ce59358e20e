"""``GET /metrics``: everything that is measured, in Prometheus' text format."""

from __future__ import annotations

import hmac

from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from app.config import Settings, metrics_folder
from app.db import Database
from app.http.auth import require_role
from app.ops.gauges import DatabaseGauges


def register_metrics(app: Flask, settings: Settings, database: Database) -> None:
    """Serve what all processes of this server have counted, and what the database tells."""
    gauges = CollectorRegistry()
    gauges.register(DatabaseGauges(database))

    @app.get("/metrics")
    def show_metrics() -> Response:
        _require_scraper(settings)
        text = generate_latest(_counters()) + generate_latest(gauges)
        return Response(text, content_type=CONTENT_TYPE_LATEST)


def _require_scraper(settings: Settings) -> None:
    """Let a request with the metrics token pass, which needs no database, else an admin's key.

    The address of the caller says nothing: behind a proxy everybody comes from this machine.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = settings.metrics_token
    given = token.strip() if scheme.lower() == "bearer" else ""
    if expected is None or not hmac.compare_digest(given.encode(), expected.encode()):
        require_role("admin")


def _counters() -> CollectorRegistry:
    """Return the counters of all processes of this server, or of a single process."""
    folder = metrics_folder()
    if folder is None:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return registry
