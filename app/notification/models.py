"""Entities of the notification scope."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise


class Subscription(Base):
    """A URL of an owner's that is told of events of some types.

    ``event_types`` is a JSON array. The signing secret is derived from ``secret_salt`` and the
    service's pepper, so that the database alone yields none; after a rotation the secret of
    ``previous_salt`` signs, too, until ``previous_expires_at``. ``failing_since`` is the first of
    the failures since a delivery last succeeded.
    """

    __tablename__ = "notification_subscriptions"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'paused', 'disabled')", name="status_known"),
        CheckConstraint("(previous_salt IS NULL) = (previous_expires_at IS NULL)", name="previous"),
        Index("ix_notification_subscriptions_owner_id_id", "owner_id", "id"),
    )

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    owner_id: Mapped[str] = mapped_column(bytewise(36))
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(8))
    disabled_reason: Mapped[str | None] = mapped_column(String(255))
    secret_salt: Mapped[str] = mapped_column(String(43))
    previous_salt: Mapped[str | None] = mapped_column(String(43))
    previous_expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    failing_since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Event(Base):
    """Something that happened and that somebody subscribed to: the outbox.

    The row is written in the transaction of what happened. ``payload`` is the JSON text that is
    sent, byte for byte the same at every attempt.
    """

    __tablename__ = "notification_events"

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text)
    occurred_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)


class Delivery(Base):
    """One event on its way to one subscription.

    ``next_attempt_at`` of a pending delivery is when it may be attempted next; while a server is at
    it, that is when its lease ends. ``attempts`` counts every attempt ever made and so tells a late
    result from that of the present attempt; ``failures`` counts those since the delivery was last
    asked for, and decides how long the next one waits.
    """

    __tablename__ = "notification_deliveries"
    __table_args__ = (
        CheckConstraint(
            "(status = 'pending' AND next_attempt_at IS NOT NULL AND finished_at IS NULL)"
            " OR (status IN ('delivered', 'dead') AND next_attempt_at IS NULL"
            " AND finished_at IS NOT NULL)",
            name="pending_or_finished",
        ),
        CheckConstraint("attempts >= failures AND failures >= 0", name="attempts"),
        UniqueConstraint("event_id", "subscription_id"),
        Index("ix_notification_deliveries_subscription_id_id", "subscription_id", "id"),
        Index(
            "ix_notification_deliveries_subscription_id_status_id",
            "subscription_id",
            "status",
            "id",
        ),
    )

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    event_id: Mapped[str] = mapped_column(bytewise(36), ForeignKey("notification_events.id"))
    subscription_id: Mapped[str] = mapped_column(
        bytewise(36), ForeignKey("notification_subscriptions.id")
    )
    status: Mapped[str] = mapped_column(String(9))
    attempts: Mapped[int] = mapped_column(Integer)
    failures: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_attempt_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_status: Mapped[int | None] = mapped_column(SmallInteger)
    last_error: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


# What a worker looks for, what is counted of the dead, and what is old enough to be dropped: each
# index holds only those.
Index(
    "ix_notification_deliveries_subscription_id_next_attempt_at",
    Delivery.subscription_id,
    Delivery.next_attempt_at,
    sqlite_where=Delivery.next_attempt_at.is_not(None),
    postgresql_where=Delivery.next_attempt_at.is_not(None),
)
Index(
    "ix_notification_deliveries_dead",
    Delivery.id,
    sqlite_where=literal_column("status = 'dead'"),
    postgresql_where=literal_column("status = 'dead'"),
)
Index(
    "ix_notification_deliveries_finished_at",
    Delivery.finished_at,
    sqlite_where=Delivery.finished_at.is_not(None),
    postgresql_where=Delivery.finished_at.is_not(None),
)
