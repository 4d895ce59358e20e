"""Adding to the evidence that trust is computed from: outcomes of delegations, reports of usage.

Every function runs in the caller's transaction and never commits. No agent's revision changes:
evidence is not its owner's to guard with ``If-Match``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import clock, ids
from app.db import insert_if_absent
from app.registry.models import TrustEvidence, UsageReport
from app.registry.queries import find_owner
from app.registry.trust import FAILURE, SUCCESS, counted_to_date
from app.statements import Statement, recordset, to_json


@dataclass(frozen=True)
class Outcome:
    """How many delegations an agent brought to an end, well and badly."""

    completed: int
    failed: int


_evidence: Any = TrustEvidence.__table__
_COUNTS = ("delegations_completed", "delegations_failed")
_ADDED = [_evidence.c[name] for name in ("agent_id", *_COUNTS)]


def _adding(outcomes: str) -> Any:
    """Build the statement that adds outcomes, given as a table expression of ``_ADDED``."""
    names = [column.name for column in _evidence.c]
    values = [name if name in {column.name for column in _ADDED} else "0" for name in names]
    counts = ", ".join(f"{name} = evidence.{name} + excluded.{name}" for name in _COUNTS)
    return text(
        f"INSERT INTO {_evidence.name} AS evidence ({', '.join(names)})"  # noqa: S608
        f" SELECT {', '.join(values)} FROM {outcomes} WHERE true ORDER BY agent_id"
        f" ON CONFLICT (agent_id) DO UPDATE SET {counts}"
    )


_ADDED_SQLITE = ", ".join(
    f"json_extract(value, '$.{column.name}') AS {column.name}" for column in _ADDED
)
_add_outcomes = Statement(
    {
        "sqlite": _adding(f"(SELECT {_ADDED_SQLITE} FROM json_each(:outcomes))"),  # noqa: S608
        "postgresql": _adding(recordset("outcomes", _ADDED)),
    }
)


def record_outcomes(session: Session, outcomes: Mapping[str, Outcome]) -> None:
    """Add to the evidence of several agents, by id, in one statement; every agent exists.

    Rows are locked in the order of their ids, so that two writers never deadlock.
    """
    if not outcomes:
        return
    rows = [
        {
            "agent_id": agent_id,
            "delegations_completed": one.completed,
            "delegations_failed": one.failed,
        }
        for agent_id, one in outcomes.items()
    ]
    _add_outcomes.run(session, {"outcomes": to_json(rows)})


def report_usage(
    session: Session, owner_id: str, agent_id: str, outcome: str, count: int, note: str | None
) -> UsageReport:
    """Store that ``owner_id`` used an agent ``count`` times, and count what may be counted.

    Any owner may report, the publisher too, whose reports count for nothing. Raises
    ``AgentNotFound``.
    """
    independent = find_owner(session, agent_id) != owner_id
    evidence = lock_evidence(session, agent_id)
    before = session.scalars(
        select(UsageReport)
        .where(UsageReport.agent_id == agent_id, UsageReport.reported_by == owner_id)
        .order_by(UsageReport.sequence.desc())
        .limit(1)
    ).first()
    succeeded, failed = (before.succeeded_to_date, before.failed_to_date) if before else (0, 0)
    report = UsageReport(
        id=ids.new_id(),
        agent_id=agent_id,
        reported_by=owner_id,
        independent=independent,
        sequence=before.sequence + 1 if before else 1,
        outcome=outcome,
        count=count,
        note=note,
        succeeded_to_date=succeeded + (count if outcome == SUCCESS else 0),
        failed_to_date=failed + (count if outcome == FAILURE else 0),
        reported_at=clock.now(),
    )
    session.add(report)
    if not independent:
        evidence.usage_by_publisher += count
    else:
        counted = counted_to_date(report)
        counted_before = counted_to_date(before) if before else (0, 0)
        evidence.usage_succeeded += counted[0] - counted_before[0]
        evidence.usage_failed += counted[1] - counted_before[1]
        evidence.usage_over_limit += count - sum(counted) + sum(counted_before)
        evidence.usage_reporters += before is None
    # Written now, so that the trust read next in this transaction rests on it.
    session.flush()
    return report


def lock_evidence(session: Session, agent_id: str) -> TrustEvidence:
    """Return the agent's evidence, locked, so that reports are summed one after the other."""
    insert_if_absent(
        session,
        TrustEvidence,
        agent_id=agent_id,
        delegations_completed=0,
        delegations_failed=0,
        usage_succeeded=0,
        usage_failed=0,
        usage_reporters=0,
        usage_over_limit=0,
        usage_by_publisher=0,
    )
    return session.get_one(TrustEvidence, agent_id, with_for_update=True)
