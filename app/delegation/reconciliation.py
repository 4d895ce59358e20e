"""Reconciliation of delegations with the ledger, the metering and the stored answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, and_, func, literal, or_, select

from app.delegation.lifecycle import LIVE, TERMINAL
from app.delegation.models import Delegation
from app.idempotency.queries import created_resources, list_unanswered
from app.ledger.metering import metered_by_delegation
from app.ledger.queries import Reader, closing_payments, closings, escrow_balances
from app.ledger.reconciliation import MAX_FINDINGS
from app.ledger.reconciliation import RULES as LEDGER_RULES

_IS_CLOSED = Delegation.status.in_(TERMINAL)


def _ids(reader: Reader, statement: Select[Any]) -> Iterator[str]:
    yield from reader.execute(statement.limit(MAX_FINDINGS)).scalars()


def _closed_escrows_are_empty(reader: Reader) -> Iterator[str]:
    escrow = escrow_balances().subquery()
    left = (
        select(escrow.c.delegation_id)
        .outerjoin(Delegation, Delegation.id == escrow.c.delegation_id)
        .where(escrow.c.balance != 0, or_(Delegation.id.is_(None), _IS_CLOSED))
    )
    for delegation_id in _ids(reader, left):
        yield f"{delegation_id}: money is left in the escrow of no live delegation"


def _live_escrows_hold_what_is_held(reader: Reader) -> Iterator[str]:
    escrow = escrow_balances().subquery()
    wrong = (
        select(Delegation.id)
        .outerjoin(escrow, escrow.c.delegation_id == Delegation.id)
        .where(
            Delegation.status.in_(LIVE),
            func.coalesce(escrow.c.balance, 0) != Delegation.held_micros,
        )
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: escrow does not hold what the delegation says"


def _metered_is_the_sum_of_events(reader: Reader) -> Iterator[str]:
    costs = metered_by_delegation()
    wrong = (
        select(Delegation.id)
        .outerjoin(costs, costs.c.delegation_id == Delegation.id)
        .where(func.coalesce(costs.c.metered_micros, 0) != Delegation.metered_micros)
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: what was metered is not the sum of its events"
    orphans = (
        select(costs.c.delegation_id)
        .outerjoin(Delegation, Delegation.id == costs.c.delegation_id)
        .where(Delegation.id.is_(None))
    )
    for delegation_id in _ids(reader, orphans):
        yield f"{delegation_id}: events were metered for no delegation"


def _every_key_has_its_answer(reader: Reader) -> Iterator[str]:
    for key in list_unanswered(reader, limit=MAX_FINDINGS):
        yield f"{key}: the idempotency key has no answer"


def _every_answer_has_its_delegation(reader: Reader) -> Iterator[str]:
    created = created_resources("/v1/delegations").subquery()
    path = literal("/v1/delegations/").concat(Delegation.id)
    missing = (
        select(created.c.resource)
        .outerjoin(Delegation, path == created.c.resource)
        .where(Delegation.id.is_(None))
    )
    for resource in _ids(reader, missing):
        yield f"{resource}: a stored answer shows a delegation that does not exist"


def _charges_are_what_was_paid(reader: Reader) -> Iterator[str]:
    paid, refunded = closing_payments().subquery("paid"), closing_payments().subquery("refunded")

    def received(payments: Any, agent_id: Any) -> Any:
        return and_(
            payments.c.delegation_id == Delegation.id,
            payments.c.account == literal("agent:").concat(agent_id),
        )

    wrong = (
        select(Delegation.id)
        .outerjoin(paid, received(paid, Delegation.delegate_agent_id))
        .outerjoin(refunded, received(refunded, Delegation.requester_agent_id))
        .where(
            _IS_CLOSED,
            or_(
                func.coalesce(paid.c.amount, 0) != Delegation.charged_micros,
                func.coalesce(refunded.c.amount, 0)
                != Delegation.held_micros - Delegation.charged_micros,
            ),
        )
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: what was paid is not what the delegation says"


def _closed_once(reader: Reader) -> Iterator[str]:
    closed = closings().subquery()
    wrong = (
        select(Delegation.id)
        .outerjoin(closed, closed.c.delegation_id == Delegation.id)
        .where(
            or_(
                and_(_IS_CLOSED, func.coalesce(closed.c.number, 0) != 1),
                and_(Delegation.status.in_(LIVE), closed.c.number.is_not(None)),
            )
        )
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: the ledger does not close the delegation exactly once"


_OWN = (
    ("R3", "the escrow of a closed delegation is empty", _closed_escrows_are_empty),
    ("R4", "the escrow of a live delegation holds what it says", _live_escrows_hold_what_is_held),
    ("R5", "what is metered is the sum of its events", _metered_is_the_sum_of_events),
    ("R6", "every idempotency key has its answer", _every_key_has_its_answer),
    ("R7", "every stored answer has its delegation", _every_answer_has_its_delegation),
    ("R8", "what is charged and refunded was paid", _charges_are_what_was_paid),
    ("R10", "every closed delegation was closed exactly once", _closed_once),
)

# All rules, the ledger's own among them.
RULES = (*LEDGER_RULES, *_OWN)
