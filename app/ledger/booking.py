"""Writing transactions: a constant number of statements, however many there are to write.

Whatever the database, the accounts concerned are locked first, in the order of their ids, so that
there is no deadlock; then a movement that happened already is refused; then one whose funds do not
suffice. Whoever catches a refusal has to roll back to before the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    String,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from app.db import Base
from app.ledger.errors import InsufficientFunds, TransactionExists
from app.ledger.models import Account, Posting, Transaction

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Booking:
    """The rows to write: new transactions in order, their postings, and the accounts concerned.

    ``accounts`` are sorted by id and hold what the postings together add to both sums, which is
    nothing for a system account. ``postings`` name their transaction by its id.
    """

    accounts: Rows
    transactions: Rows
    postings: Rows


def write(connection: Connection, booking: Booking) -> None:
    """Write a booking. Raises ``TransactionExists`` and ``InsufficientFunds``."""
    if connection.dialect.name == "sqlite":
        _write_sqlite(connection, booking)
    else:
        _write_postgresql(connection, booking)


_booked_ids = select(Transaction.id).where(
    Transaction.id.in_(bindparam("transaction_ids", expanding=True))
)


def _refuse_repetition(connection: Connection, booking: Booking) -> None:
    ids = [transaction["id"] for transaction in booking.transactions]
    booked = set(connection.execute(_booked_ids, {"transaction_ids": ids}).scalars())
    repeated = next(row for row in booking.transactions if row["id"] not in booked)
    raise TransactionExists(f"the movement {repeated['dedupe_key']!r} has happened already")


def _refuse_overdraft(account_id: str) -> None:
    raise InsufficientFunds(f"the balance of {account_id} does not cover the amount")


# PostgreSQL does all of it in one statement, so in one round trip. Its parts see the database as it
# was when the statement began, except that "held" waits for locks and then reads the newest rows.
# New sums are made from those: PostgreSQL would hold sums made from a row that a rival has changed
# meanwhile to the CHECK constraint before it looked at the newer row. An account that a rival is
# opening is not among those held; "opened" waits for the rival and adds to what it left. System
# accounts are not locked: every writer would wait for them.
_POSTGRESQL = """
WITH change AS MATERIALIZED (
    SELECT * FROM unnest(
        %(accounts_id)s::text[], %(accounts_kind)s::text[],
        %(accounts_debits_micros)s::bigint[], %(accounts_credits_micros)s::bigint[]
    ) AS change (id, kind, debits, credits)
), held AS MATERIALIZED (
    SELECT id, debits_micros AS debits, credits_micros AS credits
    FROM ledger_accounts
    WHERE id = ANY (%(guarded)s::text[])
    ORDER BY id
    FOR NO KEY UPDATE
), known AS MATERIALIZED (
    SELECT id FROM ledger_accounts WHERE id = ANY (%(system)s::text[])
), outcome AS MATERIALIZED (
    SELECT change.id, change.kind,
        coalesce(held.debits, 0) + change.debits AS debits,
        coalesce(held.credits, 0) + change.credits AS credits,
        held.id IS NULL AND known.id IS NULL AS missing
    FROM change LEFT JOIN held ON held.id = change.id LEFT JOIN known ON known.id = change.id
), short AS MATERIALIZED (
    SELECT id FROM outcome WHERE credits < debits
), booked AS (
    INSERT INTO ledger_transactions (
        id, kind, dedupe_key, delegation_id, actor, reverses_id, meta, effective_at, created_at
    )
    SELECT id, kind, dedupe_key, delegation_id, %(actor)s::text, reverses_id, meta,
        %(now)s::timestamptz, %(now)s::timestamptz
    FROM unnest(
        %(transactions_id)s::text[], %(transactions_kind)s::text[],
        %(transactions_dedupe_key)s::text[], %(transactions_delegation_id)s::text[],
        %(transactions_reverses_id)s::text[], %(transactions_meta)s::text[]
    ) WITH ORDINALITY
        AS movement (id, kind, dedupe_key, delegation_id, reverses_id, meta, position)
    WHERE (SELECT count(*) FROM held) >= 0
    ORDER BY position
    ON CONFLICT DO NOTHING
    RETURNING seq, id
), changed AS (
    UPDATE ledger_accounts AS account
    SET debits_micros = outcome.debits, credits_micros = outcome.credits
    FROM outcome
    WHERE account.id = outcome.id AND account.id = ANY (%(guarded)s::text[])
        AND NOT EXISTS (SELECT FROM short)
), opened AS (
    INSERT INTO ledger_accounts AS account (id, kind, debits_micros, credits_micros, created_at)
    SELECT id, kind, debits, credits, %(now)s::timestamptz FROM outcome
    WHERE missing AND NOT EXISTS (SELECT FROM short)
    ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET debits_micros = account.debits_micros + excluded.debits_micros,
        credits_micros = account.credits_micros + excluded.credits_micros
), posted AS (
    INSERT INTO ledger_postings (seq, leg, debit_account, credit_account, amount_micros)
    SELECT booked.seq, posting.leg, posting.debit_account, posting.credit_account, posting.amount
    FROM unnest(
        %(postings_transaction_id)s::text[], %(postings_leg)s::integer[],
        %(postings_debit_account)s::text[], %(postings_credit_account)s::text[],
        %(postings_amount_micros)s::bigint[]
    ) AS posting (transaction_id, leg, debit_account, credit_account, amount)
    JOIN booked ON booked.id = posting.transaction_id
    WHERE NOT EXISTS (SELECT FROM short)
)
SELECT (SELECT count(*) FROM booked) AS booked, (SELECT min(id) FROM short) AS short
"""
_ARRAYS = (
    ("accounts", ("id", "kind", "debits_micros", "credits_micros")),
    (
        "transactions",
        ("id", "kind", "dedupe_key", "delegation_id", "reverses_id", "meta"),
    ),
    ("postings", ("transaction_id", "leg", "debit_account", "credit_account", "amount_micros")),
)


def _write_postgresql(connection: Connection, booking: Booking) -> None:
    parameters = {
        f"{table}_{column}": [row[column] for row in getattr(booking, table)]
        for table, columns in _ARRAYS
        for column in columns
    }
    parameters |= {
        "guarded": [row["id"] for row in booking.accounts if row["kind"] != "system"],
        "system": [row["id"] for row in booking.accounts if row["kind"] == "system"],
        "actor": booking.transactions[0]["actor"],
        "now": booking.transactions[0]["created_at"],
    }
    done = connection.exec_driver_sql(_POSTGRESQL, parameters).one()
    if done.booked < len(booking.transactions):
        _refuse_repetition(connection, booking)
    if done.short is not None:
        _refuse_overdraft(done.short)


# A SQLite transaction has the whole database to itself from its first statement on, so that nothing
# changes between its statements.
_accounts, _transactions, _postings = (
    Base.metadata.tables[entity.__tablename__] for entity in (Account, Transaction, Posting)
)
_insert_transactions = sqlite_insert(_transactions).on_conflict_do_nothing()
_insert_accounts = insert(_accounts)
_change_accounts = (
    update(_accounts)
    .where(Account.id == bindparam("account_id"))
    .values(
        debits_micros=Account.debits_micros + bindparam("debits"),
        credits_micros=Account.credits_micros + bindparam("credits"),
    )
)
_insert_postings = insert(_postings).from_select(
    ["seq", "leg", "debit_account", "credit_account", "amount_micros"],
    select(
        Transaction.seq,
        bindparam("leg", type_=Integer),
        bindparam("debit_account", type_=String),
        bindparam("credit_account", type_=String),
        bindparam("amount_micros", type_=BigInteger),
    ).where(Transaction.id == bindparam("transaction_id")),
)
_read_sums = select(Account.id, Account.debits_micros, Account.credits_micros).where(
    Account.id.in_(bindparam("account_ids", expanding=True))
)


def _write_sqlite(connection: Connection, booking: Booking) -> None:
    inserted = connection.execute(_insert_transactions, booking.transactions).rowcount
    if inserted < len(booking.transactions):
        _refuse_repetition(connection, booking)
    ids = [row["id"] for row in booking.accounts]
    rows = connection.execute(_read_sums, {"account_ids": ids})
    sums = {name: (debits, credits_) for name, debits, credits_ in rows}
    opened, changes = [], []
    for row in booking.accounts:
        debits, credits_ = sums.get(row["id"], (0, 0))
        if credits_ + row["credits_micros"] < debits + row["debits_micros"]:
            _refuse_overdraft(row["id"])
        if row["id"] not in sums:
            opened.append(row)
        elif row["kind"] != "system":
            changes.append(
                {
                    "account_id": row["id"],
                    "debits": row["debits_micros"],
                    "credits": row["credits_micros"],
                }
            )
    if opened:
        connection.execute(_insert_accounts, opened)
    if changes:
        connection.execute(_change_accounts, changes)
    connection.execute(_insert_postings, booking.postings)
