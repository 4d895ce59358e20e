"""Subscribing to events, and writing down those that somebody has subscribed to.

Every function runs in the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from app import clock, ids
from app.notification.errors import (
    DeliveryNotFound,
    DeliveryPending,
    WebhookNotActive,
    WebhookNotFound,
)
from app.notification.events import EVERYTHING, PING
from app.notification.events import Event as Event
from app.notification.models import Delivery, Subscription
from app.notification.models import Event as EventRow
from app.quotas import require_room
from app.statements import Statement, is_one_of, to_json

ACTIVE, PAUSED, DISABLED = "active", "paused", "disabled"
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
# Also in the function of the track's first revision; any number that no other use has.
_LOCK = 7236840201374061

_of_owners = is_one_of(Subscription.owner_id, "owners")
_found = (Subscription.id, Subscription.owner_id, Subscription.event_types)
_find = Statement(
    {
        # The transaction has the one write lock, so that nobody else changes anything.
        "sqlite": select(*_found)
        .where(_of_owners["sqlite"], Subscription.status == ACTIVE)
        .order_by(Subscription.id),
        "postgresql": text(
            "SELECT id, owner_id, event_types FROM notification_find_subscriptions(ARRAY"
            " (SELECT json_array_elements_text(CAST(:owners AS json))))"
        ).columns(*_found),
    }
)


def publish(session: Session, owner_ids: Collection[str], events: Iterable[Event]) -> None:
    """Write down the events, and a delivery to each active subscription that wants to know.

    ``owner_ids`` are those of all the events; when none of them has a subscription, nothing is
    written and ``events`` is not even read. No subscription can be made, changed or removed between
    this and the end of the transaction: one whose making was acknowledged gets every event that is
    committed after that.
    """
    subscriptions = _find_subscriptions(session, owner_ids)
    if not subscriptions:
        return
    rows: list[dict[str, Any]] = []
    deliveries: list[dict[str, Any]] = []
    for event in events:
        wanted = [
            subscription_id
            for subscription_id, owner_id, types in subscriptions
            if owner_id in event.owner_ids and (event.type in types or EVERYTHING in types)
        ]
        if wanted:
            rows.append(_event_row(event))
            deliveries += [_delivery_row(rows[-1]["id"], to) for to in wanted]
    if rows:
        connection = session.connection()
        connection.execute(insert(EventRow), rows)
        connection.execute(insert(Delivery), deliveries)


Found = list[tuple[str, str, frozenset[str]]]


def _find_subscriptions(session: Session, owner_ids: Collection[str]) -> Found:
    """Return the active subscriptions of the owners; looked for once in a transaction."""
    asked = frozenset(owner_ids)
    known: dict[frozenset[str], Found] = session.info.setdefault(__name__, {})
    if asked not in known:
        rows = _find.all(session, {"owners": to_json(sorted(asked))})
        known[asked] = [
            (row.id, row.owner_id, frozenset(orjson.loads(row.event_types))) for row in rows
        ]
    return known[asked]


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "id": ids.new_id(),
        "type": event.type,
        "payload": event.payload(),
        "occurred_at": event.occurred_at,
    }


def _delivery_row(event_id: str, subscription_id: str) -> dict[str, Any]:
    now = clock.now()
    return {
        "id": ids.new_id(),
        "event_id": event_id,
        "subscription_id": subscription_id,
        "status": PENDING,
        "attempts": 0,
        "failures": 0,
        "next_attempt_at": now,
        "created_at": now,
    }


def _lock_subscriptions(session: Session) -> None:
    """Wait for transactions that have looked for subscriptions, and let later ones wait.

    SQLite has one writer at a time anyhow. Raises ``OperationalError`` when the wait is too long.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def subscribe(
    session: Session,
    owner_id: str,
    url: str,
    event_types: Sequence[str],
    description: str,
    quota: int = 0,
) -> Subscription:
    """Make a subscription unless the owner has ``quota`` of them; 0 sets no limit.

    The URL was checked before. Raises ``QuotaExceeded``.
    """
    _lock_subscriptions(session)
    held = select(func.count()).where(Subscription.owner_id == owner_id)
    require_room("webhooks", quota, session.scalar(held) or 0)
    now = clock.now()
    subscription = Subscription(
        id=ids.new_id(),
        owner_id=owner_id,
        url=url,
        event_types=_json(event_types),
        description=description,
        status=ACTIVE,
        secret_salt=ids.new_secret(),
        created_at=now,
        updated_at=now,
    )
    session.add(subscription)
    session.flush()
    return subscription


