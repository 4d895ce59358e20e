"""What the requester's side does, and what an operator decides.

Every function runs in the caller's transaction and never commits. Offering a task is in
``creation``, the delegate's side in ``work``.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.delegation import breaker, lifecycle
from app.delegation.errors import ChargeRefused, CommandNotAllowed, ReauthorizationRefused
from app.delegation.models import Delegation
from app.delegation.settlement import budget_of
from app.delegation.transitions import (
    Actor,
    acting_as,
    begin,
    close,
    end,
    grow_hold,
    record,
    renew_lease,
    set_due,
    settle,
)
from app.ledger import service as ledger
from app.ledger.errors import InsufficientFunds
from app.money import to_usd


def answer(session: Session, actor: Actor, delegation_id: str, text: str) -> Delegation:
    """Answer the delegate's question; its lease begins anew."""
    delegation = begin(session, actor, delegation_id, "answer")
    delegation.status = lifecycle.IN_PROGRESS
    renew_lease(delegation)
    record(session, delegation, "answered", delegation.requester_agent_id, actor, answer=text)
    session.flush()
    return delegation


def accept_result(session: Session, actor: Actor, delegation_id: str) -> Delegation:
    """Accept what was delivered, or what is charged without that: it goes to the delegate.

    Inline work that waits at the end of its budget is accepted for that budget. Raises
    ``InsufficientFunds`` where the balance does not cover it.
    """
    delegation = begin(session, actor, delegation_id, "accept-result")
    payer = delegation.requester_agent_id
    if delegation.status == lifecycle.PENDING_REAUTHORIZATION:
        _require_funds(session, delegation, delegation.max_budget_micros)
        grow_hold(session, actor, delegation, delegation.max_budget_micros)
    claim = lifecycle.claim_of(delegation)
    return settle(session, delegation, claim, lifecycle.ACCEPTED, payer, actor)


def dispute(session: Session, actor: Actor, delegation_id: str, reason: str) -> Delegation:
    """Contest what was delivered, or what is charged without that; an operator decides."""
    delegation = begin(session, actor, delegation_id, "dispute")
    if delegation.status == lifecycle.DELIVERED:
        delegation.status = lifecycle.DISPUTED
    delegation.settlement = lifecycle.DISPUTED
    delegation.due_at = delegation.updated_at + lifecycle.RESOLVE_WITHIN
    record(session, delegation, "disputed", delegation.requester_agent_id, actor, reason=reason)
    session.flush()
    return delegation


def resolve(
    session: Session, actor: Actor, delegation_id: str, charge_micros: int, reason: str
) -> Delegation:
    """Decide a dispute: what the delegate is paid. Raises ``ChargeRefused`` above what was used."""
    delegation = begin(session, actor, delegation_id, "resolve")
    most = lifecycle.claim_of(delegation)
    if charge_micros > most:
        raise ChargeRefused(
            f"expected a charge of at most {to_usd(most)} USD, which is what was used and is held",
            max_charge_usd=to_usd(most),
        )
    ground, operator = lifecycle.RESOLVED, lifecycle.OPERATOR
    return settle(session, delegation, charge_micros, ground, operator, actor, reason=reason)


def reauthorize(
    session: Session, actor: Actor, delegation_id: str, new_estimate_micros: int
) -> Delegation:
    """Authorize more, so that work can go on; inline work, which is done, is settled.

    Raises ``ReauthorizationRefused`` and ``InsufficientFunds``.
    """
    delegation = begin(session, actor, delegation_id, "reauthorize")
    try:
        budget = breaker.reauthorize(budget_of(delegation), new_estimate_micros)
    except ValueError as error:
        raise ReauthorizationRefused(
            str(error),
            metered_usd=to_usd(delegation.metered_micros),
            max_budget_usd=to_usd(delegation.max_budget_micros),
        ) from None
    payer = delegation.requester_agent_id
    _require_funds(session, delegation, budget.held)
    grow_hold(session, actor, delegation, budget.held)
    delegation.authorized_micros = budget.authorized
    delegation.breaker_level = budget.level
    delegation.status = lifecycle.IN_PROGRESS
    shown = to_usd(budget.authorized)
    record(session, delegation, "reauthorized", payer, actor, authorized_usd=shown)
    if delegation.execution == lifecycle.INLINE:
        completed, ground = lifecycle.COMPLETED, lifecycle.REPORTED
        return close(session, delegation, completed, budget.charge, ground, payer, actor)
    renew_lease(delegation)
    session.flush()
    return delegation


def _require_funds(session: Session, delegation: Delegation, held: int) -> None:
    """Raise ``InsufficientFunds`` unless the requester can let the hold grow to ``held``."""
    payer, payee = delegation.requester_agent_id, delegation.delegate_agent_id
    # Inline work is paid at once, and accounts are locked in the order of their ids.
    balances = ledger.lock_balances(session, [payer, payee])
    if balances[payer] < held - delegation.held_micros:
        raise InsufficientFunds(f"the balance of {payer} does not cover the new estimate")


def cancel(
    session: Session, actor: Actor, delegation_id: str, token: str | None, reason: str | None
) -> Delegation:
    """Call a delegation off, as its requester or, where a third party has to, as an operator.

    A worker at work sees the request in the answer to its next heartbeat and confirms it by giving
    its own lease token here; without that the system cancels after 30 seconds. What was metered by
    then is paid unless the requester contests it. Where nobody is at work the delegation is
    cancelled at once.
    """
    delegation = begin(session, actor, delegation_id, "cancel", token)
    by = delegation.delegate_agent_id if token else acting_as(delegation, actor)
    if delegation.status == lifecycle.IN_PROGRESS and token is None:
        if delegation.cancel_requested_at is None:
            delegation.cancel_requested_at = delegation.updated_at
            set_due(delegation)
            record(session, delegation, "cancel_requested", by, actor, reason=reason)
        session.flush()
        return delegation
    if token is not None and delegation.cancel_requested_at is None:
        raise CommandNotAllowed(
            "the requester has not asked to cancel; give the task up with fail",
            allowed_commands=lifecycle.commands_for(delegation),
        )
    return end(session, delegation, lifecycle.CANCELLED, by, actor, reason=reason)
