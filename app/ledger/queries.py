"""Reading the ledger: accounts, statements, transactions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Result,
    Row,
    Select,
    bindparam,
    case,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from app.db import bounded_sum
from app.ledger.errors import AccountNotFound, TransactionNotFound
from app.ledger.models import Account, MeteringEvent, Posting, Transaction

Reader = Connection | Session
AnyRow = Row[*tuple[Any, ...]]


def newest_time(reader: Reader) -> datetime | None:
    """Return the time that was stored last with a transaction or a metering event, if any was.

    The last by number, not the latest: a clock that was wrong for a moment is soon forgotten.
    """
    newest = [
        reader.execute(select(at).order_by(seq.desc()).limit(1)).scalar_one_or_none()
        for at, seq in (
            (Transaction.created_at, Transaction.seq),
            (MeteringEvent.recorded_at, MeteringEvent.seq),
        )
    ]
    return max((at for at in newest if at is not None), default=None)


def _sum_of(side: Any) -> Any:
    """Sum the postings of an account on one side."""
    return (
        select(func.coalesce(bounded_sum(Posting.amount_micros), 0))
        .where(side == Account.id)
        .correlate(Account)
        .scalar_subquery()
    )


_find_account = select(
    Account.id,
    Account.kind,
    Account.created_at,
    case(
        (Account.kind == "system", _sum_of(Posting.debit_account)), else_=Account.debits_micros
    ).label("debits_micros"),
    case(
        (Account.kind == "system", _sum_of(Posting.credit_account)), else_=Account.credits_micros
    ).label("credits_micros"),
).where(Account.id == bindparam("account_id"))


def find_account(reader: Reader, account_id: str) -> AnyRow:
    """Return an account with the sums of its debits and credits. Raises ``AccountNotFound``.

    A system account's sums are derived from its postings.
    """
    row = reader.execute(_find_account, {"account_id": account_id}).first()
    if row is None:
        raise AccountNotFound(f"no account has the id {account_id!r}")
    return row


def find_balances(reader: Reader, account_ids: Sequence[str]) -> dict[str, AnyRow]:
    """Return the accounts of agents and escrows with these ids, by id, with their sums."""
    statement = select(
        Account.id, Account.debits_micros, Account.credits_micros, Account.created_at
    ).where(Account.id.in_(account_ids))
    return {row.id: row for row in reader.execute(statement)}


_statement_columns = (
    Posting.seq,
    Posting.leg,
    Posting.debit_account,
    Posting.credit_account,
    Posting.amount_micros,
    Transaction.id.label("transaction_id"),
    Transaction.kind,
    Transaction.delegation_id,
    Transaction.effective_at,
)


def list_entries(
    reader: Reader, account_id: str, *, limit: int, before: tuple[int, int] | None
) -> list[AnyRow]:
    """Return up to ``limit`` postings of an account, newest first, before ``(seq, leg)``."""
    statement = (
        select(*_statement_columns)
        .join(Transaction, Transaction.seq == Posting.seq)
        .where(or_(Posting.debit_account == account_id, Posting.credit_account == account_id))
        .order_by(Posting.seq.desc(), Posting.leg.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(tuple_(Posting.seq, Posting.leg) < before)
    return list(reader.execute(statement))


def find_transaction(reader: Reader, transaction_id: str) -> dict[str, Any]:
    """Return a transaction with its postings, as ``read_transactions`` does.

    Raises ``TransactionNotFound``.
    """
    seq = reader.execute(
        select(Transaction.seq).where(Transaction.id == transaction_id)
    ).scalar_one_or_none()
    if seq is None:
        raise TransactionNotFound(f"no transaction has the id {transaction_id!r}")
    return next(read_transactions(reader, seq, seq))


def read_transactions(reader: Reader, first_seq: int, last_seq: int) -> Iterator[dict[str, Any]]:
    """Yield the transactions of a range in order, each as a dict with its list of postings."""
    return _whole(
        reader.execute(_with_postings.where(Transaction.seq.between(first_seq, last_seq)))
    )


def list_delegation_transactions(
    reader: Reader, delegation_id: str, *, limit: int, after: int
) -> list[dict[str, Any]]:
    """Return up to ``limit`` transactions of a delegation in order, after the number ``after``."""
    page = (
        select(Transaction.seq)
        .where(Transaction.delegation_id == delegation_id, Transaction.seq > after)
        .order_by(Transaction.seq)
        .limit(limit)
        .subquery()
    )
    rows = reader.execute(_with_postings.where(Transaction.seq.in_(select(page.c.seq))))
    return list(_whole(rows))


_with_postings = (
    select(
        Transaction.seq,
        Transaction.id,
        Transaction.kind,
        Transaction.dedupe_key,
        Transaction.delegation_id,
        Transaction.actor,
        Transaction.reverses_id,
        Transaction.meta,
        Transaction.effective_at,
        Transaction.created_at,
        Posting.leg,
        Posting.debit_account,
        Posting.credit_account,
        Posting.amount_micros,
    )
    .outerjoin(Posting, Posting.seq == Transaction.seq)
    .order_by(Transaction.seq, Posting.leg)
)


def _whole(rows: Result[*tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Gather rows of one posting each into transactions."""
    current: dict[str, Any] | None = None
    for row in rows.mappings():
        if current is None or current["seq"] != row["seq"]:
            if current is not None:
                yield current
            current = {name: row[name] for name in _TRANSACTION_MEMBERS} | {"postings": []}
        if row["leg"] is not None:
            current["postings"].append({name: row[name] for name in _POSTING_MEMBERS})
    if current is not None:
        yield current


