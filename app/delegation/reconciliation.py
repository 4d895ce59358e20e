"""Reconciliation of delegations with the ledger, the metering and the stored answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Select, and_, case, cast, extract, func, literal, or_, select
from sqlalchemy.orm import aliased

from app.delegation.lifecycle import (
    BEFORE_REVIEWS,
    COMPLETED,
    LEAST_REVIEW_OF_ENDING,
    OPEN,
    OPERATOR,
    SETTLED,
    SYSTEM,
    TERMINAL,
)
from app.delegation.models import Cutover, Delegation, DelegationEvent
from app.idempotency.queries import created_resources, list_unanswered
from app.ledger.metering import metered_by_delegation, operation_of_service
from app.ledger.queries import (
    Reader,
    closing_payments,
    closings,
    escrow_balances,
    escrow_payments,
)
from app.ledger.reconciliation import MAX_FINDINGS
from app.ledger.reconciliation import RULES as LEDGER_RULES

_IS_CLOSED = Delegation.status.in_(TERMINAL)
_IS_SETTLED = Delegation.settlement == SETTLED
# A delegation's last payment was booked within the minute after it was written that it closed.
BOOKED_WITHIN_SECONDS = 60


def _ids(reader: Reader, statement: Select[Any]) -> Iterator[str]:
    yield from reader.execute(statement.limit(MAX_FINDINGS)).scalars()


def _settled_escrows_are_empty(reader: Reader) -> Iterator[str]:
    escrow = escrow_balances().subquery()
    left = (
        select(escrow.c.delegation_id)
        .outerjoin(Delegation, Delegation.id == escrow.c.delegation_id)
        .where(escrow.c.balance != 0, or_(Delegation.id.is_(None), _IS_SETTLED))
    )
    for delegation_id in _ids(reader, left):
        yield f"{delegation_id}: money is left in escrow though nothing is to be settled"


def _unsettled_escrows_hold_what_they_say(reader: Reader) -> Iterator[str]:
    escrow = escrow_balances().subquery()
    wrong = (
        select(Delegation.id)
        .outerjoin(escrow, escrow.c.delegation_id == Delegation.id)
        .where(
            ~_IS_SETTLED,
            func.coalesce(escrow.c.balance, 0)
            != Delegation.held_micros - Delegation.released_micros,
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

    due_back = case(
        (_IS_SETTLED, Delegation.held_micros - Delegation.charged_micros),
        else_=Delegation.released_micros,
    )
    wrong = (
        select(Delegation.id)
        .outerjoin(paid, received(paid, Delegation.delegate_agent_id))
        .outerjoin(refunded, received(refunded, Delegation.requester_agent_id))
        .where(
            _IS_CLOSED,
            or_(
                func.coalesce(paid.c.amount, 0) != func.coalesce(Delegation.charged_micros, 0),
                func.coalesce(refunded.c.amount, 0) != due_back,
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
                and_(_IS_SETTLED, func.coalesce(closed.c.number, 0) != 1),
                and_(~_IS_SETTLED, closed.c.number.is_not(None)),
                and_(_IS_SETTLED, ~_IS_CLOSED),
                and_(Delegation.settlement == OPEN, _IS_CLOSED),
            )
        )
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: the ledger does not close the delegation exactly once"


def _paid_by_right(reader: Reader) -> Iterator[str]:
    """Compare each payment to a delegate with the recorded events, not with its row."""
    payments = escrow_payments().subquery()
    requester = literal("agent:").concat(Delegation.requester_agent_id)
    by_its_time = and_(
        func.coalesce(Delegation.settled_by, "") == BEFORE_REVIEWS, _before_reviews(payments)
    )
    by_right = and_(
        func.coalesce(Delegation.settled_by, "") != BEFORE_REVIEWS,
        or_(_accepted(), _resolved(), _reviewed(), _reported_inline()),
    )
    wrong = (
        select(payments.c.delegation_id)
        .distinct()
        .outerjoin(Delegation, Delegation.id == payments.c.delegation_id)
        .where(
            or_(
                Delegation.id.is_(None),
                and_(payments.c.account != requester, ~or_(by_its_time, by_right)),
            )
        )
    )
    for delegation_id in _ids(reader, wrong):
        yield f"{delegation_id}: money left escrow that nobody accepted, reviewed or awarded"


def _happened(event: Any, *conditions: Any) -> Any:
    """Select an event of the delegation; all else in the conditions is of enclosing statements."""
    found = select(event.number).where(event.delegation_id == Delegation.id, *conditions)
    return found.correlate_except(event)


def _settles(event: Any) -> Any:
    """Return the condition that money was paid with an event, and not that work only ended."""
    return or_(event.kind == "settled", and_(event.kind == "closed", event.status == COMPLETED))


def _accepted() -> Any:
    event = aliased(DelegationEvent)
    by_requester = and_(event.actor == Delegation.requester_agent_id, event.key_id.is_not(None))
    return _happened(event, _settles(event), by_requester).exists()


def _resolved() -> Any:
    event = aliased(DelegationEvent)
    by_operator = and_(event.actor == OPERATOR, event.key_id.is_not(None))
    return _happened(event, _settles(event), by_operator, _disputed_before(event)).exists()


def _disputed_before(event: Any) -> Any:
    dispute = aliased(DelegationEvent)
    return _happened(dispute, dispute.kind == "disputed", dispute.number < event.number).exists()


def _reviewed() -> Any:
    """Return the condition that the whole review period passed without a dispute."""
    begin, event = aliased(DelegationEvent), aliased(DelegationEvent)
    least = int(LEAST_REVIEW_OF_ENDING.total_seconds())
    period = case(
        (begin.kind == "delivered", Delegation.review_seconds),
        (Delegation.review_seconds > least, Delegation.review_seconds),
        else_=least,
    )
    began = _happened(
        begin,
        or_(
            and_(event.kind == "closed", begin.kind == "delivered"),
            and_(event.kind == "settled", begin.kind == "closed"),
        ),
        begin.number < event.number,
        _seconds(event.at) - _seconds(begin.at) >= period,
    ).exists()
    return _happened(
        event, _settles(event), event.actor == SYSTEM, began, ~_disputed_before(event)
    ).exists()


def _seconds(moment: Any) -> Any:
    return cast(extract("epoch", moment), BigInteger)


def _reported_inline() -> Any:
    """Return the condition that the requester reported the work itself when it was created."""
    event = aliased(DelegationEvent)
    created = literal("delegation.create:").concat(Delegation.id)
    return and_(
        operation_of_service(created, '"execution":"inline"').exists(),
        _happened(event, event.kind == "closed").exists(),
    )


def _before_reviews(payments: Any) -> Any:
    """Return the condition that it was closed and paid before there were reviews."""
    event = aliased(DelegationEvent)
    until = select(Cutover.at).where(Cutover.name == "reviews").scalar_subquery()
    return and_(
        _happened(event, event.kind == "closed", event.at <= until).exists(),
        _seconds(payments.c.created_at) <= _seconds(until) + BOOKED_WITHIN_SECONDS,
    )


_OWN = (
    ("R3", "the escrow of a settled delegation is empty", _settled_escrows_are_empty),
    (
        "R4",
        "the escrow of an unsettled delegation holds what it says",
        _unsettled_escrows_hold_what_they_say,
    ),
    ("R5", "what is metered is the sum of its events", _metered_is_the_sum_of_events),
    ("R6", "every idempotency key has its answer", _every_key_has_its_answer),
    ("R7", "every stored answer has its delegation", _every_answer_has_its_delegation),
    ("R8", "what is charged and refunded was paid", _charges_are_what_was_paid),
    ("R10", "every settled delegation was closed exactly once", _closed_once),
    (
        "R12",
        "a delegate was paid what was accepted, not contested in review, or awarded",
        _paid_by_right,
    ),
)

# All rules, the ledger's own among them.
RULES = (*LEDGER_RULES, *_OWN)
