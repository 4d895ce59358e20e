"""What the delegate's side does: take a task on, report its cost, deliver it or give it up.

Every function runs in the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from app import clock, ids
from app.delegation import breaker, lifecycle, payloads
from app.delegation.capabilities import output_schema
from app.delegation.errors import (
    CommandNotAllowed,
    DelegationNotFound,
    NoTaskOffered,
    NotYourAgent,
)
from app.delegation.models import Delegation
from app.delegation.payloads import Demand, Verdicts
from app.delegation.queries import IN_LINE, find_delegation, is_waiting, list_waiting_owners
from app.delegation.settlement import budget_of, metering_source
from app.delegation.transitions import (
    Actor,
    begin,
    close,
    end,
    grow_hold,
    may_begin,
    record,
    renew_lease,
)
from app.ledger import service as ledger
from app.ledger.metering import MeteringEvent, record_events, unseen
from app.registry.queries import find_owner
from app.statements import Statement

ACCEPTED, DUPLICATE, REFUSED = "accepted", "duplicate", "refused"


def accept(session: Session, actor: Actor, delegation_id: str) -> Delegation:
    """Take on an offered task, or one whose worker let its lease run out; gives a new lease.

    The token of an earlier lease is worth nothing from now on (a fencing token). Raises
    ``CommandNotAllowed`` while another worker's lease runs.
    """
    delegation = begin(session, actor, delegation_id, "accept")
    return _take(session, actor, delegation)


def claim(session: Session, actor: Actor, agent_id: str) -> Delegation:
    """Take on a task that waits for an agent, and return it with its lease.

    The owners whose tasks wait take turns, and each gets its oldest task done first, so that nobody
    keeps others waiting with a flood of offers. Workers that claim at once get different tasks.
    Raises ``NotYourAgent``, ``AgentNotFound`` and ``NoTaskOffered``.
    """
    if find_owner(session, agent_id) != actor.owner_id:
        raise NotYourAgent(f"{agent_id} belongs to another owner, so you cannot work for it")
    now = clock.now()
    for owner_id in list_waiting_owners(session, agent_id, now):
        delegation = _next_of(session, agent_id, owner_id, now)
        if delegation is not None:
            delegation.updated_at = now
            _give_turn.run(session, {"agent_id": agent_id, "owner_id": owner_id})
            return _take(session, actor, delegation)
    raise NoTaskOffered(f"no task waits for {agent_id} now")


def _next_of(session: Session, agent_id: str, owner_id: str, now: datetime) -> Delegation | None:
    """Return the oldest of an owner's tasks that wait for an agent, locked.

    None if rivals have taken them all. What was never taken on comes before what a worker left.
    """
    named = {"agent_id": agent_id, "now": now}
    for status in (lifecycle.OFFERED, lifecycle.IN_PROGRESS):
        delegation = session.scalar(
            select(Delegation)
            .where(*is_waiting(status, owner_id))
            .order_by(*IN_LINE)
            .limit(1)
            .with_for_update(skip_locked=True),
            named,
        )
        if delegation is not None:
            return delegation
    return None


# Two claims at once may get the same number: then both owners come after all others.
_give_turn = Statement(
    text(
        "INSERT INTO delegation_offer_queues (delegate_agent_id, requester_owner_id, turn)"
        " SELECT CAST(:agent_id AS VARCHAR), CAST(:owner_id AS VARCHAR), COALESCE(MAX(turn), 0) + 1"
        " FROM delegation_offer_queues WHERE delegate_agent_id = CAST(:agent_id AS VARCHAR)"
        " ON CONFLICT (delegate_agent_id, requester_owner_id) DO UPDATE SET turn = excluded.turn"
    )
)


def _take(session: Session, actor: Actor, delegation: Delegation) -> Delegation:
    now = delegation.updated_at
    if delegation.lease_expires_at is not None and now < delegation.lease_expires_at:
        until = clock.isoformat(delegation.lease_expires_at)
        raise CommandNotAllowed(f"a worker holds the task until {until}", lease_expires_at=until)
    taken_over = delegation.status == lifecycle.IN_PROGRESS
    delegation.status = lifecycle.IN_PROGRESS
    if taken_over:
        delegation.silent_takeovers += 1
    delegation.lease_number += 1
    delegation.lease_token = f"{delegation.lease_number}.{ids.new_secret()}"
    if delegation.deadline_at is None:
        delegation.deadline_at = now + timedelta(seconds=delegation.deadline_seconds)
    renew_lease(delegation)
    kind = "taken_over" if taken_over else "accepted"
    details = {"silent_takeovers": delegation.silent_takeovers} if taken_over else {}
    record(session, delegation, kind, delegation.delegate_agent_id, actor, **details)
    session.flush()
    return delegation


def decline(session: Session, actor: Actor, delegation_id: str, reason: str | None) -> Delegation:
    """Turn down an offered task; everything held goes back."""
    delegation = begin(session, actor, delegation_id, "decline")
    agent = delegation.delegate_agent_id
    return end(session, delegation, lifecycle.DECLINED, agent, actor, reason=reason)


def heartbeat(session: Session, actor: Actor, delegation_id: str, token: str) -> Delegation:
    """Renew the lease. While the requester's answer is awaited there is nothing to renew."""
    delegation = begin(session, actor, delegation_id, "heartbeat", token)
    if delegation.status == lifecycle.IN_PROGRESS:
        renew_lease(delegation)
    session.flush()
    return delegation


