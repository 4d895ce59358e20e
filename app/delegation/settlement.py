"""What closing a delegation means for money and trust. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.delegation.breaker import Budget
from app.delegation.lifecycle import COMPLETED, is_evidence_against
from app.ledger import service as ledger
from app.ledger.service import Leg, Movement
from app.registry.service import Outcome


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

    Its dedupe key is the same however a delegation ends, so that of several endings only one can
    ever be booked.
    """
    escrow = ledger.escrow_account(delegation_id)
    legs = [
        Leg(escrow, ledger.agent_account(agent_id), amount)
        for agent_id, amount in ((delegate, charge), (requester, held - charge))
        if amount
    ]
    return Movement("close", f"close:{delegation_id}", legs, delegation_id)


def evidence(closed: Iterable[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Return what closed delegations (as mappings of columns) say of their delegates.

    Delegations that did not come to an end of the delegate's making say nothing, nor do those
    between agents of one owner: an owner cannot earn trust from itself.
    """
    counts: dict[str, list[int]] = {}
    for row in closed:
        failed = is_evidence_against(row["status"])
        if row["status"] == COMPLETED or failed:
            if row["requester_owner_id"] == row["delegate_owner_id"]:
                continue
            # Work whose price a dispute took away altogether was not what was ordered.
            failed = failed or (row["charged_micros"] == 0 < row["metered_micros"])
            counts.setdefault(row["delegate_agent_id"], [0, 0])[failed] += 1
    return {
        agent_id: Outcome(completed, failed) for agent_id, (completed, failed) in counts.items()
    }
