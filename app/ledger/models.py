"""Entities of the ledger scope. Amounts are micro-USD; every account is credit-normal."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise

# "agent:" or "escrow:" before an agent's or a delegation's id.
ACCOUNT_ID_LENGTH = 208
# An agent's id, a slash and up to 64 characters.
SOURCE_LENGTH = 258
# SQLite numbers rows by itself only in a column of exactly the type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")


class Account(Base):
    """An account and the sums of its postings.

    The sums of an agent's and of an escrow's account are kept with every posting and guarded: the
    database refuses an overdraft. A system account would be a row that every write waits for, so
    its sums stay zero here and are derived from postings when somebody asks.
    """

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        CheckConstraint("kind IN ('agent', 'escrow', 'system')", name="kind_known"),
        CheckConstraint("debits_micros >= 0 AND credits_micros >= debits_micros", name="overdraft"),
        # SQLite would go on with a number that is not exact; 2**63 - 1 is the largest that is.
        CheckConstraint("credits_micros <= 9223372036854775807", name="exact"),
        CheckConstraint(
            "kind <> 'system' OR (debits_micros = 0 AND credits_micros = 0)", name="system_derived"
        ),
    )

    id: Mapped[str] = mapped_column(bytewise(ACCOUNT_ID_LENGTH), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    debits_micros: Mapped[int] = mapped_column(BigInteger)
    credits_micros: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Transaction(Base):
    """One movement of money. Rows never change: triggers of the track refuse it.

    ``dedupe_key`` makes a movement happen once, whoever asks again. A correction is a further
    transaction that names the one it reverses.
    """

    __tablename__ = "ledger_transactions"
    __table_args__ = (
        Index("ix_ledger_transactions_delegation_id_seq", "delegation_id", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(bytewise(36), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    dedupe_key: Mapped[str] = mapped_column(bytewise(512), unique=True)
    delegation_id: Mapped[str | None] = mapped_column(bytewise(36))
    actor: Mapped[str] = mapped_column(String(64))
    reverses_id: Mapped[str | None] = mapped_column(
        bytewise(36), ForeignKey("ledger_transactions.id"), unique=True
    )
    meta: Mapped[str] = mapped_column(Text)
    effective_at: Mapped[datetime] = mapped_column(UTCDateTime)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Posting(Base):
    """One leg: one amount leaves one account and enters another, so it is always in balance."""

    __tablename__ = "ledger_postings"
    __table_args__ = (
        CheckConstraint("amount_micros > 0", name="amount_positive"),
        CheckConstraint("debit_account <> credit_account", name="two_accounts"),
        Index("ix_ledger_postings_debit_account_seq_leg", "debit_account", "seq", "leg"),
        Index("ix_ledger_postings_credit_account_seq_leg", "credit_account", "seq", "leg"),
    )

    seq: Mapped[int] = mapped_column(
        Sequence, ForeignKey("ledger_transactions.seq"), primary_key=True, autoincrement=False
    )
    leg: Mapped[int] = mapped_column(Integer, primary_key=True)
    debit_account: Mapped[str] = mapped_column(
        bytewise(ACCOUNT_ID_LENGTH), ForeignKey("ledger_accounts.id")
    )
    credit_account: Mapped[str] = mapped_column(
        bytewise(ACCOUNT_ID_LENGTH), ForeignKey("ledger_accounts.id")
    )
    amount_micros: Mapped[int] = mapped_column(BigInteger)


class Seal(Base):
    """A block of transactions: the root of their Merkle tree, chained to the block before.

    ``leaves`` holds the 32-byte hash of each transaction in order, so that a later edit is found at
    its transaction and not only in its block.
    """

    __tablename__ = "ledger_seals"

    block: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    leaves: Mapped[bytes] = mapped_column(LargeBinary)
    root: Mapped[str] = mapped_column(String(64))
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
    sealed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class MeteringEvent(Base):
    """One unit of reported work or cost. Rows never change: triggers of the track refuse it.

    A source names each of its events for ever. ``actor`` is who did the work, as shown to readers;
    ``owner_id`` is whose work it is and ``payer_owner_id`` who pays for it.
    """

    __tablename__ = "ledger_metering_events"
    __table_args__ = (
        CheckConstraint("cost_micros >= 0", name="cost_not_negative"),
        UniqueConstraint("source", "event_id"),
        Index("ix_ledger_metering_events_delegation_id_seq", "delegation_id", "seq"),
        Index("ix_ledger_metering_events_owner_id_seq", "owner_id", "seq"),
        Index("ix_ledger_metering_events_payer_owner_id_seq", "payer_owner_id", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    source: Mapped[str] = mapped_column(bytewise(SOURCE_LENGTH))
    event_id: Mapped[str] = mapped_column(bytewise(128))
    payload_hash: Mapped[str] = mapped_column(String(64))
    delegation_id: Mapped[str | None] = mapped_column(bytewise(36))
    actor: Mapped[str] = mapped_column(String(255))
    owner_id: Mapped[str] = mapped_column(bytewise(36))
    payer_owner_id: Mapped[str | None] = mapped_column(bytewise(36))
    operation: Mapped[str] = mapped_column(String(128))
    cost_micros: Mapped[int] = mapped_column(BigInteger)
    # The name "metadata" belongs to the declarative base.
    meta: Mapped[str] = mapped_column("metadata", Text)
    occurred_at: Mapped[datetime] = mapped_column(UTCDateTime)
    recorded_at: Mapped[datetime] = mapped_column(UTCDateTime)
