"""Entities of the access scope."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise


class Owner(Base):
    """The principal behind API keys; everything in the registry belongs to one."""

    __tablename__ = "access_owners"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(bytewise(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class ApiKey(Base):
    """One credential of an owner. The secret is not here: only a keyed hash of it.

    ``binding`` ties the row to the pepper (``app.access.binding``); a key without it is refused.
    """

    __tablename__ = "access_api_keys"
    __table_args__ = (
        CheckConstraint("role IN ('viewer', 'developer', 'admin')", name="role_known"),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("access_owners.id"), index=True)
    role: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    replaced_by: Mapped[str | None] = mapped_column(String(16))
    binding: Mapped[str | None] = mapped_column(String(64))


class EndedSession(Base):
    """A session of the console that was ended before its time, kept until it would be over."""

    __tablename__ = "access_ended_sessions"

    id: Mapped[str] = mapped_column(String(43), primary_key=True)
    over_at: Mapped[datetime] = mapped_column(UTCDateTime)


class RequestCount(Base):
    """How many requests came with a key in one minute, over all servers; the latest minute only."""

    __tablename__ = "access_request_counts"
    __table_args__ = (CheckConstraint("requests > 0", name="requests_counted"),)

    key_id: Mapped[str] = mapped_column(ForeignKey("access_api_keys.id"), primary_key=True)
    # Minutes since 1970.
    minute: Mapped[int] = mapped_column(BigInteger)
    requests: Mapped[int] = mapped_column(BigInteger)


class AdminAction(Base):
    """Something an administrator did. Rows never change: triggers of the track refuse it.

    ``actor`` is the owner's name, or the operating system's user of a command; ``outcome`` is an
    HTTP status or ``done``.
    """

    __tablename__ = "access_admin_actions"

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    actor: Mapped[str] = mapped_column(String(255))
    key_id: Mapped[str | None] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(255))
    target: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
