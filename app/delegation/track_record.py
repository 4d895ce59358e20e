"""What closed delegations leave beside their money: turnover, and evidence of delegates.

Every function runs in the caller's transaction, after the accounts are locked, and never commits.
Turnovers are locked in the order of owners' ids, and before evidence, so that no writers deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.db import insert_if_absent
from app.delegation.models import Delegation, OwnerTurnover
from app.delegation.settlement import turnovers
from app.registry.service import Outcome, record_outcome
from app.statements import Statement, recordset, to_json

_turnover: Any = OwnerTurnover.__table__
_NAMES = [column.name for column in _turnover.c]


def _adding(given: str, greatest: str) -> Any:
    """Build the statement that adds turnovers, given as a table expression of all columns."""
    return text(
        f"INSERT INTO {_turnover.name} AS kept ({', '.join(_NAMES)})"  # noqa: S608
        f" SELECT {', '.join(_NAMES)} FROM {given} WHERE true ORDER BY owner_id"
        " ON CONFLICT (owner_id) DO UPDATE SET"
        " earned_micros = kept.earned_micros + excluded.earned_micros,"
        " spent_micros = kept.spent_micros + excluded.spent_micros,"
        f" own_micros = {greatest}(kept.own_micros, kept.spent_micros + excluded.spent_micros"
        " - kept.earned_micros - excluded.earned_micros)"
    )


_SQLITE = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in _NAMES)
_add_turnovers = Statement(
    {
        "sqlite": _adding(f"(SELECT {_SQLITE} FROM json_each(:turnovers))", "max"),  # noqa: S608
        "postgresql": _adding(recordset("turnovers", list(_turnover.c)), "greatest"),
    }
)


def record_turnover(session: Session, closed: Iterable[Mapping[str, Any]]) -> None:
    """Add what closed delegations, as mappings of columns, earned and cost, in one statement."""
    added = turnovers(closed)
    if not added:
        return
    rows = [
        {
            "owner_id": owner_id,
            "earned_micros": earned,
            "spent_micros": spent,
            "own_micros": max(0, spent - earned),
        }
        for owner_id, (earned, spent) in added.items()
    ]
    _add_turnovers.run(session, {"turnovers": to_json(rows)})


def settle(session: Session, delegation: Delegation) -> None:
    """Count a closed delegation in its owners' turnover and in its delegate's record."""
    own = 0
    if delegation.evidence and delegation.charged_micros:
        own = _spend(session, delegation)
        session.execute(
            update(Delegation.__table__)  # type: ignore[arg-type]
            .where(Delegation.__table__.c.id == delegation.id)
            .values(own_micros=own)
        )
    else:
        names = ("requester_owner_id", "delegate_owner_id", "charged_micros")
        record_turnover(session, [{name: getattr(delegation, name) for name in names}])
    if delegation.evidence:
        record_outcome(
            session,
            Outcome(
                agent_id=delegation.delegate_agent_id,
                owner_id=delegation.requester_owner_id,
                good=delegation.evidence > 0,
                own_micros=own,
                at=delegation.closed_at or delegation.updated_at,
            ),
        )


def _spend(session: Session, delegation: Delegation) -> int:
    """Add a charge to both owners' turnover; return how much of it was the payer's own money."""
    payer, payee = delegation.requester_owner_id, delegation.delegate_owner_id
    charge = delegation.charged_micros or 0
    owners = _lock(session, [payer, payee])
    owners[payee].earned_micros += charge
    spender = owners[payer]
    spender.spent_micros += charge
    own = max(0, spender.spent_micros - spender.earned_micros - spender.own_micros)
    spender.own_micros += own
    session.flush()
    return own


def _lock(session: Session, owner_ids: Sequence[str]) -> dict[str, OwnerTurnover]:
    statement = (
        select(OwnerTurnover)
        .where(OwnerTurnover.owner_id.in_(owner_ids))
        .order_by(OwnerTurnover.owner_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    rows = session.scalars(statement).all()
    if len(rows) < len(owner_ids):
        nothing = dict.fromkeys(("earned_micros", "spent_micros", "own_micros"), 0)
        for owner_id in sorted(owner_ids):
            insert_if_absent(session, OwnerTurnover, owner_id=owner_id, **nothing)
        rows = session.scalars(statement).all()
    return {row.owner_id: row for row in rows}
