"""Holding kept sums and numbers to what they are of, and mending those that differ.

Writes keep the sums current, so nothing differs unless somebody wrote to the database directly or
a fault did. How delegations ended is another scope's history, and is given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Select, cast, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from app import clock
from app.db import insert_if_absent
from app.registry.evidence import dealings_of, lock_evidence
from app.registry.models import (
    NO_USAGE,
    Agent,
    AgentCount,
    Evaluation,
    Namespace,
    OwnerUsage,
    TrustCounterparty,
    TrustEvidence,
    UsageReport,
    Version,
)
from app.registry.queries import Octets
from app.registry.service import ACTIVE, DEPRECATED, count_buckets
from app.registry.trust import SUMS, Counterparty, contribution

Reader = Connection | Session
Sums = dict[str, int]
# By owner, what it has had to do with one agent.
Dealings = Mapping[str, Counterparty]
# The dealings that delegations tell of, by the delegate's id.
Outcomes = Mapping[str, Dealings]
_EVALUATIONS = ("eval_cases_passed", "eval_cases_total")
_KEPT = (*SUMS, "usage_by_publisher")
# How many owners' dealings with the agent are not kept as history tells them.
_WRONG_COUNTERPARTIES = "wrong_counterparties"
FIGURES = (*_KEPT, *_EVALUATIONS, _WRONG_COUNTERPARTIES)
_NOTHING = dict.fromkeys(FIGURES, 0)


@dataclass(frozen=True)
class Difference:
    """An agent whose kept sums are not those of its history; only the figures that differ.

    ``dealings`` are all that history tells of its counterparties.
    """

    agent_id: str
    kept: Sums
    history: Sums
    dealings: Dealings = field(default_factory=dict)


def _of(column: Any, agent_ids: Collection[str] | None) -> list[Any]:
    return [] if agent_ids is None else [column.in_(agent_ids)]


def _history(
    reader: Reader, dealings: Outcomes, agent_ids: Collection[str] | None
) -> dict[str, Sums]:
    """Return what history says of every agent that it says anything of."""
    found: defaultdict[str, Sums] = defaultdict(_NOTHING.copy)
    for agent_id, parties in dealings.items():
        sums = found[agent_id]
        for party in parties.values():
            for name, figure in asdict(contribution(party)).items():
                sums[name] += figure
    for agent_id, passed, total in reader.execute(
        select(
            Evaluation.agent_id,
            cast(func.sum(Evaluation.cases_passed), BigInteger),
            cast(func.sum(Evaluation.cases_total), BigInteger),
        )
        .where(*_of(Evaluation.agent_id, agent_ids))
        .group_by(Evaluation.agent_id)
    ):
        found[agent_id] |= {"eval_cases_passed": passed, "eval_cases_total": total}
    for report in _newest_reports(reader, agent_ids, independent=False):
        reported = report.succeeded_to_date + report.failed_to_date
        found[report.agent_id]["usage_by_publisher"] += reported
    return found


def _newest_reports(
    reader: Reader, agent_ids: Collection[str] | None, *, independent: bool
) -> Iterator[Row[*tuple[Any, ...]]]:
    """Yield the newest report of every reporter, which sums all of its reports."""
    later = aliased(UsageReport)
    newest = ~(
        select(later.id)
        .where(
            later.agent_id == UsageReport.agent_id,
            later.reported_by == UsageReport.reported_by,
            later.sequence > UsageReport.sequence,
        )
        .exists()
    )
    whose = UsageReport.independent.is_(independent)
    statement: Select[*tuple[Any, ...]] = select(*UsageReport.__table__.c)
    yield from reader.execute(statement.where(newest, whose, *_of(UsageReport.agent_id, agent_ids)))


def _dealings(
    reader: Reader, outcomes: Outcomes, agent_ids: Collection[str] | None
) -> dict[str, dict[str, Counterparty]]:
    """Return, by agent and owner, what delegations and reports of usage tell together."""
    found: defaultdict[str, dict[str, Counterparty]] = defaultdict(dict)
    for agent_id, parties in outcomes.items():
        found[agent_id] |= parties
    for report in _newest_reports(reader, agent_ids, independent=True):
        parties = found[report.agent_id]
        parties[report.reported_by] = replace(
            parties.get(report.reported_by, Counterparty()),
            usage_succeeded=report.succeeded_to_date,
            usage_failed=report.failed_to_date,
        )
    return found


def _kept_dealings(
    reader: Reader, agent_ids: Collection[str] | None
) -> dict[str, dict[str, Counterparty]]:
    found: defaultdict[str, dict[str, Counterparty]] = defaultdict(dict)
    statement: Select[*tuple[Any, ...]] = select(*TrustCounterparty.__table__.c)
    for row in reader.execute(statement.where(*_of(TrustCounterparty.agent_id, agent_ids))):
        found[row.agent_id][row.owner_id] = dealings_of(row)
    return found


def _kept(reader: Reader, agent_ids: Collection[str] | None) -> dict[str, Sums]:
    statement = (
        select(Agent.id, *(getattr(TrustEvidence, name) for name in _KEPT))
        .add_columns(*(getattr(Agent, name) for name in _EVALUATIONS))
        .outerjoin(TrustEvidence, TrustEvidence.agent_id == Agent.id)
        .where(*_of(Agent.id, agent_ids))
    )
    return {
        agent_id: dict(zip(FIGURES, (*(figure or 0 for figure in figures), 0), strict=True))
        for agent_id, *figures in reader.execute(statement)
    }


def differences(
    reader: Reader, outcomes: Outcomes, agent_ids: Collection[str] | None = None
) -> tuple[int, list[Difference]]:
    """Return how many agents were compared, of all or of those named, and those that differ.

    The reader has to see one instant.
    """
    real, listed = _dealings(reader, outcomes, agent_ids), _kept_dealings(reader, agent_ids)
    history, kept = _history(reader, real, agent_ids), _kept(reader, agent_ids)
    found = []
    for agent_id, sums in sorted(kept.items()):
        truth = history.get(agent_id, _NOTHING)
        parties, known = real.get(agent_id, {}), listed.get(agent_id, {})
        sums[_WRONG_COUNTERPARTIES] = sum(
            parties.get(owner_id) != known.get(owner_id) for owner_id in parties.keys() | known
        )
        names = [name for name in FIGURES if sums[name] != truth[name]]
        if names:
            found.append(
                Difference(
                    agent_id,
                    {name: sums[name] for name in names},
                    {name: truth[name] for name in names},
                    parties,
                )
            )
    return len(kept), found


def lock(session: Session, agent_id: str) -> None:
    """Let nobody add to an agent's evidence until the transaction ends."""
    session.get_one(Agent, agent_id, with_for_update=True)
    lock_evidence(session, agent_id)


