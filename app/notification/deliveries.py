"""Deliveries on their way: which are attempted next, and what came of an attempt.

A server claims a delivery by a lease, commits that, talks to the receiver without any transaction,
and then records what came of it. When it dies in between, the lease runs out and another server
attempts the delivery again: a receiver gets each message at least once, with the same id each time.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, exists, select
from sqlalchemy.orm import Session

from app import clock
from app.notification.models import Delivery, Event, Subscription
from app.notification.service import ACTIVE, DEAD, DELIVERED, DISABLED, PENDING, salts

# How long after each failure the next attempt comes (Standard Webhooks, "Deliverability and
# reliability"): ten attempts within about three days.
RETRY_AFTER = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
# A share of the wait that is added at random, so that deliveries that failed together do not come
# back together.
JITTER = 0.2
# An attempt takes 15 seconds at most, and what it came to is recorded at once.
LEASE = timedelta(seconds=60)
# Longer than all attempts of one delivery together, so several in a row have become dead by then.
DISABLED_AFTER = timedelta(days=5)
GONE = 410
DELIVERED_KEPT, DEAD_KEPT = timedelta(days=7), timedelta(days=30)
# A receiver that hangs holds this many of a server process's attempts, and no more.
PER_SUBSCRIPTION = 4


@dataclass(frozen=True)
class Claim:
    """A delivery that this server attempts now; ``attempt`` numbers every attempt ever made."""

    delivery_id: str
    attempt: int
    subscription_id: str
    owner_id: str
    message_id: str
    url: str
    salts: tuple[str, ...]
    payload: str


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to: the receiver's HTTP status, or why there is none."""

    claim: Claim
    status: int | None
    error: str | None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.error is None


def list_due(connection: Connection, now: datetime) -> list[tuple[str, str]]:
    """Return owner and id of each active subscription that has a delivery to attempt now.

    Locks nothing.
    """
    due = exists().where(
        Delivery.subscription_id == Subscription.id,
        Delivery.next_attempt_at.is_not(None),
        Delivery.next_attempt_at <= now,
    )
    statement = select(Subscription.owner_id, Subscription.id)
    rows = connection.execute(statement.where(Subscription.status == ACTIVE, due))
    return [(owner_id, subscription_id) for owner_id, subscription_id in rows]


def share(due: Iterable[tuple[str, str]], under_way: Collection[Claim], slots: int) -> Counter[str]:
    """Return how many deliveries of each subscription to claim, fairly among owners. Pure.

    Owners take turns, and so do the subscriptions of each. An owner takes a further slot only while
    it has fewer than are free: one alone gets half of them, two get a third each, and there is a
    free one for whoever comes next, however long the receivers of the others hang.
    """
    held = Counter(claim.owner_id for claim in under_way)
    busy = Counter(claim.subscription_id for claim in under_way)
    turns: dict[str, deque[str]] = {}
    for owner_id, subscription_id in due:
        turns.setdefault(owner_id, deque()).append(subscription_id)
    wanted: Counter[str] = Counter()
    free = slots - len(under_way)
    waiting = deque(turns)
    while waiting:
        owner_id = waiting.popleft()
        subscriptions = turns[owner_id]
        while subscriptions and busy[subscriptions[0]] >= PER_SUBSCRIPTION:
            subscriptions.popleft()
        if not subscriptions or held[owner_id] >= free:
            continue
        subscription_id = subscriptions[0]
        subscriptions.rotate(-1)
        wanted[subscription_id] += 1
        busy[subscription_id] += 1
        held[owner_id] += 1
        free -= 1
        waiting.append(owner_id)
    return wanted


def claim(session: Session, wanted: Mapping[str, int]) -> list[Claim]:
    """Claim so many due deliveries of each subscription, oldest first, for ``LEASE``.

    Servers that claim at once get different ones, and so may get fewer.
    """
    return [
        found
        for subscription_id, limit in wanted.items()
        for found in _claim_of(session, subscription_id, limit)
    ]


