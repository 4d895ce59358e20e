"""Moving a delegation from one state to the next: its row, its money and its events together.

A command begins with ``begin``, which locks the row and lets the clock act first; what follows is
one transition. Nothing here commits.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import clock
from app.delegation import lifecycle, track_record
from app.delegation.announcements import announce
from app.delegation.errors import (
    BudgetStopped,
    CommandNotAllowed,
    DelegationNotFound,
    DelegationOverdue,
    LeaseLost,
    NotAParty,
)
from app.delegation.models import Delegation, DelegationEvent
from app.delegation.settlement import movement_of_close, movement_of_release, verdict
from app.errors import DomainError
from app.ledger import service as ledger
from app.ledger.service import Leg, Movement
from app.money import to_usd


@dataclass(frozen=True)
class Actor:
    """Who gives a command: an owner, with which key, and whether as an operator."""

    owner_id: str
    key_id: str
    is_operator: bool


def begin(
    session: Session, actor: Actor, delegation_id: str, command: str, token: str | None = None
) -> Delegation:
    """Return the locked delegation if the actor may give it the command now.

    Raises ``DelegationNotFound``, ``NotAParty``, ``DelegationOverdue`` (the system has acted),
    ``CommandNotAllowed``, ``BudgetStopped`` and ``LeaseLost``.
    """
    delegation = session.get(Delegation, delegation_id, with_for_update=True)
    if delegation is None:
        raise DelegationNotFound(f"no delegation has the id {delegation_id!r}")
    _require_side(delegation, actor, command, token)
    now = clock.now()
    due = lifecycle.overdue(delegation, now)
    if due is not None:
        lapse(session, delegation, due, now)
        session.flush()
        # It is never too late to resolve a dispute.
        if due.settlement != lifecycle.DISPUTED:
            raise DelegationOverdue(
                f"the command came too late: {due.reason}; the delegation is {due.status}",
                delegation_status=due.status,
                settlement=due.settlement,
            )
    _require_state(delegation, command, token)
    if token is not None:
        # Whatever a worker does with its lease is a sign of life.
        delegation.silent_takeovers = 0
    delegation.updated_at = now
    return delegation


def may_begin(
    delegation: Any, actor: Actor, command: str, token: str | None, now: datetime
) -> bool:
    """Tell whether ``begin`` would let the actor give a delegation, only read here, a command."""
    try:
        _require_side(delegation, actor, command, token)
        _require_state(delegation, command, token)
    except DomainError:
        return False
    return lifecycle.overdue(delegation, now) is None


def _require_state(delegation: Any, command: str, token: str | None) -> None:
    if command == "meter" and delegation.status == lifecycle.FAILED_HARD_STOP:
        raise BudgetStopped("120 % of the authorized amount was crossed; nothing more is metered")
    allowed = lifecycle.commands_for(delegation)
    if command not in allowed:
        raise CommandNotAllowed(
            f"a delegation that is {delegation.status} cannot be given {command}",
            delegation_status=delegation.status,
            allowed_commands=allowed,
        )
    if token is not None:
        present = delegation.lease_token or ""
        if not hmac.compare_digest(present.encode(), token.encode()):
            raise LeaseLost("the lease token is not the present one; another worker has the task")


def acting_as(delegation: Delegation, actor: Actor) -> str:
    """Return who gives a requester's command: the requester agent, or ``operator`` for it."""
    own = actor.owner_id == delegation.requester_owner_id
    return delegation.requester_agent_id if own else lifecycle.OPERATOR


def _require_side(delegation: Any, actor: Actor, command: str, token: str | None) -> None:
    known = lifecycle.COMMANDS[command]
    # Whoever holds the lease acts for the delegate.
    side = lifecycle.DELEGATE if token else known.side
    holder = {
        lifecycle.REQUESTER: delegation.requester_owner_id,
        lifecycle.DELEGATE: delegation.delegate_owner_id,
    }.get(side)
    if actor.owner_id == holder or (actor.is_operator and known.by_operator and not token):
        return
    if actor.owner_id not in (delegation.requester_owner_id, delegation.delegate_owner_id):
        raise NotAParty("the delegation is between agents of other owners")
    raise NotAParty(f"this command is for the {side} of the delegation")


def renew_lease(delegation: Delegation) -> None:
    """Let the present lease run on for its full length from now."""
    delegation.lease_expires_at = delegation.updated_at + timedelta(
        seconds=delegation.lease_seconds
    )
    set_due(delegation)


def set_due(delegation: Delegation) -> None:
    """Set ``due_at`` to the earliest deadline that applies: offer, lease, review or task.

    The system acts on the delegation by itself at that moment.
    """
    due = lifecycle.next_due(delegation)
    delegation.due_at = due.at if due else None


def grow_hold(session: Session, actor: Actor, delegation: Delegation, held: int) -> None:
    """Move what the hold grows by into escrow. Raises ``InsufficientFunds``."""
    more = held - delegation.held_micros
    if not more:
        return
    leg = Leg(
        ledger.agent_account(delegation.requester_agent_id),
        ledger.escrow_account(delegation.id),
        more,
    )
    # The revision makes the key one of its own for each growth of this delegation.
    dedupe_key = f"hold:{delegation.id}:{delegation.revision}"
    ledger.book(session, [Movement("hold", dedupe_key, [leg], delegation.id)], actor.owner_id)
    delegation.held_micros = held


