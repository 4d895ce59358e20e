"""The one source of identifiers and of secrets."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uuid_utils

_lock = threading.Lock()
_last = 0


def _uuid7() -> str:
    global _last
    made = uuid_utils.uuid7().int
    with _lock:
        if made <= _last:
            # RFC 9562, section 6.2, method 2: the clock was set back, so the last one is increased.
            made = _last + 1 + secrets.randbits(32)
        _last = made
    return str(uuid_utils.UUID(int=made))


def go_on_after(stored: str | None) -> None:
    """Make only ids that are above a stored one from now on, whatever the clock says.

    Lists go by them, so that what is new is never behind what is old.
    """
    global _last
    if stored is not None:
        with _lock:
            _last = max(_last, uuid_utils.UUID(stored).int)


_source: Callable[[], str] = _uuid7


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as text: unique, and above all that this process made."""
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
