"""Where a request carries its API key: ``X-API-Key``, or ``Authorization: Bearer`` (RFC 6750)."""

from __future__ import annotations

from app.errors import MalformedRequest

CHALLENGE = 'ApiKey realm="agenthub", header="X-API-Key", Bearer realm="agenthub"'
_SCHEME = "bearer"


class CredentialsConflict(MalformedRequest):
    """``X-API-Key`` and ``Authorization: Bearer`` carry different keys; send one of them."""

    code = "credentials_conflict"


def presented_key(api_key: str, authorization: str) -> str:
    """Return the key that two headers carry, which may be any text; empty without one.

    Another scheme than Bearer is for somebody else, such as a proxy. ``X-API-Key`` comes first.
    """
    return api_key.strip() or bearer_token(authorization)


def bearer_token(authorization: str) -> str:
    """Return the token of an ``Authorization`` header of scheme Bearer; empty for any other."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == _SCHEME else ""


def the_one_key(api_key: str, authorization: str) -> str:
    """Return what ``presented_key`` does. Raises ``CredentialsConflict`` for two keys."""
    first, second = api_key.strip(), bearer_token(authorization)
    if first and second and first != second:
        raise CredentialsConflict("X-API-Key and Authorization carry different keys; send one key")
    return first or second
