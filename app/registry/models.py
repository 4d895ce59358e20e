"""Entities of the registry scope."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UTCDateTime, bytewise

# A namespace has at most 64 characters and a slug 128, joined by a colon.
AGENT_ID_LENGTH = 193
# Counter rows that all registrations spread over.
COUNT_SHARDS = 16


class Namespace(Base):
    """A name such as ``@acme``, reserved by the first owner that registers in it."""

    __tablename__ = "registry_namespaces"

    name: Mapped[str] = mapped_column(bytewise(64), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(36), index=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Agent(Base):
    """An agent: its identity, its status, and which of its versions is the latest.

    ``revision`` grows with every change of anything the agent's document shows. The two evidence
    columns sum the cases of every stored evaluation of the agent.
    """

    __tablename__ = "registry_agents"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'deprecated')", name="status_known"),
        CheckConstraint("id = namespace || ':' || slug", name="id_composed"),
        CheckConstraint(
            "eval_cases_passed >= 0 AND eval_cases_passed <= eval_cases_total", name="eval_cases"
        ),
        Index("ix_registry_agents_namespace_status_id", "namespace", "status", "id"),
        Index("ix_registry_agents_namespace_id", "namespace", "id"),
        Index("ix_registry_agents_status_id", "status", "id"),
    )

    id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH), primary_key=True)
    namespace: Mapped[str] = mapped_column(bytewise(64), ForeignKey("registry_namespaces.name"))
    slug: Mapped[str] = mapped_column(bytewise(128))
    status: Mapped[str] = mapped_column(String(16))
    latest_version: Mapped[str] = mapped_column(bytewise(128))
    revision: Mapped[int] = mapped_column(Integer)
    eval_cases_passed: Mapped[int] = mapped_column(BigInteger)
    eval_cases_total: Mapped[int] = mapped_column(BigInteger)
    forked_from_agent_id: Mapped[str | None] = mapped_column(bytewise(AGENT_ID_LENGTH))
    forked_from_version: Mapped[str | None] = mapped_column(bytewise(128))
    forked_from_digest: Mapped[str | None] = mapped_column(String(71))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Version(Base):
    """A published version. Rows never change: triggers of the track refuse UPDATE and DELETE.

    ``precedence`` orders versions as SemVer 2.0 does; two versions that differ only in build
    metadata have the same precedence and cannot both be published. ``impact_from_previous``
    compares with the version that was next below it when it was published.
    """

    __tablename__ = "registry_versions"
    __table_args__ = (
        UniqueConstraint("agent_id", "sequence"),
        UniqueConstraint("agent_id", "precedence"),
        CheckConstraint("sequence >= 1", name="sequence_positive"),
    )

    agent_id: Mapped[str] = mapped_column(
        bytewise(AGENT_ID_LENGTH), ForeignKey("registry_agents.id"), primary_key=True
    )
    version: Mapped[str] = mapped_column(bytewise(128), primary_key=True)
    sequence: Mapped[int] = mapped_column(Integer)
    precedence: Mapped[str] = mapped_column(bytewise(1024))
    prerelease: Mapped[bool] = mapped_column(Boolean)
    manifest: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(71))
    impact_from_previous: Mapped[str | None] = mapped_column(Text)
    published_at: Mapped[datetime] = mapped_column(UTCDateTime)


class VersionImpact(Base):
    """What a version changes against the one next below it, where that was published after it.

    For all others that is ``Version.impact_from_previous``, which never changes. Without an impact
    it is worked out by whoever reads it: the version was published out of order before these rows
    were kept.
    """

    __tablename__ = "registry_version_impacts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["agent_id", "version"], ["registry_versions.agent_id", "registry_versions.version"]
        ),
    )

    agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH), primary_key=True)
    version: Mapped[str] = mapped_column(bytewise(128), primary_key=True)
    impact: Mapped[str | None] = mapped_column(Text)


# Of whoever has nothing yet, by the columns of ``OwnerUsage``.
NO_USAGE = dict.fromkeys(("namespaces", "agents", "versions", "manifest_bytes"), 0)


class OwnerUsage(Base):
    """How much an owner has in the registry, kept current by every write, to hold quotas to.

    Deprecated agents count. ``manifest_bytes`` are those of all versions' canonical manifests.
    """

    __tablename__ = "registry_owner_usage"
    __table_args__ = (
        CheckConstraint(
            "namespaces >= 0 AND agents >= 0 AND versions >= 0 AND manifest_bytes >= 0",
            name="not_negative",
        ),
    )

    owner_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    namespaces: Mapped[int] = mapped_column(BigInteger)
    agents: Mapped[int] = mapped_column(BigInteger)
    versions: Mapped[int] = mapped_column(BigInteger)
    manifest_bytes: Mapped[int] = mapped_column(BigInteger)


class Evaluation(Base):
    """A result somebody measured for one version. Rows never change."""

    __tablename__ = "registry_evaluations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["agent_id", "version"], ["registry_versions.agent_id", "registry_versions.version"]
        ),
        CheckConstraint("cases_passed >= 0 AND cases_passed <= cases_total", name="cases"),
        Index("ix_registry_evaluations_agent_id_version_id", "agent_id", "version", "id"),
    )

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH))
    version: Mapped[str] = mapped_column(bytewise(128))
    suite: Mapped[str] = mapped_column(String(128))
    metrics: Mapped[str] = mapped_column(Text)
    cases_passed: Mapped[int] = mapped_column(BigInteger)
    cases_total: Mapped[int] = mapped_column(BigInteger)
    evaluated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    recorded_at: Mapped[datetime] = mapped_column(UTCDateTime)
    recorded_by: Mapped[str] = mapped_column(String(36))


class EvaluationSummary(Base):
    """What reads show of a version's evaluations, kept current by the write that adds one."""

    __tablename__ = "registry_evaluation_summaries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["agent_id", "version"], ["registry_versions.agent_id", "registry_versions.version"]
        ),
    )

    agent_id: Mapped[str] = mapped_column(bytewise(AGENT_ID_LENGTH), primary_key=True)
    version: Mapped[str] = mapped_column(bytewise(128), primary_key=True)
    evaluations: Mapped[int] = mapped_column(Integer)
    summary: Mapped[str] = mapped_column(Text)


