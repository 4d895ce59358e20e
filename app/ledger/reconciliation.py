"""Reconciliation: what must be true of the ledger at every instant, each rule with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, cast, func, or_, select, union_all

from app.db import bounded_sum
from app.ledger.models import Account, Posting, Transaction
from app.ledger.queries import Reader
from app.ledger.seals import verify

MAX_FINDINGS = 20
# Told by the id as postings do, so that a change of ``kind`` hides nothing.
_GUARDED = Account.id.not_like("sys:%")


# The number of a rule, its statement, and what finds all that breaks it. A plain tuple, so that
# another scope can offer rules about its own tables without knowing this one; the edge joins them.
Rule = tuple[str, str, Callable[[Reader], Iterable[str]]]


@dataclass(frozen=True)
class Result:
    """One rule and what was found to break it; at most ``MAX_FINDINGS`` findings."""

    number: str
    statement: str
    findings: list[str]


def _account_sums_are_postings(reader: Reader) -> Iterator[str]:
    sides = union_all(
        select(
            Posting.debit_account.label("account"),
            Posting.amount_micros.label("debit"),
            cast(0, BigInteger).label("credit"),
        ),
        select(Posting.credit_account, cast(0, BigInteger), Posting.amount_micros),
    ).subquery()
    sums = (
        select(
            sides.c.account,
            bounded_sum(sides.c.debit).label("debits"),
            bounded_sum(sides.c.credit).label("credits"),
        )
        .group_by(sides.c.account)
        .subquery()
    )
    rows = reader.execute(
        select(Account.id)
        .outerjoin(sums, sums.c.account == Account.id)
        .where(
            _GUARDED,
            or_(
                Account.debits_micros != func.coalesce(sums.c.debits, 0),
                Account.credits_micros != func.coalesce(sums.c.credits, 0),
            ),
        )
        .order_by(Account.id)
        .limit(MAX_FINDINGS)
    )
    for (account,) in rows:
        yield f"{account}: the account's sums are not those of its postings"


def _no_overdraft(reader: Reader) -> Iterator[str]:
    rows = reader.execute(
        select(Account.id)
        .where(_GUARDED, Account.debits_micros > Account.credits_micros)
        .order_by(Account.id)
        .limit(MAX_FINDINGS)
    )
    for (account,) in rows:
        yield f"{account}: more was taken than came in"


def _every_transaction_has_postings(reader: Reader) -> Iterator[str]:
    rows = reader.execute(
        select(Transaction.id)
        .where(~select(Posting.seq).where(Posting.seq == Transaction.seq).exists())
        .order_by(Transaction.seq)
        .limit(MAX_FINDINGS)
    )
    for (transaction,) in rows:
        yield f"{transaction}: the transaction moves nothing"


def _seals_verify(reader: Reader) -> Iterator[str]:
    for fault in verify(reader):
        where = f"block {fault.block}" + (f", transaction {fault.seq}" if fault.seq else "")
        yield f"{where}: {fault.detail}"


RULES: tuple[Rule, ...] = (
    ("R1", "the sums of every account are those of its postings", _account_sums_are_postings),
    ("R2", "no account of an agent or an escrow is overdrawn", _no_overdraft),
    (
        "R9",
        "every transaction moves one amount from one account to another",
        _every_transaction_has_postings,
    ),
    ("R11", "the seals verify", _seals_verify),
)


def document(results: Iterable[Result]) -> dict[str, Any]:
    """Return what was found as the API and the command show it."""
    rules = [vars(rule) for rule in results]
    return {"clean": not any(rule["findings"] for rule in rules), "rules": rules}


def reconcile(reader: Reader, rules: Iterable[Rule] = RULES) -> list[Result]:
    """Check every rule and return them, in the order of their numbers, with what breaks them.

    Give it a session in one transaction, so that all rules see the same instant.
    """
    return [
        Result(number, statement, list(islice(check(reader), MAX_FINDINGS)))
        for number, statement, check in sorted(rules, key=lambda rule: int(rule[0][1:]))
    ]
