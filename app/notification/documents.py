"""Notification's answers: rows into the documents clients read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from app import clock


def _time(moment: datetime | None) -> str | None:
    return clock.isoformat(moment) if moment else None


def webhook_document(row: Any) -> dict[str, Any]:
    """Return a webhook without its secret."""
    expires_at = row.previous_expires_at
    grace = expires_at is not None and clock.now() < expires_at
    return {
        "id": row.id,
        "owner_id": row.owner_id,
        "url": row.url,
        "event_types": orjson.loads(row.event_types),
        "description": row.description,
        "status": row.status,
        "disabled_reason": row.disabled_reason,
        "failing_since": _time(row.failing_since),
        "previous_secret_expires_at": _time(expires_at) if grace else None,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def delivery_document(row: Any) -> dict[str, Any]:
    """Return a delivery with the message it is of."""
    return {
        "id": row.id,
        "webhook_id": row.subscription_id,
        "message_id": row.event_id,
        "message": orjson.Fragment(row.payload),
        "status": row.status,
        "attempts": row.attempts,
        "last_attempt_at": _time(row.last_attempt_at),
        "last_status": row.last_status,
        "last_error": row.last_error,
        "next_attempt_at": _time(row.next_attempt_at),
        "created_at": _time(row.created_at),
        "finished_at": _time(row.finished_at),
    }
