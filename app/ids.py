"""The one source of identifiers and of secrets."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uuid_utils


def _uuid7() -> str:
    return str(uuid_utils.uuid7())


_source: Callable[[], str] = _uuid7


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as text: unique, and ordered by creation time."""
    return _source()


def new_secret() -> str:
    """Return 256 random bits as 43 characters of URL-safe base64; never frozen."""
    return secrets.token_urlsafe(32)


def new_key_id() -> str:
    """Return 64 random bits as 16 hexadecimal characters: the public part of an API key."""
    return secrets.token_hex(8)


@contextmanager
def frozen(source: Callable[[], str]) -> Iterator[None]:
    """Let ``new_id`` answer ``source()`` inside the block, in every thread of this process."""
    global _source
    previous, _source = _source, source
    try:
        yield
    finally:
        _source = previous
