"""Authentication by an API key."""

from __future__ import annotations

import structlog
from flask import request

from app.access.errors import ApiKeyMissing, RoleRequired
from app.access.service import Principal, authenticate
from app.http.context import services
from app.http.credentials import the_one_key
from app.http.gate import gate
from app.http.waiting import runs_again


def require_role(role: str) -> Principal:
    """Return the principal of the current request.

    Raises ``ApiKeyMissing``, ``CredentialsConflict``, ``ApiKeyInvalid``, ``RateLimited``, and
    ``RoleRequired`` for a role below ``role``.
    """
    headers = request.headers
    presented = the_one_key(headers.get("X-API-Key", ""), headers.get("Authorization", ""))
    if not presented:
        raise ApiKeyMissing("send your API key in the X-API-Key header, or as a Bearer token")
    with services().database.read() as connection:
        principal = authenticate(connection, services().pepper, presented)
    gate().note_verified(presented)
    services().key_usage.record(principal.key_id)
    # A request that waits counts once, however often it is looked at again.
    if not runs_again():
        services().rate_limiter.admit(principal.key_id)
    structlog.contextvars.bind_contextvars(owner=principal.owner_name, key_id=principal.key_id)
    if not principal.has_role(role):
        raise RoleRequired(
            f"this needs an API key of role {role} or above; yours is {principal.role}",
            required_role=role,
        )
    return principal