def _json(event_types: Sequence[str]) -> str:
    return orjson.dumps(sorted(set(event_types))).decode()


def change(
    session: Session, owner_id: str, subscription_id: str, changes: Mapping[str, Any]
) -> Subscription:
    """Change ``url``, ``event_types``, ``description`` or ``status`` of a subscription.

    A subscription that is made active again starts with no recorded failure, and its waiting
    deliveries are sent. Raises ``WebhookNotFound``.
    """
    _lock_subscriptions(session)
    subscription = _own(session, owner_id, subscription_id)
    for name in ("url", "description", "status"):
        if name in changes:
            setattr(subscription, name, changes[name])
    if "event_types" in changes:
        subscription.event_types = _json(changes["event_types"])
    if "status" in changes:
        subscription.disabled_reason = subscription.failing_since = None
    subscription.updated_at = clock.now()
    session.flush()
    return subscription


def _own(session: Session, owner_id: str, subscription_id: str) -> Subscription:
    """Return a locked subscription of the owner. Raises ``WebhookNotFound``."""
    subscription = session.get(Subscription, subscription_id, with_for_update={"key_share": True})
    if subscription is None or subscription.owner_id != owner_id:
        raise WebhookNotFound(f"no webhook of yours has the id {subscription_id!r}")
    return subscription


def rotate_secret(
    session: Session, owner_id: str, subscription_id: str, grace: timedelta
) -> Subscription:
    """Give a subscription a new secret; the old one signs, too, until ``grace`` has passed."""
    subscription = _own(session, owner_id, subscription_id)
    now = clock.now()
    subscription.previous_salt = subscription.secret_salt if grace else None
    subscription.previous_expires_at = now + grace if grace else None
    subscription.secret_salt = ids.new_secret()
    subscription.updated_at = now
    session.flush()
    return subscription


def unsubscribe(session: Session, owner_id: str, subscription_id: str) -> None:
    """Remove a subscription with its deliveries. Raises ``WebhookNotFound``."""
    _lock_subscriptions(session)
    subscription = _own(session, owner_id, subscription_id)
    session.execute(delete(Delivery).where(Delivery.subscription_id == subscription_id))
    session.delete(subscription)
    session.flush()


def ping(session: Session, owner_id: str, subscription_id: str) -> str:
    """Have an event of type ``webhook.ping`` delivered; returns the delivery's id.

    Raises ``WebhookNotFound`` and ``WebhookNotActive``.
    """
    subscription = _own(session, owner_id, subscription_id)
    _require_active(subscription)
    event = _event_row(
        Event(PING, (owner_id,), clock.now(), lambda: {"webhook_id": subscription_id})
    )
    delivery = _delivery_row(event["id"], subscription_id)
    session.execute(insert(EventRow), [event])
    session.execute(insert(Delivery), [delivery])
    return str(delivery["id"])


def _require_active(subscription: Subscription) -> None:
    if subscription.status != ACTIVE:
        raise WebhookNotActive(f"the webhook is {subscription.status}; make it active first")


def replay(session: Session, owner_id: str, subscription_id: str, delivery_id: str) -> None:
    """Have a finished delivery attempted anew, with the message id it had.

    Raises ``WebhookNotFound``, ``WebhookNotActive``, ``DeliveryNotFound`` and ``DeliveryPending``.
    """
    _require_active(_own(session, owner_id, subscription_id))
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.subscription_id != subscription_id:
        raise DeliveryNotFound(f"the webhook has no delivery with the id {delivery_id!r}")
    if delivery.status == PENDING:
        raise DeliveryPending("the delivery is under way; see next_attempt_at")
    delivery.status = PENDING
    delivery.failures = 0
    delivery.next_attempt_at = clock.now()
    delivery.finished_at = None
    session.flush()


def salts(subscription: Any, now: datetime) -> list[str]:
    """Return the salts of the secrets that sign now, the present one first."""
    found = [subscription.secret_salt]
    if subscription.previous_expires_at is not None and now < subscription.previous_expires_at:
        found.append(subscription.previous_salt)
    return found
