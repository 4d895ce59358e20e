"""Reading subscriptions and deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, case, func, or_, select
from sqlalchemy.orm import Session

from app.notification.errors import WebhookNotFound
from app.notification.models import Delivery, Event, Subscription

Reader = Connection | Session
AnyRow = Row[*tuple[Any, ...]]

_columns = tuple(Subscription.__table__.c)
_delivery = select(*Delivery.__table__.c, Event.type, Event.payload).join(
    Event, Event.id == Delivery.event_id
)


def find_subscription(reader: Reader, subscription_id: str, owner_id: str | None) -> AnyRow:
    """Return a subscription of an owner, or of anybody for ``None``.

    Raises ``WebhookNotFound`` for another owner's, too, so that it is not told apart.
    """
    statement = select(*_columns).where(Subscription.id == subscription_id)
    if owner_id is not None:
        statement = statement.where(Subscription.owner_id == owner_id)
    row = reader.execute(statement).first()
    if row is None:
        raise WebhookNotFound(f"no webhook of yours has the id {subscription_id!r}")
    return row


def list_subscriptions(
    reader: Reader, owner_id: str | None, *, limit: int, after: str = ""
) -> list[AnyRow]:
    """Return up to ``limit`` subscriptions of an owner (``None``: of all), oldest first."""
    statement = select(*_columns).where(Subscription.id > after)
    if owner_id is not None:
        statement = statement.where(Subscription.owner_id == owner_id)
    return list(reader.execute(statement.order_by(Subscription.id).limit(limit)))


def list_deliveries(
    reader: Reader,
    subscription_id: str,
    *,
    status: str | None = None,
    limit: int,
    before: str | None = None,
) -> list[AnyRow]:
    """Return up to ``limit`` deliveries with their events, newest first."""
    statement = _delivery.where(Delivery.subscription_id == subscription_id)
    if status is not None:
        statement = statement.where(Delivery.status == status)
    if before is not None:
        statement = statement.where(Delivery.id < before)
    return list(reader.execute(statement.order_by(Delivery.id.desc()).limit(limit)))


def find_delivery(reader: Reader, subscription_id: str, delivery_id: str) -> AnyRow | None:
    """Return a delivery of a subscription with its event."""
    return reader.execute(
        _delivery.where(Delivery.id == delivery_id, Delivery.subscription_id == subscription_id)
    ).first()


def list_troubled(reader: Reader, *, limit: int) -> list[AnyRow]:
    """Return up to ``limit`` subscriptions of all owners, those first that fail or are disabled."""
    troubled = case(
        (or_(Subscription.failing_since.is_not(None), Subscription.status == "disabled"), 0),
        else_=1,
    )
    statement = select(*_columns).order_by(troubled, Subscription.id.desc()).limit(limit)
    return list(reader.execute(statement))


def count_subscriptions(reader: Reader) -> int:
    """Return how many subscriptions there are."""
    return reader.execute(select(func.count()).select_from(Subscription)).scalar_one()


def count_dead(reader: Reader, since: datetime, *, limit: int) -> int:
    """Return how many of the newest ``limit`` dead deliveries were given up since a moment."""
    dead = select(Delivery.finished_at).where(Delivery.status == "dead")
    newest = dead.order_by(Delivery.id.desc()).limit(limit).subquery()
    statement = select(func.count()).where(newest.c.finished_at >= since)
    return reader.execute(statement).scalar_one()


def list_dead(reader: Reader, *, limit: int) -> list[AnyRow]:
    """Return up to ``limit`` deliveries that were given up, newest first, with event and URL."""
    statement = (
        _delivery.add_columns(Subscription.url)
        .join(Subscription, Subscription.id == Delivery.subscription_id)
        .where(Delivery.status == "dead")
    )
    return list(reader.execute(statement.order_by(Delivery.id.desc()).limit(limit)))


def count_waiting(reader: Reader) -> tuple[int, int]:
    """Return how many deliveries are pending, and how many dead; each count reads a small index."""
    pending = select(func.count()).where(Delivery.next_attempt_at.is_not(None))
    # SQLite would count rows in an index of all deliveries; this column is in none of those.
    dead = select(func.count(Delivery.finished_at)).where(Delivery.status == "dead")
    counts = reader.execute(select(pending.scalar_subquery(), dead.scalar_subquery())).one()
    return counts[0], counts[1]