@dataclass(frozen=True)
class Report:
    """One metering event as a worker reports it; the cost in micro-USD."""

    event_id: str
    operation: str
    cost_micros: int
    metadata: Mapping[str, Any]
    occurred_at: datetime | None


def meter(
    session: Session,
    actor: Actor,
    delegation_id: str,
    token: str,
    reports: Sequence[Report],
    source: str | None = None,
) -> tuple[Delegation, list[str]]:
    """Add reported use, and return what became of each report: accepted, duplicate or refused.

    An event counts once, however often it is reported. One that crosses 120 % is accepted and ends
    the delegation; those behind it are refused. Raises ``MeteringEventReused`` for an event id that
    was used with another content; nothing is metered then.
    """
    delegation = begin(session, actor, delegation_id, "meter", token)
    events = [_metering_event(delegation, report, source) for report in reports]
    fresh = unseen(session, events)
    paused = delegation.status == lifecycle.PENDING_REAUTHORIZATION
    run = breaker.meter(
        budget_of(delegation),
        [event.cost_micros for event in fresh],
        _growth_available(session, delegation, fresh),
        paused=paused,
    )
    accepted = fresh[: run.accepted]
    record_events(session, accepted)
    grow_hold(session, actor, delegation, run.budget.held)
    delegation.metered_micros = run.budget.metered
    delegation.breaker_level = run.budget.level
    for index, threshold in run.crossed:
        record(
            session,
            delegation,
            "threshold",
            lifecycle.SYSTEM,
            threshold_pct=threshold,
            event_id=fresh[index].event_id,
        )
    if run.stopped:
        end(
            session,
            delegation,
            lifecycle.FAILED_HARD_STOP,
            lifecycle.SYSTEM,
            reason="120 % of the authorized amount was crossed",
        )
    elif run.paused and not paused:
        delegation.status = lifecycle.PENDING_REAUTHORIZATION
        delegation.due_at = delegation.deadline_at
        record(session, delegation, "paused", lifecycle.SYSTEM)
    elif not run.paused:
        renew_lease(delegation)
    session.flush()
    return delegation, _outcomes(events, fresh, accepted)


def _metering_event(delegation: Delegation, report: Report, source: str | None) -> MeteringEvent:
    return MeteringEvent(
        source=metering_source(delegation.delegate_agent_id, delegation.id, source),
        event_id=report.event_id,
        operation=report.operation,
        cost_micros=report.cost_micros,
        actor=delegation.delegate_agent_id,
        owner_id=delegation.delegate_owner_id,
        payer_owner_id=delegation.requester_owner_id,
        delegation_id=delegation.id,
        metadata=report.metadata,
        occurred_at=report.occurred_at or delegation.updated_at,
    )


