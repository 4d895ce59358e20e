"""Moving money: open accounts, book transactions, reverse them.

Every function runs in the caller's transaction and never commits. Amounts are micro-USD.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import false, insert, literal_column, select
from sqlalchemy.orm import Session

from app import clock, ids
from app.db import insert_if_absent
from app.ledger import booking
from app.ledger.errors import NotReversible
from app.ledger.models import Account, Transaction
from app.ledger.queries import find_transaction
from app.statements import Statement, is_one_of, to_json

AGENT, ESCROW, SYSTEM = "agent", "escrow", "system"
WORLD = "sys:world"
FEES = "sys:fees"


@dataclass(frozen=True)
class Leg:
    """One amount that leaves the account ``debit`` and enters the account ``credit``."""

    debit: str
    credit: str
    amount_micros: int


@dataclass(frozen=True)
class Movement:
    """One transaction to book."""

    kind: str
    dedupe_key: str
    legs: Sequence[Leg]
    delegation_id: str | None = None
    reverses_id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def agent_account(agent_id: str) -> str:
    """Return the id of an agent's account."""
    return f"agent:{agent_id}"


def escrow_account(delegation_id: str) -> str:
    """Return the id of the account that holds a delegation's money."""
    return f"escrow:{delegation_id}"


def account_kind(account_id: str) -> str:
    """Return the kind that an account's id tells."""
    prefix = account_id.partition(":")[0]
    return SYSTEM if prefix == "sys" else prefix


def open_account(session: Session, account_id: str) -> None:
    """Open an account with balance 0 unless it is open."""
    insert_if_absent(
        session,
        Account,
        id=account_id,
        kind=account_kind(account_id),
        debits_micros=0,
        credits_micros=0,
        created_at=clock.now(),
    )


def book(session: Session, movements: Sequence[Movement], actor: str) -> list[str]:
    """Book several transactions, in order, and return their ids; all or none.

    The dedupe key of a movement names it for ever: booking it again raises ``TransactionExists``.
    Raises ``InsufficientFunds`` when an agent's or escrow's account would end overdrawn; what
    movements take and give within one call is weighed together. Accounts are opened as needed.
    After either refusal the caller has to roll back, as every write does.
    """
    if not movements:
        return []
    now = clock.now()
    transaction_ids = [ids.new_id() for _ in movements]
    transactions = [
        {
            "id": transaction_id,
            "kind": movement.kind,
            "dedupe_key": movement.dedupe_key,
            "delegation_id": movement.delegation_id,
            "actor": actor,
            "reverses_id": movement.reverses_id,
            "meta": orjson.dumps(dict(movement.meta), option=orjson.OPT_SORT_KEYS).decode(),
            "effective_at": now,
            "created_at": now,
        }
        for transaction_id, movement in zip(transaction_ids, movements, strict=True)
    ]
    postings = [
        {
            "transaction_id": transaction_id,
            "leg": number,
            "debit_account": leg.debit,
            "credit_account": leg.credit,
            "amount_micros": leg.amount_micros,
        }
        for transaction_id, movement in zip(transaction_ids, movements, strict=True)
        for number, leg in enumerate(movement.legs, start=1)
    ]
    accounts = _net_changes([leg for movement in movements for leg in movement.legs], now)
    booking.write(session, booking.Booking(accounts, transactions, postings))
    return transaction_ids


def _net_changes(legs: Sequence[Leg], now: datetime) -> list[dict[str, Any]]:
    """Return what legs add to each account's sums, by id; a system account's are not kept."""
    debits: defaultdict[str, int] = defaultdict(int)
    credits_: defaultdict[str, int] = defaultdict(int)
    for leg in legs:
        debits[leg.debit] += leg.amount_micros
        credits_[leg.credit] += leg.amount_micros
    changes = []
    for account_id in sorted(debits.keys() | credits_.keys()):
        kind = account_kind(account_id)
        changes.append(
            {
                "id": account_id,
                "kind": kind,
                "debits_micros": 0 if kind == SYSTEM else debits[account_id],
                "credits_micros": 0 if kind == SYSTEM else credits_[account_id],
                "created_at": now,
            }
        )
    return changes


# Inserting nothing locks the table of transactions as the booking to come will. It has to be locked
# before any account is: a sealer that waits for that table would come between the two, and whoever
# holds an account would wait for the sealer, which waits for writers that wait for the account.
_announcement = insert(Transaction).from_select(["id"], select(literal_column("''")).where(false()))


def _lock_named(dialect: str, named: Any) -> Any:
    statement = (
        select(Account.id, (Account.credits_micros - Account.debits_micros).label("balance"))
        .where(named)
        .order_by(Account.id)
        .with_for_update(key_share=True)
    )
    if dialect == "sqlite":
        return statement
    return statement.add_cte(_announcement.cte("announcement"))


_lock_balances = Statement(
    {
        dialect: _lock_named(dialect, named)
        for dialect, named in is_one_of(Account.id, "account_ids").items()
    }
)


def lock_balances(session: Session, agent_ids: Collection[str]) -> dict[str, int]:
    """Lock the accounts of agents, in the order of their ids, and return their balances.

    An agent without an account has 0. Until the transaction ends nobody else changes them.
    """
    accounts = {agent_account(agent_id): agent_id for agent_id in agent_ids}
    rows = _lock_balances.all(session, {"account_ids": to_json(list(accounts))})
    found = {accounts[row.id]: row.balance for row in rows}
    return {agent_id: found.get(agent_id, 0) for agent_id in agent_ids}


def open_agent_account(
    session: Session, agent_id: str, opening_credit_micros: int, actor: str
) -> None:
    """Open a new agent's account, with the opening credit if there is one."""
    account = agent_account(agent_id)
    if opening_credit_micros == 0:
        open_account(session, account)
        return
    opening = Movement(
        "opening", f"opening:{agent_id}", [Leg(WORLD, account, opening_credit_micros)]
    )
    book(session, [opening], actor)


def top_up(
    session: Session, agent_id: str, amount_micros: int, actor: str, request_key: str
) -> str:
    """Bring money from outside into an agent's account and return the transaction's id."""
    legs = [Leg(WORLD, agent_account(agent_id), amount_micros)]
    movement = Movement("topup", f"topup:{actor}:{request_key}", legs)
    return book(session, [movement], actor)[0]


def pay_out(
    session: Session, agent_id: str, amount_micros: int, actor: str, request_key: str
) -> str:
    """Take money out of an agent's account and return the transaction's id.

    Raises ``InsufficientFunds``.
    """
    legs = [Leg(agent_account(agent_id), WORLD, amount_micros)]
    movement = Movement("payout", f"payout:{actor}:{request_key}", legs)
    return book(session, [movement], actor)[0]


def reverse(session: Session, transaction_id: str, actor: str, reason: str) -> str:
    """Book the opposite of a transaction and return the new one's id; each at most once.

    Raises ``TransactionNotFound``, ``NotReversible``, ``TransactionExists`` and
    ``InsufficientFunds``.
    """
    original = find_transaction(session, transaction_id)
    if original["delegation_id"] is not None:
        raise NotReversible(
            f"{transaction_id} belongs to delegation {original['delegation_id']}, whose escrow and"
            " charge it would contradict; move money with a top-up and a payout instead"
        )
    movement = Movement(
        kind="reversal",
        dedupe_key=f"reversal:{transaction_id}",
        legs=[
            Leg(leg["credit_account"], leg["debit_account"], leg["amount_micros"])
            for leg in original["postings"]
        ],
        reverses_id=transaction_id,
        meta={"reason": reason},
    )
    return book(session, [movement], actor)[0]
