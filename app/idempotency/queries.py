"""Reading stored answers, for reconciliation."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, select
from sqlalchemy.orm import Session

from app.idempotency.models import IdempotencyKey


def list_unanswered(reader: Connection | Session, *, limit: int) -> list[str]:
    """Return up to ``limit`` keys without an answer, which no committed write leaves behind."""
    statement = select(IdempotencyKey.key).where(IdempotencyKey.status_code.is_(None)).limit(limit)
    return list(reader.execute(statement).scalars())


def created_resources(route: str) -> Select[Any]:
    """Select the resources that accepted writes to a route answered with (``resource``)."""
    return select(IdempotencyKey.resource).where(
        IdempotencyKey.route == route,
        IdempotencyKey.status_code == 200,
        IdempotencyKey.resource.is_not(None),
    )