def _outcomes(
    events: Sequence[MeteringEvent],
    fresh: Sequence[MeteringEvent],
    accepted: Sequence[MeteringEvent],
) -> list[str]:
    """Say of each reported event what became of it; the first of equal ones is not a duplicate."""
    left = {event.event_id: REFUSED for event in fresh}
    left.update({event.event_id: ACCEPTED for event in accepted})
    return [left.pop(event.event_id, DUPLICATE) for event in events]


def _growth_available(
    session: Session, delegation: Delegation, fresh: Sequence[MeteringEvent]
) -> int:
    """Return what the requester can add to escrow; its account is locked only if that matters."""
    metered = delegation.metered_micros + sum(event.cost_micros for event in fresh)
    if not delegation.auto_reauthorize or metered <= delegation.held_micros:
        return 0
    payer = delegation.requester_agent_id
    # The same report may end the delegation and pay for it. Accounts are locked in the order of
    # their ids, so whatever a transaction may change has to be locked at once.
    return ledger.lock_balances(session, [payer, delegation.delegate_agent_id])[payer]


def ask(
    session: Session, actor: Actor, delegation_id: str, token: str, question: str
) -> Delegation:
    """Ask the requester something; the lease rests until the answer, the deadline does not."""
    delegation = begin(session, actor, delegation_id, "ask", token)
    delegation.status = lifecycle.INPUT_REQUIRED
    delegation.due_at = delegation.deadline_at
    record(session, delegation, "asked", delegation.delegate_agent_id, actor, question=question)
    session.flush()
    return delegation


def deliver(
    session: Session,
    actor: Actor,
    delegation_id: str,
    token: str,
    deliverable: Mapping[str, Any],
    verdicts: Verdicts,
) -> Delegation:
    """Hand over the result: ``output``, or ``output_uri`` with ``output_sha256``.

    When a capability was named, an output must match its output schema (``PayloadInvalid``);
    ``verdicts`` holds what was found of the ``output_demands``. With a review period of 0 the
    delegation is settled at once.
    """
    delegation = begin(session, actor, delegation_id, "deliver", token)
    if delegation.capability_id is not None and "output" in deliverable:
        schema = output_schema(session, delegation)
        payloads.check(schema, deliverable["output"], "output", verdicts)
    delegation.status = lifecycle.DELIVERED
    delegation.settlement = lifecycle.IN_REVIEW
    delegation.deliverable = orjson.dumps(dict(deliverable)).decode()
    delegation.cancel_requested_at = None
    delegation.lease_token = None
    delegation.due_at = delegation.updated_at + timedelta(seconds=delegation.review_seconds)
    record(session, delegation, "delivered", delegation.delegate_agent_id, actor)
    if delegation.review_seconds == 0:
        # Whoever offers a task without a review accepts what is delivered beforehand.
        claim, ground = lifecycle.claim_of(delegation), lifecycle.ACCEPTED
        reason = "settled at delivery, as offered"
        completed, system = lifecycle.COMPLETED, lifecycle.SYSTEM
        close(session, delegation, completed, claim, ground, system, reason=reason)
    session.flush()
    return delegation


def output_demands(
    reader: Connection, actor: Actor, delegation_id: str, token: str, deliverable: Mapping[str, Any]
) -> list[Demand]:
    """Return what an output has to match, where the actor may ``deliver`` it now."""
    if "output" not in deliverable:
        return []
    try:
        delegation = find_delegation(reader, delegation_id)
    except DelegationNotFound:
        return []
    if delegation.capability_id is None:
        return []
    if not may_begin(delegation, actor, "deliver", token, clock.now()):
        return []
    return [(output_schema(reader, delegation), deliverable["output"])]


def fail(session: Session, actor: Actor, delegation_id: str, token: str, reason: str) -> Delegation:
    """Give the task up; what was metered is paid unless the requester contests it."""
    delegation = begin(session, actor, delegation_id, "fail", token)
    agent = delegation.delegate_agent_id
    return end(session, delegation, lifecycle.FAILED, agent, actor, reason=reason)
