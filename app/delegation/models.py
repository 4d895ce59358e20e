"""Entities of the delegation scope. Amounts are micro-USD."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise

# A namespace has at most 64 characters and a slug 128, joined by a colon.
AGENT_ID_LENGTH = 193


class Delegation(Base):
    """One task handed from a requester agent to a delegate agent, pinned to a version of it.

    ``estimated``, ``authorized`` and ``max_budget`` bound what may be spent, ``metered`` is what
    was used, ``held`` the most that escrow held, ``released`` what of it went back before the rest
    was settled and ``charged`` what was paid. ``settlement`` is what becomes of the money, and
    ``settled_by`` why it was paid as it was. ``due_at`` is when the system acts by itself: every
    delegation has such a moment until it is settled, so that nobody forgets it. ``closed_at`` is
    when the work ended. ``revision`` grows with every change and guards each of them.
    ``silent_takeovers`` is how often work was taken over since its last sign of life.
    ``delegate_min_deadline_seconds`` is the shortest deadline that the delegate could be held to
    when it was created; None where nobody wrote that down.
    ``evidence`` is what a closed one says of the delegate: 1 for it, -1 against it, 0 nothing;
    ``own_micros`` is how much of its charge was money that the requester's owner had not earned
    here.
    """

    __tablename__ = "delegation_delegations"
    __table_args__ = (
        CheckConstraint("execution IN ('inline', 'remote')", name="execution_known"),
        CheckConstraint(
            "(status IN ('offered', 'in_progress', 'pending_reauthorization', 'input_required',"
            " 'delivered', 'disputed') AND closed_at IS NULL)"
            " OR (status IN ('completed', 'failed_hard_stop', 'failed', 'declined', 'expired',"
            " 'cancelled') AND closed_at IS NOT NULL)",
            name="live_or_closed",
        ),
        CheckConstraint(
            "(settlement = 'settled' AND status NOT IN ('offered', 'in_progress',"
            " 'pending_reauthorization', 'input_required', 'delivered', 'disputed')"
            " AND due_at IS NULL AND charged_micros IS NOT NULL AND settled_by IS NOT NULL)"
            " OR (due_at IS NOT NULL AND charged_micros IS NULL AND settled_by IS NULL AND ("
            "(settlement = 'open' AND status IN ('offered', 'in_progress',"
            " 'pending_reauthorization', 'input_required'))"
            " OR (settlement = 'in_review' AND status IN ('delivered', 'failed_hard_stop',"
            " 'failed', 'expired', 'cancelled'))"
            " OR (settlement = 'disputed' AND status IN ('disputed', 'failed_hard_stop',"
            " 'failed', 'expired', 'cancelled'))))",
            name="settlement",
        ),
        CheckConstraint(
            "settled_by IS NULL OR settled_by IN ('accepted', 'reviewed', 'resolved', 'inline',"
            " 'before_reviews') OR (settled_by = 'nothing_due' AND charged_micros = 0)",
            name="settled_by",
        ),
        CheckConstraint(
            "estimated_micros > 0 AND estimated_micros <= max_budget_micros", name="estimate"
        ),
        CheckConstraint(
            "authorized_micros > 0 AND authorized_micros <= max_budget_micros", name="authorized"
        ),
        CheckConstraint("held_micros > 0 AND held_micros <= max_budget_micros", name="held"),
        CheckConstraint("metered_micros >= 0", name="metered"),
        CheckConstraint(
            "charged_micros IS NULL OR (charged_micros >= 0 AND charged_micros <= held_micros"
            " AND charged_micros <= metered_micros)",
            name="charged",
        ),
        CheckConstraint(
            "released_micros >= 0 AND released_micros + COALESCE(charged_micros, 0) <= held_micros",
            name="released",
        ),
        CheckConstraint("breaker_level IN (0, 80, 100, 120)", name="breaker_level"),
        CheckConstraint("requester_agent_id <> delegate_agent_id", name="two_agents"),
        Index("ix_delegation_delegations_created_at_id", "created_at", "id"),
        *(
            Index(f"ix_delegation_delegations_{side}_created_at_id", side, "created_at", "id")
            for side in (
                "requester_agent_id",
                "requester_owner_id",
                "delegate_agent_id",
                "delegate_owner_id",
            )
        ),
    )

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    execution: Mapped[str] = mapped_column(String(8))
    status: Mapped[str] = mapped_column(String(24))
    revision: Mapped[int] = mapped_column(Integer)
    events: Mapped[int] = mapped_column(Integer)
    requester_agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    requester_owner_id: Mapped[str] = mapped_column(String(36))
    delegate_agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    delegate_owner_id: Mapped[str] = mapped_column(String(36))
    delegate_version: Mapped[str] = mapped_column(bytewise(128))
    delegate_digest: Mapped[str] = mapped_column(String(71))
    capability_id: Mapped[str | None] = mapped_column(String(128))
    task_spec: Mapped[str] = mapped_column(Text)
    task_input: Mapped[str | None] = mapped_column(Text)
    estimated_micros: Mapped[int] = mapped_column(BigInteger)
    max_budget_micros: Mapped[int] = mapped_column(BigInteger)
    authorized_micros: Mapped[int] = mapped_column(BigInteger)
    metered_micros: Mapped[int] = mapped_column(BigInteger)
    held_micros: Mapped[int] = mapped_column(BigInteger)
    released_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    charged_micros: Mapped[int | None] = mapped_column(BigInteger)
    settlement: Mapped[str] = mapped_column(String(12), server_default="open")
    settled_by: Mapped[str | None] = mapped_column(String(16))
    breaker_level: Mapped[int] = mapped_column(SmallInteger)
    auto_reauthorize: Mapped[bool] = mapped_column(Boolean)
    simulated: Mapped[bool] = mapped_column(Boolean)
    policy_decision: Mapped[str] = mapped_column(Text)
    lease_seconds: Mapped[int] = mapped_column(Integer)
    deadline_seconds: Mapped[int] = mapped_column(Integer)
    delegate_min_deadline_seconds: Mapped[int | None] = mapped_column(Integer)
    review_seconds: Mapped[int] = mapped_column(Integer)
    lease_number: Mapped[int] = mapped_column(Integer)
    silent_takeovers: Mapped[int] = mapped_column(Integer, server_default="0")
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    deadline_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    deliverable: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    evidence: Mapped[int | None] = mapped_column(SmallInteger)
    own_micros: Mapped[int | None] = mapped_column(BigInteger)

    # Every change of a row names the revision it was decided on (compare and set).
    __mapper_args__ = {"version_id_col": revision}


# What a worker looks for, and what the sweeper looks for: both indexes hold only rows that are not
# settled.
Index(
    "ix_delegation_delegations_waiting",
    Delegation.delegate_agent_id,
    Delegation.status,
    Delegation.requester_owner_id,
    Delegation.id,
    sqlite_where=Delegation.due_at.is_not(None),
    postgresql_where=Delegation.due_at.is_not(None),
)
Index(
    "ix_delegation_delegations_due_at",
    Delegation.due_at,
    sqlite_where=Delegation.due_at.is_not(None),
    postgresql_where=Delegation.due_at.is_not(None),
)


class AcceptanceRules(Base):
    """What an agent takes from other owners; an agent without a row has the default rules.

    ``allowed_owners`` (None lets everybody in) and ``denied_owners`` are JSON objects of the names
    that were given and the owners' ids.
    """

    __tablename__ = "delegation_acceptance_rules"

    agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH), primary_key=True)
    allowed_owners: Mapped[str | None] = mapped_column(Text)
    denied_owners: Mapped[str] = mapped_column(Text)
    takes_inline: Mapped[bool] = mapped_column(Boolean)
    smallest_estimate_micros: Mapped[int] = mapped_column(BigInteger)
    shortest_deadline_seconds: Mapped[int | None] = mapped_column(Integer)
    shortest_lease_seconds: Mapped[int | None] = mapped_column(Integer)
    most_live_offers: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class OfferQueue(Base):
    """An owner that has offered work to an agent, and when it had its turn last.

    ``turn`` is a number of the agent's own that grows with each task it claims, 0 before the first;
    the owner with the lowest is next.
    """

    __tablename__ = "delegation_offer_queues"
    __table_args__ = (
        Index("ix_delegation_offer_queues_delegate_agent_id_turn", "delegate_agent_id", "turn"),
    )

    delegate_agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH), primary_key=True)
    requester_owner_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    turn: Mapped[int] = mapped_column(BigInteger)


class DelegationEvent(Base):
    """Something that happened to a delegation. Rows never change: triggers of the track refuse it.

    ``status`` is the delegation's after the event. ``actor`` is the agent that acted, ``system`` or
    ``operator``; ``key_id`` is the API key it acted with, none for the system.
    """

    __tablename__ = "delegation_events"

    delegation_id: Mapped[str] = mapped_column(
        bytewise(36), ForeignKey("delegation_delegations.id"), primary_key=True
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(24))
    status: Mapped[str] = mapped_column(String(24))
    actor: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    key_id: Mapped[str | None] = mapped_column(String(16))
    details: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class OwnerTurnover(Base):
    """What an owner's agents earned from and spent on agents of other owners, in any way.

    ``own_micros`` is the most that spending was ever ahead of earning: money that the owner brought
    in, and did not get from others here. So money that goes round in a circle is its own but once.
    """

    __tablename__ = "delegation_owner_turnovers"
    __table_args__ = (
        CheckConstraint(
            "earned_micros >= 0 AND spent_micros >= 0 AND own_micros >= 0"
            " AND own_micros <= spent_micros",
            name="sums",
        ),
    )

    owner_id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    earned_micros: Mapped[int] = mapped_column(BigInteger)
    spent_micros: Mapped[int] = mapped_column(BigInteger)
    own_micros: Mapped[int] = mapped_column(BigInteger)


class Cutover(Base):
    """A rule that began while there were delegations already. Rows never change.

    ``reviews``: up to the moment ``at`` remote work that ended without a delivery was paid at once.
    """

    __tablename__ = "delegation_cutovers"
    __table_args__ = (CheckConstraint("name IN ('reviews')", name="name_known"),)

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class ImportRun(Base):
    """A file of the service before this one that was imported. Rows never change.

    There is one for each kind at most, so that nothing is imported twice.
    """

    __tablename__ = "delegation_import_runs"
    __table_args__ = (CheckConstraint("kind IN ('records', 'balances')", name="kind_known"),)

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    file: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int] = mapped_column(Integer)
    total_micros: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[datetime] = mapped_column(UTCDateTime)


class LegacyRecord(Base):
    """A delegation of the service before this one, kept as it was. Rows never change.

    Nothing of what is true of a ``Delegation`` need be true of it, so it is none: it has no money,
    no events and no commands. ``record`` is its JSON text, ``number`` its row in the file.
    """

    __tablename__ = "delegation_legacy_records"
    __table_args__ = (
        Index("ix_delegation_legacy_records_created_at_id", "created_at", "id"),
        *(
            Index(f"ix_delegation_legacy_records_{side}_created_at_id", side, "created_at", "id")
            for side in ("requester_agent_id", "delegate_agent_id")
        ),
    )

    id: Mapped[str] = mapped_column(bytewise(128), primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    requester_agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    delegate_agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    status: Mapped[str] = mapped_column(String(24))
    record: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
