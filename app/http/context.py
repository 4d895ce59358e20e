"""What a request finds in its application and in itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta

from flask import current_app, g, request

from app import ids
from app.access.limits import RateLimiter
from app.access.service import KeyUsage
from app.config import Settings
from app.db import Database
from app.json_schema.pool import Pool, shared_pool
from app.notification.lookups import Lookups, lookups_of_requests
from app.ops.probe import WriteProbe

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
EXTENSION = "agenthub"


@dataclass(frozen=True)
class Services:
    """The long-lived objects of one application."""

    settings: Settings
    database: Database
    pepper: bytes
    rate_limiter: RateLimiter
    key_usage: KeyUsage = field(default_factory=KeyUsage)
    checks: Pool = field(default_factory=shared_pool)
    lookups: Lookups = field(default_factory=lambda: lookups_of_requests(threads=2))
    write_probe: WriteProbe = field(default_factory=WriteProbe)

    @property
    def idempotency_retention(self) -> timedelta:
        """How long the body of a stored answer can be replayed."""
        return timedelta(hours=self.settings.idempotency_body_hours)


def services() -> Services:
    """Return the services of the application that handles the current request."""
    found: Services = current_app.extensions[EXTENSION]
    return found


def request_id() -> str:
    """Return the current request's id: the caller's ``X-Request-Id`` when it is usable."""
    if "request_id" not in g:
        offered = request.headers.get("X-Request-Id", "")
        g.request_id = offered if REQUEST_ID.fullmatch(offered) else ids.new_id()
    found: str = g.request_id
    return found
