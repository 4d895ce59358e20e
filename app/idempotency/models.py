"""Entity of the idempotency scope."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise


class IdempotencyKey(Base):
    """A write that ran, under the key its caller chose.

    The row is inserted and completed in the transaction of the write itself, so a committed row
    always has its answer. The body is dropped after ``body_expires_at``; key, hash and resource
    stay for ever, so that a late retry can never run the write again.
    """

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(String(36), primary_key=True)
    key: Mapped[str] = mapped_column(bytewise(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(8))
    route: Mapped[str] = mapped_column(String(255))
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    response_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    response_headers: Mapped[str | None] = mapped_column(Text)
    resource: Mapped[str | None] = mapped_column(String(512))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    body_expires_at: Mapped[datetime] = mapped_column(UTCDateTime)


Index(
    "ix_idempotency_keys_body_expires_at",
    IdempotencyKey.body_expires_at,
    sqlite_where=IdempotencyKey.response_body.is_not(None),
    postgresql_where=IdempotencyKey.response_body.is_not(None),
)
