"""Moving money: open accounts, post transactions, reverse them.

Every function runs in the caller's transaction and never commits. Amounts are micro-USD.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import clock, ids
from app.db import insert_if_absent
from app.ledger.errors import InsufficientFunds, TransactionExists, TransactionNotFound
from app.ledger.models import Account, Posting, Transaction

AGENT, ESCROW, SYSTEM = "agent", "escrow", "system"
WORLD = "sys:world"
FEES = "sys:fees"


@dataclass(frozen=True)
class Leg:
    """One amount that leaves the account ``debit`` and enters the account ``credit``."""

    debit: str
    credit: str
    amount_micros: int


def agent_account(agent_id: str) -> str:
    """Return the id of an agent's account."""
    return f"agent:{agent_id}"


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


def post(
    session: Session,
    *,
    kind: str,
    dedupe_key: str,
    legs: Sequence[Leg],
    actor: str,
    delegation_id: str | None = None,
    reverses_id: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> str:
    """Post one transaction and return its id.

    ``dedupe_key`` names the movement for ever: posting it again raises ``TransactionExists``.
    Raises ``InsufficientFunds`` when an agent's or escrow's account would be overdrawn; the guard
    is one conditional UPDATE for each account, so no isolation level is trusted. Every transaction
    locks accounts in the order of their ids.
    """
    now = clock.now()
    transaction_id = ids.new_id()
    seq = insert_if_absent(
        session,
        Transaction,
        returning=Transaction.seq,
        id=transaction_id,
        kind=kind,
        dedupe_key=dedupe_key,
        delegation_id=delegation_id,
        actor=actor,
        reverses_id=reverses_id,
        meta=orjson.dumps(dict(meta or {}), option=orjson.OPT_SORT_KEYS).decode(),
        effective_at=now,
        created_at=now,
    )
    if seq is None:
        raise TransactionExists(f"the movement {dedupe_key!r} has happened already")
    for account_id in sorted({name for leg in legs for name in (leg.debit, leg.credit)}):
        open_account(session, account_id)
    _change_balances(session, legs)
    session.add_all(
        Posting(
            seq=seq,
            leg=number,
            debit_account=leg.debit,
            credit_account=leg.credit,
            amount_micros=leg.amount_micros,
        )
        for number, leg in enumerate(legs, start=1)
    )
    session.flush()
    return transaction_id


def _change_balances(session: Session, legs: Sequence[Leg]) -> None:
    debits: defaultdict[str, int] = defaultdict(int)
    credits_: defaultdict[str, int] = defaultdict(int)
    for leg in legs:
        debits[leg.debit] += leg.amount_micros
        credits_[leg.credit] += leg.amount_micros
    for account_id in sorted(debits.keys() | credits_.keys()):
        if account_kind(account_id) == SYSTEM:
            continue
        changed = session.scalar(
            update(Account)
            .where(
                Account.id == account_id,
                Account.credits_micros + credits_[account_id]
                >= Account.debits_micros + debits[account_id],
            )
            .values(
                debits_micros=Account.debits_micros + debits[account_id],
                credits_micros=Account.credits_micros + credits_[account_id],
            )
            .returning(Account.id)
            .execution_options(synchronize_session=False)
        )
        if changed is None:
            raise InsufficientFunds(f"the balance of {account_id} does not cover the amount")


def open_agent_account(
    session: Session, agent_id: str, opening_credit_micros: int, actor: str
) -> None:
    """Open a new agent's account, with the opening credit if there is one."""
    account = agent_account(agent_id)
    if opening_credit_micros == 0:
        open_account(session, account)
        return
    post(
        session,
        kind="opening",
        dedupe_key=f"opening:{agent_id}",
        legs=[Leg(WORLD, account, opening_credit_micros)],
        actor=actor,
    )


def top_up(
    session: Session, agent_id: str, amount_micros: int, actor: str, request_key: str
) -> str:
    """Bring money from outside into an agent's account and return the transaction's id."""
    return post(
        session,
        kind="topup",
        dedupe_key=f"topup:{actor}:{request_key}",
        legs=[Leg(WORLD, agent_account(agent_id), amount_micros)],
        actor=actor,
    )


def pay_out(
    session: Session, agent_id: str, amount_micros: int, actor: str, request_key: str
) -> str:
    """Take money out of an agent's account and return the transaction's id.

    Raises ``InsufficientFunds``.
    """
    return post(
        session,
        kind="payout",
        dedupe_key=f"payout:{actor}:{request_key}",
        legs=[Leg(agent_account(agent_id), WORLD, amount_micros)],
        actor=actor,
    )


def reverse(session: Session, transaction_id: str, actor: str, reason: str) -> str:
    """Post the opposite of a transaction and return the new one's id; each at most once.

    Raises ``TransactionNotFound``, ``TransactionExists`` and ``InsufficientFunds``.
    """
    original = session.scalar(select(Transaction).where(Transaction.id == transaction_id))
    if original is None:
        raise TransactionNotFound(f"no transaction has the id {transaction_id!r}")
    legs = session.scalars(select(Posting).where(Posting.seq == original.seq).order_by(Posting.leg))
    return post(
        session,
        kind="reversal",
        dedupe_key=f"reversal:{transaction_id}",
        legs=[Leg(leg.credit_account, leg.debit_account, leg.amount_micros) for leg in legs],
        actor=actor,
        delegation_id=original.delegation_id,
        reverses_id=transaction_id,
        meta={"reason": reason},
    )