def _claim_of(session: Session, subscription_id: str, limit: int) -> Iterable[Claim]:
    now = clock.now()
    subscription = session.get(Subscription, subscription_id)
    if subscription is None or subscription.status != ACTIVE:
        return
    found = session.execute(
        select(Delivery, Event.payload)
        .join(Event, Event.id == Delivery.event_id)
        .where(
            Delivery.subscription_id == subscription_id,
            Delivery.next_attempt_at.is_not(None),
            Delivery.next_attempt_at <= now,
        )
        .order_by(Delivery.next_attempt_at, Delivery.id)
        .limit(limit)
        .with_for_update(of=Delivery, skip_locked=True)
    )
    for delivery, payload in found:
        delivery.attempts += 1
        delivery.last_attempt_at = now
        delivery.next_attempt_at = now + LEASE
        yield Claim(
            delivery.id,
            delivery.attempts,
            subscription_id,
            subscription.owner_id,
            delivery.event_id,
            subscription.url,
            tuple(salts(subscription, now)),
            payload,
        )


def record(session: Session, outcomes: Collection[Outcome]) -> list[Outcome]:
    """Record what attempts came to, and return the outcomes that made their delivery dead.

    An outcome whose lease had run out and whose delivery was attempted again since is ignored.
    """
    dead: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: (o.claim.subscription_id, o.claim.delivery_id)):
        # The subscription is locked first, as by those who change it.
        subscription = session.get(
            Subscription, outcome.claim.subscription_id, with_for_update={"key_share": True}
        )
        delivery = session.get(Delivery, outcome.claim.delivery_id, with_for_update=True)
        if subscription is None or delivery is None or delivery.attempts != outcome.claim.attempt:
            continue
        if delivery.status != PENDING:
            continue
        _record_one(subscription, delivery, outcome)
        if delivery.status == DEAD:
            dead.append(outcome)
    session.flush()
    return dead


def _record_one(subscription: Subscription, delivery: Delivery, outcome: Outcome) -> None:
    now = clock.now()
    delivery.last_status, delivery.last_error = outcome.status, outcome.error
    if outcome.succeeded:
        _finish(delivery, DELIVERED, now)
        subscription.failing_since = None
        return
    delivery.failures += 1
    if subscription.failing_since is None:
        subscription.failing_since = now
    if outcome.status == GONE:
        _disable(subscription, "the receiver answered 410 Gone", now)
        _finish(delivery, DEAD, now)
    elif delivery.failures > len(RETRY_AFTER):
        _finish(delivery, DEAD, now)
    else:
        wait = RETRY_AFTER[delivery.failures - 1]
        delivery.next_attempt_at = now + wait * (1 + random.uniform(0, JITTER))  # noqa: S311
    if now - subscription.failing_since >= DISABLED_AFTER:
        days = DISABLED_AFTER.days
        _disable(subscription, f"every delivery has failed for {days} days", now)


def _finish(delivery: Delivery, status: str, now: datetime) -> None:
    delivery.status = status
    delivery.next_attempt_at = None
    delivery.finished_at = now


def _disable(subscription: Subscription, reason: str, now: datetime) -> None:
    if subscription.status == ACTIVE:
        subscription.status = DISABLED
        subscription.disabled_reason = reason
        subscription.updated_at = now


def prune(session: Session, limit: int = 1000) -> int:
    """Drop up to ``limit`` finished deliveries that were kept long enough; returns how many.

    An event goes with the last delivery of it, or when it is old and has none.
    """
    now = clock.now()
    found: Any = session.execute(
        select(Delivery.id, Delivery.event_id)
        .where(
            Delivery.finished_at <= now - DELIVERED_KEPT,
            (Delivery.status == DELIVERED) | (Delivery.finished_at <= now - DEAD_KEPT),
        )
        .order_by(Delivery.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    unheard = ~exists().where(Delivery.event_id == Event.id)
    old = select(Event.id).where(Event.occurred_at <= now - DEAD_KEPT, unheard).limit(limit)
    session.execute(delete(Delivery).where(Delivery.id.in_([row.id for row in found])))
    for events in ({row.event_id for row in found}, old):
        session.execute(delete(Event).where(Event.id.in_(events), unheard))
    return len(found)