class AgentCount(Base):
    """How many agents of a status a bucket holds, so that no list has to count rows.

    A bucket is a namespace, or one of the shards ``#0`` to ``#15`` that together count all agents;
    shards keep registrations in different namespaces from waiting for one counter row.
    """

    __tablename__ = "registry_agent_counts"
    __table_args__ = (CheckConstraint("agents >= 0", name="agents_not_negative"),)

    bucket: Mapped[str] = mapped_column(bytewise(64), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    agents: Mapped[int] = mapped_column(BigInteger)


class TrustEvidence(Base):
    """Counters of an agent's work. The writes that add work keep them current.

    An agent has no row until there is something to count. Every column but ``usage_by_publisher``
    sums what ``app.registry.trust.contribution`` says of the agent's counterparties. The evidence
    of evaluations is with the agent itself, whose revision they change; nothing here does.
    """

    __tablename__ = "registry_trust_evidence"
    __table_args__ = (
        CheckConstraint(
            "delegations_completed >= 0 AND delegations_failed >= 0",
            name="delegations_not_negative",
        ),
        CheckConstraint(
            "usage_succeeded >= 0 AND usage_failed >= 0 AND usage_reporters >= 0"
            " AND usage_over_limit >= 0 AND usage_by_publisher >= 0",
            name="usage_not_negative",
        ),
    )

    agent_id: Mapped[str] = mapped_column(
        bytewise(AGENT_ID_LENGTH), ForeignKey("registry_agents.id"), primary_key=True
    )
    delegations_completed: Mapped[int] = mapped_column(BigInteger)
    delegations_failed: Mapped[int] = mapped_column(BigInteger)
    usage_succeeded: Mapped[int] = mapped_column(BigInteger)
    usage_failed: Mapped[int] = mapped_column(BigInteger)
    usage_reporters: Mapped[int] = mapped_column(BigInteger)
    usage_over_limit: Mapped[int] = mapped_column(BigInteger)
    usage_by_publisher: Mapped[int] = mapped_column(BigInteger)
    delegations_unpaid: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completed_milli: Mapped[int] = mapped_column(BigInteger, server_default="0")
    failed_milli: Mapped[int] = mapped_column(BigInteger, server_default="0")
    say_milli: Mapped[int] = mapped_column(BigInteger, server_default="0")
    paying_owners: Mapped[int] = mapped_column(BigInteger, server_default="0")
    own_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    usage_payers: Mapped[int] = mapped_column(BigInteger, server_default="0")
    usage_good_milli: Mapped[int] = mapped_column(BigInteger, server_default="0")
    usage_bad_milli: Mapped[int] = mapped_column(BigInteger, server_default="0")
    usage_unpaid: Mapped[int] = mapped_column(BigInteger, server_default="0")


class TrustCounterparty(Base):
    """What another owner than the publisher has had to do with an agent.

    ``own_micros`` is what the owner paid for the agent's work of money that it had not earned here
    itself. Changed only while the agent's row of evidence is locked.
    """

    __tablename__ = "registry_trust_counterparties"
    __table_args__ = (
        CheckConstraint(
            "completed >= 0 AND failed >= 0 AND own_micros >= 0"
            " AND usage_succeeded >= 0 AND usage_failed >= 0",
            name="not_negative",
        ),
        CheckConstraint(
            "(own_micros > 0) = (first_paid_at IS NOT NULL)"
            " AND (own_micros > 0) = (last_paid_at IS NOT NULL)",
            name="paid_at_some_time",
        ),
    )

    agent_id: Mapped[str] = mapped_column(
        bytewise(AGENT_ID_LENGTH), ForeignKey("registry_agents.id"), primary_key=True
    )
    owner_id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    completed: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    own_micros: Mapped[int] = mapped_column(BigInteger)
    first_paid_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_paid_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    usage_succeeded: Mapped[int] = mapped_column(BigInteger)
    usage_failed: Mapped[int] = mapped_column(BigInteger)


class UsageReport(Base):
    """What an owner reports of having used an agent. Rows never change.

    ``independent`` tells other owners from the agent's publisher. ``succeeded_to_date`` and
    ``failed_to_date`` sum the owner's reports of the agent up to and including this one;
    ``sequence`` numbers them.
    """

    __tablename__ = "registry_usage_reports"
    __table_args__ = (
        UniqueConstraint("agent_id", "reported_by", "sequence"),
        CheckConstraint("outcome IN ('success', 'failure')", name="outcome_known"),
        CheckConstraint("count >= 1 AND sequence >= 1", name="count_positive"),
        CheckConstraint(
            "succeeded_to_date >= 0 AND failed_to_date >= 0"
            " AND succeeded_to_date + failed_to_date >= count",
            name="sums",
        ),
    )

    id: Mapped[str] = mapped_column(bytewise(36), primary_key=True)
    agent_id: Mapped[str] = mapped_column(
        bytewise(AGENT_ID_LENGTH), ForeignKey("registry_agents.id")
    )
    reported_by: Mapped[str] = mapped_column(bytewise(36))
    independent: Mapped[bool] = mapped_column(Boolean)
    sequence: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str] = mapped_column(String(16))
    count: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str | None] = mapped_column(Text)
    succeeded_to_date: Mapped[int] = mapped_column(BigInteger)
    failed_to_date: Mapped[int] = mapped_column(BigInteger)
    reported_at: Mapped[datetime] = mapped_column(UTCDateTime)
