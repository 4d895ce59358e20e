"""What ties a key's row to the pepper, so that editing the database promotes and revives no key."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any

import orjson

# The revision access_0003 computes the same, and rows carry it: another form needs another purpose.
_PURPOSE = b"agenthub key binding\x01"


def binding_of(pepper: bytes, key: Any) -> str:
    """Return the HMAC-SHA256, in hexadecimal, over all that a key's row grants.

    ``key`` is a row with ``id``, ``secret_hash``, ``owner_id``, ``role``, ``expires_at`` and
    ``revoked_at``.
    """
    granted = [
        key.id,
        key.secret_hash,
        key.owner_id,
        key.role,
        _time(key.expires_at),
        _time(key.revoked_at),
    ]
    return hmac.digest(pepper, _PURPOSE + orjson.dumps(granted), "sha256").hex()


def is_bound(pepper: bytes, key: Any) -> bool:
    """Tell whether a key's grants are unchanged since somebody who has the pepper wrote them."""
    return hmac.compare_digest(binding_of(pepper, key), key.binding or "")


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment else None
