"""Adding to the evidence that trust is computed from: outcomes of delegations, reports of usage.

Every function runs in the caller's transaction and never commits. No agent's revision changes:
evidence is not its owner's to guard with ``If-Match``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import clock, ids
from app.db import insert_if_absent
from app.registry.models import TrustCounterparty, TrustEvidence, UsageReport
from app.registry.queries import find_owner
from app.registry.trust import FAILURE, SUCCESS, SUMS, Counterparty, contribution

_DEALINGS = tuple(field.name for field in fields(Counterparty))
_NO_EVIDENCE: Mapping[str, int] = dict.fromkeys((*SUMS, "usage_by_publisher"), 0)


@dataclass(frozen=True)
class Outcome:
    """How a delegation to an agent ended, for whom, and what that owner paid of its own money.

    ``owner_id`` is the requester's owner, who is not the agent's. Amounts are micro-USD.
    """

    agent_id: str
    owner_id: str
    good: bool
    own_micros: int
    at: datetime


def record_outcome(session: Session, outcome: Outcome) -> None:
    """Add the outcome of a delegation to the evidence of its delegate, which exists."""
    evidence = lock_evidence(session, outcome.agent_id)
    row = _find(session, outcome.agent_id, outcome.owner_id)
    before = dealings_of(row)
    after = replace(
        before,
        completed=before.completed + outcome.good,
        failed=before.failed + (not outcome.good),
        own_micros=before.own_micros + outcome.own_micros,
    )
    if outcome.own_micros:
        # Endings need not be recorded in the order of their times.
        first, last = before.first_paid_at or outcome.at, before.last_paid_at or outcome.at
        after = replace(
            after, first_paid_at=min(first, outcome.at), last_paid_at=max(last, outcome.at)
        )
    _change(session, evidence, row, after)


def report_usage(
    session: Session, owner_id: str, agent_id: str, outcome: str, count: int, note: str | None
) -> tuple[UsageReport, Counterparty]:
    """Store that ``owner_id`` used an agent ``count`` times, and count what may be counted.

    Any owner may report, the publisher too, whose reports count for nothing. Returns the report and
    all that the owner has had to do with the agent. Raises ``AgentNotFound``.
    """
    independent = find_owner(session, agent_id) != owner_id
    evidence = lock_evidence(session, agent_id)
    earlier = session.scalars(
        select(UsageReport)
        .where(UsageReport.agent_id == agent_id, UsageReport.reported_by == owner_id)
        .order_by(UsageReport.sequence.desc())
        .limit(1)
    ).first()
    succeeded, failed = (earlier.succeeded_to_date, earlier.failed_to_date) if earlier else (0, 0)
    report = UsageReport(
        id=ids.new_id(),
        agent_id=agent_id,
        reported_by=owner_id,
        independent=independent,
        sequence=earlier.sequence + 1 if earlier else 1,
        outcome=outcome,
        count=count,
        note=note,
        succeeded_to_date=succeeded + (count if outcome == SUCCESS else 0),
        failed_to_date=failed + (count if outcome == FAILURE else 0),
        reported_at=clock.now(),
    )
    session.add(report)
    dealings = Counterparty()
    if independent:
        row = _find(session, agent_id, owner_id)
        dealings = replace(
            dealings_of(row),
            usage_succeeded=report.succeeded_to_date,
            usage_failed=report.failed_to_date,
        )
        _change(session, evidence, row, dealings)
    else:
        evidence.usage_by_publisher += count
    # Written now, so that the trust read next in this transaction rests on it.
    session.flush()
    return report, dealings


def dealings_of(row: Any) -> Counterparty:
    """Return what a row of the table of counterparties says."""
    return Counterparty(**{name: getattr(row, name) for name in _DEALINGS})


def _find(session: Session, agent_id: str, owner_id: str) -> TrustCounterparty:
    """Return an owner's row for an agent whose evidence is locked; a new one tells of nothing."""
    row = session.get(TrustCounterparty, (agent_id, owner_id))
    if row is None:
        row = TrustCounterparty(agent_id=agent_id, owner_id=owner_id, **asdict(Counterparty()))
        session.add(row)
    return row


def _change(
    session: Session, evidence: TrustEvidence, row: TrustCounterparty, after: Counterparty
) -> None:
    """Keep an owner's new dealings, and the agent's sums with them."""
    was, now = asdict(contribution(dealings_of(row))), asdict(contribution(after))
    for name, value in asdict(after).items():
        setattr(row, name, value)
    for name in SUMS:
        setattr(evidence, name, getattr(evidence, name) + now[name] - was[name])
    session.flush()


def lock_evidence(session: Session, agent_id: str) -> TrustEvidence:
    """Return the agent's evidence, locked, so that what adds to it comes one after the other."""
    found = session.get(TrustEvidence, agent_id, with_for_update=True)
    if found is None:
        insert_if_absent(session, TrustEvidence, agent_id=agent_id, **_NO_EVIDENCE)
        found = session.get_one(TrustEvidence, agent_id, with_for_update=True)
    return found
