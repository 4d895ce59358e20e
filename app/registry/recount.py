"""Holding kept sums and numbers to what they are of, and mending those that differ.

Writes keep the sums current, so nothing differs unless somebody wrote to the database directly or
a fault did. How delegations ended is another scope's history, and is given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, func, select
from sqlalchemy.orm import Session, aliased

from app import clock
from app.db import insert_if_absent
from app.registry.evidence import lock_evidence
from app.registry.models import Agent, AgentCount, Evaluation, TrustEvidence, UsageReport
from app.registry.service import ACTIVE, DEPRECATED, count_buckets
from app.registry.trust import counted_to_date

Reader = Connection | Session
Sums = dict[str, int]
# How many delegations to each agent ended well and badly, by its id.
Outcomes = Mapping[str, tuple[int, int]]
_EVALUATIONS = ("eval_cases_passed", "eval_cases_total")
FIGURES = (
    *(column.name for column in TrustEvidence.__table__.c if column.name != "agent_id"),
    *_EVALUATIONS,
)
_NOTHING = dict.fromkeys(FIGURES, 0)


@dataclass(frozen=True)
class Difference:
    """An agent whose kept sums are not those of its history; only the figures that differ."""

    agent_id: str
    kept: Sums
    history: Sums


def _of(column: Any, agent_ids: Collection[str] | None) -> list[Any]:
    return [] if agent_ids is None else [column.in_(agent_ids)]


def _history(
    reader: Reader, outcomes: Outcomes, agent_ids: Collection[str] | None
) -> dict[str, Sums]:
    """Return what history says of every agent that it says anything of."""
    found: defaultdict[str, Sums] = defaultdict(_NOTHING.copy)
    for agent_id, (completed, failed) in outcomes.items():
        found[agent_id] |= {"delegations_completed": completed, "delegations_failed": failed}
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
    columns = UsageReport.__table__.c
    for report in reader.execute(
        select(*columns).where(newest, *_of(UsageReport.agent_id, agent_ids))
    ):
        _add_usage(found[report.agent_id], report)
    return found


def _add_usage(sums: Sums, report: Any) -> None:
    """Add what the newest report of a reporter sums up."""
    reported = report.succeeded_to_date + report.failed_to_date
    if not report.independent:
        sums["usage_by_publisher"] += reported
        return
    succeeded, failed = counted_to_date(report)
    sums["usage_succeeded"] += succeeded
    sums["usage_failed"] += failed
    sums["usage_over_limit"] += reported - succeeded - failed
    sums["usage_reporters"] += 1


def _kept(reader: Reader, agent_ids: Collection[str] | None) -> dict[str, Sums]:
    statement = (
        select(Agent.id, *(getattr(TrustEvidence, name) for name in FIGURES[:-2]))
        .add_columns(*(getattr(Agent, name) for name in _EVALUATIONS))
        .outerjoin(TrustEvidence, TrustEvidence.agent_id == Agent.id)
        .where(*_of(Agent.id, agent_ids))
    )
    return {
        agent_id: dict(zip(FIGURES, (figure or 0 for figure in figures), strict=True))
        for agent_id, *figures in reader.execute(statement)
    }


def differences(
    reader: Reader, outcomes: Outcomes, agent_ids: Collection[str] | None = None
) -> tuple[int, list[Difference]]:
    """Return how many agents were compared, of all or of those named, and those that differ.

    The reader has to see one instant.
    """
    history, kept = _history(reader, outcomes, agent_ids), _kept(reader, agent_ids)
    found = []
    for agent_id, sums in sorted(kept.items()):
        truth = history.get(agent_id, _NOTHING)
        if sums != truth:
            names = [name for name in FIGURES if sums[name] != truth[name]]
            found.append(
                Difference(
                    agent_id,
                    {name: sums[name] for name in names},
                    {name: truth[name] for name in names},
                )
            )
    return len(kept), found


def lock(session: Session, agent_id: str) -> None:
    """Let nobody add to an agent's evidence until the transaction ends."""
    session.get_one(Agent, agent_id, with_for_update=True)
    lock_evidence(session, agent_id)


def mend(session: Session, difference: Difference) -> None:
    """Set the kept sums of a locked agent to what history says."""
    agent = session.get_one(Agent, difference.agent_id)
    evidence = session.get_one(TrustEvidence, difference.agent_id)
    for name, value in difference.history.items():
        if name in _EVALUATIONS:
            setattr(agent, name, value)
        else:
            setattr(evidence, name, value)
    if difference.history.keys() & set(_EVALUATIONS):
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