def mend(session: Session, difference: Difference) -> None:
    """Set the kept sums of a locked agent to what history says."""
    agent_id, history = difference.agent_id, difference.history
    agent = session.get_one(Agent, agent_id)
    evidence = session.get_one(TrustEvidence, agent_id)
    for name, value in history.items():
        if name in _EVALUATIONS:
            setattr(agent, name, value)
        elif name in _KEPT:
            setattr(evidence, name, value)
    if _WRONG_COUNTERPARTIES in history:
        session.execute(delete(TrustCounterparty).where(TrustCounterparty.agent_id == agent_id))
        session.add_all(
            TrustCounterparty(agent_id=agent_id, owner_id=owner_id, **asdict(party))
            for owner_id, party in difference.dealings.items()
        )
    if history.keys() & set(_EVALUATIONS):
        # What the agent's document shows of its evaluations has another entity tag now.
        agent.revision += 1
        agent.updated_at = clock.now()
    session.flush()


def wrong_counts(reader: Reader) -> list[str]:
    """Return the buckets whose kept numbers of agents are not those of the agents there are.

    The reader has to see one instant. Reads every agent's id and status.
    """
    kept, real = _kept_counts(reader), _real_counts(reader)
    return sorted({key[0] for key in kept.keys() | real.keys() if kept[key] != real[key]})


