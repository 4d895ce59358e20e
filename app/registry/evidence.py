"""Adding to the evidence that trust is computed from: outcomes of delegations, reports of usage.

Every function runs in the caller's transaction and never commits. No agent's revision changes:
evidence is not its owner's to guard with ``If-Match``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ARRAY, BigInteger, Text, bindparam, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app import clock, ids
from app.db import insert_if_absent
from app.registry.models import TrustEvidence, UsageReport
from app.registry.queries import find_owner
from app.registry.trust import FAILURE, SUCCESS, counted_to_date


@dataclass(frozen=True)
class Outcome:
    """How many delegations an agent brought to an end, well and badly."""

    completed: int
    failed: int


def _add_outcomes(*, in_sqlite: bool) -> Any:
    """Build the statement that adds any number of outcomes, given as one or three parameters."""
    evidence: Any = TrustEvidence.__table__
    given: Any
    columns: list[Any]
    if in_sqlite:
        given = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
        columns = [
            func.json_extract(given.c.value, literal_column(f"'$[{place}]'", Text))
            for place in range(3)
        ]
    else:
        arrays = (
            bindparam("ids", type_=ARRAY(Text)),
            bindparam("completed", type_=ARRAY(BigInteger)),
            bindparam("failed", type_=ARRAY(BigInteger)),
        )
        given = func.unnest(*arrays).table_valued("agent_id", "completed", "failed")
        columns = list(given.render_derived().c)
    none: list[Any] = [literal_column("0")] * (len(evidence.c) - len(columns))
    outcomes = select(*columns, *none).order_by(columns[0])
    insert: Any = (sqlite if in_sqlite else postgresql).insert(evidence)
    insert = insert.from_select(list(evidence.c), outcomes)
    added = (evidence.c.delegations_completed, evidence.c.delegations_failed)
    return insert.on_conflict_do_update(
        index_elements=[evidence.c.agent_id],
        set_={column: column + insert.excluded[column.name] for column in added},
    )


_add_outcomes_sqlite = _add_outcomes(in_sqlite=True)
_add_outcomes_postgresql = _add_outcomes(in_sqlite=False)


def record_outcomes(session: Session, outcomes: Mapping[str, Outcome]) -> None:
    """Add to the evidence of several agents, by id, in one statement; every agent exists.

    Rows are locked in the order of their ids, so that two writers never deadlock.
    """
    if not outcomes:
        return
    ordered = sorted(outcomes.items())
    if session.get_bind().dialect.name == "sqlite":
        rows = [(agent_id, one.completed, one.failed) for agent_id, one in ordered]
        session.execute(_add_outcomes_sqlite, {"rows": orjson.dumps(rows).decode()})
        return
    session.execute(
        _add_outcomes_postgresql,
        {
            "ids": [agent_id for agent_id, _ in ordered],
            "completed": [one.completed for _, one in ordered],
            "failed": [one.failed for _, one in ordered],
        },
    )


def report_usage(
    session: Session, owner_id: str, agent_id: str, outcome: str, count: int, note: str | None
) -> UsageReport:
    """Store that ``owner_id`` used an agent ``count`` times, and count what may be counted.

    Any owner may report, the publisher too, whose reports count for nothing. Raises
    ``AgentNotFound``.
    """
    independent = find_owner(session, agent_id) != owner_id
    evidence = _lock_evidence(session, agent_id)
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


def _lock_evidence(session: Session, agent_id: str) -> TrustEvidence:
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
