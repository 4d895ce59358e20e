"""Agents as the parties of delegations: any number of them in one statement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    cast,
    extract,
    func,
    select,
)
from sqlalchemy.orm import Session, aliased

from app import clock
from app.registry.models import Agent, Namespace, TrustEvidence, Version
from app.registry.names import is_agent_id
from app.registry.trust import SUMS, Evidence, Trust, assess, evidence_of
from app.statements import Statement, is_one_of, to_json

Reader = Connection | Session

# What ``app.registry.trust.evidence_of`` reads beside the columns of the agent itself.
EVIDENCE = (
    *(getattr(TrustEvidence, name) for name in SUMS),
    TrustEvidence.usage_by_publisher,
    # Seconds since 1970, so that the statements have no times.
    cast(extract("epoch", Namespace.created_at), BigInteger).label("published_since"),
)


@dataclass(frozen=True)
class Party:
    """An agent as one side of a delegation: whose it is, and what it declares and has proven.

    ``version``, ``digest`` and ``manifest`` (JSON text) are those of the latest version.
    """

    id: str
    owner_id: str
    status: str
    version: str
    digest: str
    manifest: str
    evidence: Evidence

    @cached_property
    def trust(self) -> Trust:
        """What the evidence supports now; computed when first asked for."""
        return assess(self.evidence, clock.now())


def _parties() -> Select[*tuple[Any, ...]]:
    versions = (
        select(func.max(Version.sequence)).where(Version.agent_id == Agent.id).scalar_subquery()
    )
    latest = aliased(Version)
    return (
        select(
            Agent.id,
            Namespace.owner_id,
            Agent.status,
            Agent.latest_version,
            latest.digest,
            latest.manifest,
            Agent.eval_cases_passed,
            Agent.eval_cases_total,
            versions.label("versions"),
            *EVIDENCE,
        )
        .join(Namespace, Namespace.name == Agent.namespace)
        .join(latest, and_(latest.agent_id == Agent.id, latest.version == Agent.latest_version))
        .outerjoin(TrustEvidence, TrustEvidence.agent_id == Agent.id)
    )


# Most delegations come alone, and two names are planned better than an array.
_find_two = Statement(_parties().where(Agent.id.in_([bindparam("first"), bindparam("last")])))
_find_many = Statement(
    {dialect: _parties().where(named) for dialect, named in is_one_of(Agent.id, "ids").items()}
)


def _find(reader: Reader, ids: list[str]) -> Sequence[Any]:
    if len(ids) <= 2:
        return _find_two.all(reader, {"first": ids[0], "last": ids[-1]})
    return _find_many.all(reader, {"ids": to_json(ids)})


def find_parties(reader: Reader, agent_ids: Collection[str]) -> dict[str, Party]:
    """Return the agents with these ids, by id; an id that no agent has is left out."""
    ids = sorted({agent_id for agent_id in agent_ids if is_agent_id(agent_id)})
    return {
        row.id: Party(
            row.id,
            row.owner_id,
            row.status,
            row.latest_version,
            row.digest,
            row.manifest,
            evidence_of(row, row.versions),
        )
        for row in (_find(reader, ids) if ids else ())
    }