def mend_counts(session: Session, suspects: Collection[str]) -> int:
    """Count the agents of these buckets again; return how many buckets were wrong."""
    if not suspects:
        return 0
    for bucket in sorted(suspects):
        for status in sorted((ACTIVE, DEPRECATED)):
            insert_if_absent(session, AgentCount, bucket=bucket, status=status, agents=0)
    # In the order of every other write. Whoever changes a number from now on waits, and adds to
    # what is counted here; whoever did before has committed.
    rows = session.scalars(
        select(AgentCount)
        .where(AgentCount.bucket.in_(suspects))
        .order_by(AgentCount.bucket, AgentCount.status)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    real, mended = _real_counts(session), set()
    for row in rows:
        if row.agents != real[row.bucket, row.status]:
            row.agents = real[row.bucket, row.status]
            mended.add(row.bucket)
    session.flush()
    return len(mended)


def _kept_counts(reader: Reader) -> Counter[tuple[str, str]]:
    rows = reader.execute(select(AgentCount.bucket, AgentCount.status, AgentCount.agents))
    return Counter({(row.bucket, row.status): row.agents for row in rows})


def _real_counts(reader: Reader) -> Counter[tuple[str, str]]:
    return Counter(
        (bucket, status)
        for agent_id, status in reader.execute(select(Agent.id, Agent.status))
        for bucket in count_buckets(agent_id)
    )


def wrong_usage(reader: Reader) -> list[str]:
    """Return the ids of owners whose kept usage, which quotas are held to, is not what they have.

    The reader has to see one instant. Measures every manifest.
    """
    kept, real = _kept_usage(reader), _real_usage(reader)
    return sorted(
        owner_id
        for owner_id in kept.keys() | real.keys()
        if kept.get(owner_id, NO_USAGE) != real.get(owner_id, NO_USAGE)
    )


def mend_usage(session: Session, suspects: Collection[str]) -> int:
    """Measure what these owners have again; return of how many it was wrong.

    Whoever registers, publishes or forks for one of them meanwhile waits, and adds to what is
    measured here; whoever did before has committed.
    """
    mended = 0
    for owner_id in sorted(suspects):
        insert_if_absent(session, OwnerUsage, owner_id=owner_id, **NO_USAGE)
        kept = session.get_one(OwnerUsage, owner_id, with_for_update=True, populate_existing=True)
        real = _real_usage(session, owner_id).get(owner_id, NO_USAGE)
        if any(getattr(kept, name) != real[name] for name in real):
            session.execute(update(OwnerUsage).where(OwnerUsage.owner_id == owner_id).values(real))
            mended += 1
    return mended


def _kept_usage(reader: Reader) -> dict[str, Mapping[str, int]]:
    rows = reader.execute(select(*OwnerUsage.__table__.c))
    return {row.owner_id: {name: getattr(row, name) for name in NO_USAGE} for row in rows}


def _real_usage(reader: Reader, owner_id: str | None = None) -> dict[str, Mapping[str, int]]:
    """Return what every owner has, or the one that is named."""
    whose = [] if owner_id is None else [Namespace.owner_id == owner_id]
    agents = select(Namespace.owner_id, func.count(Namespace.name.distinct()), func.count(Agent.id))
    versions = select(
        Namespace.owner_id, func.count(), cast(func.sum(Octets(Version.manifest)), BigInteger)
    )
    found: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict(NO_USAGE))
    for owner, namespaces, number in reader.execute(
        agents.outerjoin(Agent, Agent.namespace == Namespace.name)
        .where(*whose)
        .group_by(Namespace.owner_id)
    ):
        found[owner] |= {"namespaces": namespaces, "agents": number}
    for owner, number, size in reader.execute(
        versions.join(Agent, Agent.namespace == Namespace.name)
        .join(Version, Version.agent_id == Agent.id)
        .where(*whose)
        .group_by(Namespace.owner_id)
    ):
        found[owner] |= {"versions": number, "manifest_bytes": size}
    return dict(found)
