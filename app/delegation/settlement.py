"""What closing a delegation means for money and trust. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.delegation.breaker import Budget
from app.delegation.lifecycle import COMPLETED, FAILED, FAILED_HARD_STOP, REMOTE
from app.ledger import service as ledger
from app.ledger.service import Leg, Movement

# A lease that is shorter cannot be relied on to be renewed in time, so its loss is nobody's fault.
SHORTEST_FAIR_LEASE_SECONDS = 10


def budget_of(delegation: Any) -> Budget:
    """Return the money side of anything with the columns of a delegation."""
    return Budget(
        authorized=delegation.authorized_micros,
        maximum=delegation.max_budget_micros,
        held=delegation.held_micros,
        metered=delegation.metered_micros,
        level=delegation.breaker_level,
        auto_reauthorize=delegation.auto_reauthorize,
    )


def metering_source(agent_id: str, delegation_id: str, given: str | None = None) -> str:
    """Return the source that an agent's metering events are unique in.

    It begins with the agent, whose owner was authenticated, so that nobody can use up the event ids
    of somebody else.
    """
    return f"{agent_id}/{given or delegation_id}"


def movement_of_close(
    delegation_id: str, requester: str, delegate: str, charge: int, held: int
) -> Movement:
    """Return the transaction that empties an escrow: the charge to the delegate, the rest back.

    ``held`` is what is in it by then. Its dedupe key is the same however a delegation ends, so that
    of several endings only one can ever be booked.
    """
    escrow = ledger.escrow_account(delegation_id)
    legs = [
        Leg(escrow, ledger.agent_account(agent_id), amount)
        for agent_id, amount in ((delegate, charge), (requester, held - charge))
        if amount
    ]
    return Movement("close", f"close:{delegation_id}", legs, delegation_id)


def movement_of_release(delegation_id: str, requester: str, amount: int) -> Movement:
    """Return the transaction that gives back what nobody claims while the rest is in review."""
    leg = Leg(ledger.escrow_account(delegation_id), ledger.agent_account(requester), amount)
    return Movement("release", f"release:{delegation_id}", [leg], delegation_id)


def verdict(delegation: Any, *, awaited: bool = False) -> int:
    """Return what a closed delegation says of its delegate: 1 for it, -1 against it, 0 nothing.

    Takes anything with the columns of a delegation; ``awaited`` tells that it ended while the
    requester was awaited. What the requester alone reports says nothing, nor does what was not paid
    for, nor work between agents of one owner, nor a failure that the requester's own terms or
    requests caused.
    """
    if (
        delegation.execution != REMOTE
        or delegation.simulated
        or delegation.requester_owner_id == delegation.delegate_owner_id
    ):
        return 0
    if delegation.status == COMPLETED:
        if delegation.charged_micros:
            return 1
        # Work whose price a dispute took away altogether was not what was ordered.
        return -1 if delegation.metered_micros else 0
    if delegation.status == FAILED:
        by_requester = (
            awaited
            or delegation.cancel_requested_at is not None
            or delegation.deadline_seconds < (delegation.delegate_min_deadline_seconds or 0)
            or delegation.lease_seconds < SHORTEST_FAIR_LEASE_SECONDS
        )
        return 0 if by_requester else -1
    return -1 if delegation.status == FAILED_HARD_STOP else 0


def turnovers(closed: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return what owners earned and spent in closed delegations, given as mappings of columns.

    By the owner's id, in micro-USD. What agents of one owner pay each other is neither.
    """
    found: dict[str, list[int]] = {}
    for row in closed:
        payer, payee, charge = (
            row["requester_owner_id"],
            row["delegate_owner_id"],
            row["charged_micros"],
        )
        if charge and payer != payee:
            found.setdefault(payee, [0, 0])[0] += charge
            found.setdefault(payer, [0, 0])[1] += charge
    return {owner_id: (earned, spent) for owner_id, (earned, spent) in found.items()}
