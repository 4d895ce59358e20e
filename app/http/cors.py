"""Which other sites' scripts may read what this service answers (Fetch standard, CORS protocol)."""

from __future__ import annotations

from flask import Flask
from flask_cors import CORS

from app.config import Settings

# What scripts may call: the API and what explains it, never the console.
PATHS = (r"/v1(/.*)?", r"/openapi\.json", r"/problems/.*")
SENT = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "X-API-Key",
    "X-Operator-Role",
    "X-Request-Id",
)
READ = ("Content-Location", "ETag", "Idempotent-Replayed", "Link", "Retry-After", "X-Request-Id")
MAX_AGE_SECONDS = 7200


def register_cors(app: Flask, settings: Settings) -> None:
    """Let scripts of the origins that the settings name call the API; of no other by default.

    A script sends a key that it has; cookies are never taken from other sites.
    """
    if settings.cors_origins is not None:
        CORS(
            app,
            resources=list(PATHS),
            origins=list(settings.cors_origins),
            methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=list(SENT),
            expose_headers=list(READ),
            max_age=MAX_AGE_SECONDS,
            send_wildcard=True,
            supports_credentials=False,
        )
