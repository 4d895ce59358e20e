"""Writing transactions: a constant number of statements, however many there are to write.

Whatever the database, the accounts concerned are locked first, in the order of their ids, so that
there is no deadlock; then a movement that happened already is refused; then one whose funds do not
suffice. Whoever catches a refusal has to roll back to before the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Integer, String, column, func, select, text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from app.db import MAX_INTEGER, Base
from app.ledger.errors import AccountFull, InsufficientFunds, TransactionExists
from app.ledger.models import Account, Posting, Transaction
from app.statements import RowInsert, Statement, is_one_of, recordset, to_json

# SQLSTATE numeric_value_out_of_range.
OUT_OF_RANGE = "22003"
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


def write(session: Session, booking: Booking) -> None:
    """Write a booking. Raises ``TransactionExists``, ``InsufficientFunds`` and ``AccountFull``."""
    if session.connection().dialect.name == "sqlite":
        _write_sqlite(session, booking)
    else:
        _write_postgresql(session, booking)


_find_booked = Statement(
    {
        dialect: select(Transaction.id).where(named)
        for dialect, named in is_one_of(Transaction.id, "ids").items()
    }
)


def _refuse_repetition(session: Session, booking: Booking) -> None:
    ids = [transaction["id"] for transaction in booking.transactions]
    booked = {row.id for row in _find_booked.all(session, {"ids": to_json(ids)})}
    repeated = next(row for row in booking.transactions if row["id"] not in booked)
    raise TransactionExists(f"the movement {repeated['dedupe_key']!r} has happened already")


def _refuse_overdraft(account_id: str) -> None:
    raise InsufficientFunds(f"the balance of {account_id} does not cover the amount")


def _refuse_excess(account_id: str) -> NoReturn:
    raise AccountFull(f"the sums of {account_id} cannot hold the amount")


_accounts, _transactions, _postings = (
    Base.metadata.tables[entity.__tablename__] for entity in (Account, Transaction, Posting)
)
_ACCOUNT = [_accounts.c[name] for name in ("id", "kind", "debits_micros", "credits_micros")]
_TRANSACTION = [column for column in _transactions.c if column.name != "seq"]
_TRANSACTION_NAMES = ", ".join(column.name for column in _TRANSACTION)
_POSTING = [column("transaction_id", String)] + [
    _postings.c[name] for name in ("leg", "debit_account", "credit_account", "amount_micros")
]

# PostgreSQL does all of it in one statement, so in one round trip. Its parts see the database as it
# was when the statement began, except that "held" waits for locks and then reads the newest rows.
# New sums are made from those: PostgreSQL would hold sums made from a row that a rival has changed
# meanwhile to the CHECK constraint before it looked at the newer row. An account that a rival is
# opening is not among those held; "opened" waits for the rival and adds to what it left. System
# accounts are not locked: every writer would wait for them.
_POSTGRESQL = f"""
WITH change AS MATERIALIZED (
    SELECT id, kind, debits_micros AS debits, credits_micros AS credits
    FROM {recordset("accounts", _ACCOUNT)}
), held AS MATERIALIZED (
    SELECT id, debits_micros AS debits, credits_micros AS credits
    FROM ledger_accounts
    WHERE id = ANY (ARRAY (SELECT id FROM change WHERE kind <> 'system'))
    ORDER BY id
    FOR NO KEY UPDATE
), known AS MATERIALIZED (
    SELECT id FROM ledger_accounts
    WHERE id = ANY (ARRAY (SELECT id FROM change WHERE kind = 'system'))
), outcome AS MATERIALIZED (
    SELECT change.id, change.kind,
        coalesce(held.debits, 0) + change.debits AS debits,
        coalesce(held.credits, 0) + change.credits AS credits,
        held.id IS NULL AND known.id IS NULL AS missing
    FROM change LEFT JOIN held ON held.id = change.id LEFT JOIN known ON known.id = change.id
), short AS MATERIALIZED (
    SELECT id FROM outcome WHERE credits < debits
), booked AS (
    INSERT INTO ledger_transactions ({_TRANSACTION_NAMES})
    SELECT {_TRANSACTION_NAMES}
    FROM {recordset("transactions", _TRANSACTION)}
    WHERE (SELECT count(*) FROM held) >= 0
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING seq, id
), changed AS (
    UPDATE ledger_accounts AS account
    SET debits_micros = outcome.debits, credits_micros = outcome.credits
    FROM outcome
    WHERE account.id = outcome.id
        AND account.id = ANY (ARRAY (SELECT id FROM change WHERE kind <> 'system'))
        AND NOT EXISTS (SELECT FROM short)
), opened AS (
    INSERT INTO ledger_accounts AS account (id, kind, debits_micros, credits_micros, created_at)
    SELECT id, kind, debits, credits, CAST(:now AS timestamptz) FROM outcome
    WHERE missing AND NOT EXISTS (SELECT FROM short)
    ORDER BY id COLLATE "C"
    ON CONFLICT (id) DO UPDATE
    SET debits_micros = account.debits_micros + excluded.debits_micros,
        credits_micros = account.credits_micros + excluded.credits_micros
), posted AS (
    INSERT INTO ledger_postings (seq, leg, debit_account, credit_account, amount_micros)
    SELECT booked.seq, posting.leg, posting.debit_account, posting.credit_account,
        posting.amount_micros
    FROM {recordset("posting", _POSTING)}
    JOIN booked ON booked.id = posting.transaction_id
    WHERE NOT EXISTS (SELECT FROM short)
)
SELECT (SELECT count(*) FROM booked) AS booked, (SELECT min(id) FROM short) AS short
"""  # noqa: S608
_write = Statement(text(_POSTGRESQL).columns(booked=Integer, short=String))


def _write_postgresql(session: Session, booking: Booking) -> None:
    try:
        done = _write.first(
            session,
            {
                "accounts": to_json(booking.accounts),
                "transactions": to_json(booking.transactions),
                "posting": to_json(booking.postings),
                "now": booking.transactions[0]["created_at"],
            },
        )
    except DataError as error:
        if getattr(error.orig, "sqlstate", None) != OUT_OF_RANGE:
            raise
        _refuse_excess(" or ".join(row["id"] for row in booking.accounts if row["credits_micros"]))
    if done.booked < len(booking.transactions):
        _refuse_repetition(session, booking)
    if done.short is not None:
        _refuse_overdraft(done.short)


# A SQLite transaction has the whole database to itself from its first statement on, so that nothing
# changes between its statements.
_insert_transactions = RowInsert(_transactions, unless_present=True)
_insert_accounts = RowInsert(_accounts)
_insert_postings = RowInsert(_postings)
_change_accounts = Statement(
    text(
        """
        UPDATE ledger_accounts
        SET debits_micros = ledger_accounts.debits_micros + change.debits,
            credits_micros = ledger_accounts.credits_micros + change.credits
        FROM (
            SELECT json_extract(value, '$.id') AS id,
                json_extract(value, '$.debits_micros') AS debits,
                json_extract(value, '$.credits_micros') AS credits
            FROM json_each(:accounts)
        ) AS change
        WHERE ledger_accounts.id = change.id
        """
    )
)
_read_sums = Statement(
    {
        dialect: select(Account.id, Account.debits_micros, Account.credits_micros).where(named)
        for dialect, named in is_one_of(Account.id, "ids").items()
    }
)
_last_seq = Statement(select(func.max(Transaction.seq).label("seq")))


def _write_sqlite(session: Session, booking: Booking) -> None:
    count = len(booking.transactions)
    if _insert_transactions.run(session, booking.transactions) < count:
        _refuse_repetition(session, booking)
    ids = [row["id"] for row in booking.accounts]
    sums = {row.id: row for row in _read_sums.all(session, {"ids": to_json(ids)})}
    opened, changed = [], []
    for row in booking.accounts:
        found = sums.get(row["id"])
        debits, credits_ = row["debits_micros"], row["credits_micros"]
        if found is not None:
            debits, credits_ = debits + found.debits_micros, credits_ + found.credits_micros
        if credits_ > MAX_INTEGER:
            _refuse_excess(row["id"])
        if credits_ < debits:
            _refuse_overdraft(row["id"])
        if found is None:
            opened.append(row)
        elif row["kind"] != "system":
            changed.append({name: row[name] for name in ("id", "debits_micros", "credits_micros")})
    if opened:
        _insert_accounts.run(session, opened)
    if changed:
        _change_accounts.run(session, {"accounts": to_json(changed)})
    # All are new and nobody else writes, so they are the last of the table, one after the other.
    first = _last_seq.first(session, {}).seq - count + 1
    places = {row["id"]: first + place for place, row in enumerate(booking.transactions)}
    _insert_postings.run(
        session, [{**row, "seq": places[row["transaction_id"]]} for row in booking.postings]
    )