_TRANSACTION_MEMBERS = (
    "seq",
    "id",
    "kind",
    "dedupe_key",
    "delegation_id",
    "actor",
    "reverses_id",
    "meta",
    "effective_at",
    "created_at",
)
_POSTING_MEMBERS = ("leg", "debit_account", "credit_account", "amount_micros")


def closing_transactions(first_seq: int, last_seq: int) -> Select[*tuple[Any, ...]]:
    """Select the delegations that transactions of a range of numbers closed (``delegation_id``)."""
    return select(Transaction.delegation_id).where(
        Transaction.kind == "close", Transaction.seq.between(first_seq, last_seq)
    )


def newest_seq(reader: Reader) -> int:
    """Return the number of the newest transaction, 0 while there is none."""
    return int(reader.execute(select(func.coalesce(func.max(Transaction.seq), 0))).scalar_one())


def sum_flows(reader: Reader, account_id: str, first_seq: int, last_seq: int) -> tuple[int, int]:
    """Return what left an account and what entered it in a range of numbers, in micro-USD."""

    def total(side: Any) -> int:
        statement = select(func.coalesce(bounded_sum(Posting.amount_micros), 0)).where(
            side == account_id, Posting.seq.between(first_seq, last_seq)
        )
        return int(reader.execute(statement).scalar_one())

    return total(Posting.debit_account), total(Posting.credit_account)


def escrow_balances() -> Select[*tuple[Any, ...]]:
    """Select the balance of every escrow account (``delegation_id``, ``balance``)."""
    return select(
        func.substr(Account.id, len("escrow:") + 1).label("delegation_id"),
        (Account.credits_micros - Account.debits_micros).label("balance"),
    ).where(Account.id.like("escrow:%"))


def closing_payments() -> Select[*tuple[Any, ...]]:
    """Select what left escrow for good (``delegation_id``, ``account``, ``amount``).

    The sum covers payments by closing transactions and earlier releases of the hold.
    """
    return (
        select(
            Transaction.delegation_id,
            Posting.credit_account.label("account"),
            bounded_sum(Posting.amount_micros).label("amount"),
        )
        .join(Posting, Posting.seq == Transaction.seq)
        .where(Transaction.kind.in_(("close", "release")))
        .group_by(Transaction.delegation_id, Posting.credit_account)
    )


def escrow_payments() -> Select[*tuple[Any, ...]]:
    """Select every posting out of an escrow, of whichever kind its transaction is.

    The columns are ``delegation_id``, ``account`` (which got it) and ``created_at``.
    """
    return (
        select(
            func.substr(Posting.debit_account, len("escrow:") + 1).label("delegation_id"),
            Posting.credit_account.label("account"),
            Transaction.created_at,
        )
        .join(Transaction, Transaction.seq == Posting.seq)
        .where(Posting.debit_account.like("escrow:%"))
    )


def closings() -> Select[*tuple[Any, ...]]:
    """Select how many closing transactions a delegation has (``delegation_id``, ``number``)."""
    return (
        select(Transaction.delegation_id, func.count().label("number"))
        .where(Transaction.kind == "close")
        .group_by(Transaction.delegation_id)
    )