def record(
    session: Session,
    delegation: Delegation,
    kind: str,
    actor_id: str,
    actor: Actor | None = None,
    **details: Any,
) -> None:
    """Add an event in the present status and tell of it; ``actor`` None is the system."""
    delegation.events += 1
    event = DelegationEvent(
        delegation_id=delegation.id,
        number=delegation.events,
        kind=kind,
        status=delegation.status,
        actor=actor_id,
        key_id=actor.key_id if actor else None,
        details=orjson.dumps(details).decode(),
        at=delegation.updated_at,
    )
    session.add(event)
    announce(session, [(vars(delegation), [vars(event)])])


def close(
    session: Session,
    delegation: Delegation,
    status: str,
    charge: int,
    ground: str,
    actor_id: str,
    actor: Actor | None = None,
    **details: Any,
) -> Delegation:
    """End a delegation and settle it at once; ``ground`` is why the charge may be paid."""
    delegation.charged_micros = charge
    _end_work(delegation, status)
    return _pay(session, delegation, "closed", charge, ground, actor_id, actor, **details)


def end(
    session: Session,
    delegation: Delegation,
    status: str,
    actor_id: str,
    actor: Actor | None = None,
    **details: Any,
) -> Delegation:
    """End work without an accepted delivery.

    What was metered stays in escrow while the requester may contest it; the rest goes back.
    """
    claim = lifecycle.claim_of(delegation)
    if lifecycle.settlement_of_ending(delegation) == lifecycle.SETTLED:
        ground = lifecycle.ground_of_ending(delegation)
        return close(session, delegation, status, claim, ground, actor_id, actor, **details)
    released = delegation.held_micros - claim
    _end_work(delegation, status)
    delegation.settlement = lifecycle.IN_REVIEW
    delegation.due_at = delegation.updated_at + lifecycle.review_of_ending(delegation)
    delegation.released_micros = released
    delegation.lease_token = None
    record(
        session,
        delegation,
        "closed",
        actor_id,
        actor,
        charged_usd=None,
        refunded_usd=to_usd(released),
        in_review_usd=to_usd(claim),
        settles_at=clock.isoformat(delegation.due_at),
        **details,
    )
    session.flush()
    if released:
        release = movement_of_release(delegation.id, delegation.requester_agent_id, released)
        ledger.book(session, [release], actor.owner_id if actor else lifecycle.SYSTEM)
    return delegation


def _end_work(delegation: Delegation, status: str) -> None:
    """Write that the work has ended, and what that says of the delegate once it is settled."""
    awaited = delegation.status in lifecycle.AWAITING
    delegation.status = status
    delegation.closed_at = delegation.updated_at
    delegation.evidence = verdict(delegation, awaited=awaited)


def settle(
    session: Session,
    delegation: Delegation,
    charge: int,
    ground: str,
    actor_id: str,
    actor: Actor | None = None,
    **details: Any,
) -> Delegation:
    """Pay for what was in review, or in dispute; work that was delivered is completed by it."""
    if delegation.closed_at is None:
        completed = lifecycle.COMPLETED
        return close(session, delegation, completed, charge, ground, actor_id, actor, **details)
    return _pay(session, delegation, "settled", charge, ground, actor_id, actor, **details)


def _pay(
    session: Session,
    delegation: Delegation,
    kind: str,
    charge: int,
    ground: str,
    actor_id: str,
    actor: Actor | None,
    **details: Any,
) -> Delegation:
    """Empty the escrow for good: ``charge`` to the delegate, the rest back; count the outcome."""
    held = delegation.held_micros
    movement = movement_of_close(
        delegation.id,
        delegation.requester_agent_id,
        delegation.delegate_agent_id,
        charge,
        held - delegation.released_micros,
    )
    delegation.settlement = lifecycle.SETTLED
    delegation.settled_by = ground
    delegation.charged_micros = charge
    delegation.due_at = None
    delegation.lease_token = None
    record(
        session,
        delegation,
        kind,
        actor_id,
        actor,
        charged_usd=to_usd(charge),
        refunded_usd=to_usd(held - charge),
        **details,
    )
    session.flush()
    ledger.book(session, [movement], actor.owner_id if actor else lifecycle.SYSTEM)
    track_record.settle(session, delegation)
    return delegation


def lapse(session: Session, delegation: Delegation, due: lifecycle.Due, now: datetime) -> None:
    """Do what the system does with a delegation whose time has run out."""
    delegation.updated_at = now
    system = lifecycle.SYSTEM
    if due.settlement == lifecycle.DISPUTED:
        delegation.due_at = now + lifecycle.RESOLVE_WITHIN
        record(session, delegation, "dispute_overdue", system, reason=due.reason)
    elif delegation.settlement == lifecycle.IN_REVIEW:
        claim, ground = lifecycle.claim_of(delegation), lifecycle.REVIEWED
        settle(session, delegation, claim, ground, system, reason=due.reason)
    else:
        end(session, delegation, due.status, system, reason=due.reason)


def close_overdue(session: Session, delegation_id: str) -> bool:
    """Apply a delegation's due deadline. Return False when none is due or another process has it.

    Several servers may sweep at once: none waits for a row that another has locked.
    """
    delegation = session.get(Delegation, delegation_id, with_for_update={"skip_locked": True})
    now = clock.now()
    due = lifecycle.overdue(delegation, now) if delegation else None
    if delegation is None or due is None:
        return False
    lapse(session, delegation, due, now)
    session.flush()
    return True
