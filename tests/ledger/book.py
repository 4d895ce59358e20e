"""A ledger in the hands of a test: through its service, and past it as a database's owner could."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import func, select, text

from app.config import Settings
from app.db import Database
from app.ledger import queries, seals, service
from app.ledger.models import Transaction
from app.ledger.reconciliation import reconcile
from app.ledger.seals import Fault
from tests.migrations.project import connect, contents

ACTOR = "00000000-0000-7000-8000-000000000001"
# What a database's owner has to remove first to make the edits of the tests.
CHECKS = (
    ("ledger_accounts", "overdraft"),
    ("ledger_accounts", "system_derived"),
    ("delegation_delegations", "live_or_closed"),
    ("delegation_delegations", "held"),
    ("delegation_delegations", "charged"),
    ("delegation_delegations", "settlement"),
    ("delegation_delegations", "settled_by"),
    ("delegation_delegations", "released"),
)


def account(agent: str) -> str:
    """Return the account of an agent of ``@acme``."""
    return f"agent:@acme:{agent}"


class Book:
    """What tests do with a ledger; each call is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.settings: Settings = database.settings

    def top_up(self, agent: str, micros: int, key: str | None = None) -> str:
        """Bring money into an agent's account."""
        with self.database.transaction() as session:
            return service.top_up(session, f"@acme:{agent}", micros, ACTOR, key or uuid.uuid4().hex)

    def pay_out(self, agent: str, micros: int, key: str | None = None) -> str:
        """Take money out of an agent's account."""
        with self.database.transaction() as session:
            return service.pay_out(
                session, f"@acme:{agent}", micros, ACTOR, key or uuid.uuid4().hex
            )

    def post(self, *legs: tuple[str, str, int], key: str | None = None) -> str:
        """Move money between accounts of any kind."""
        with self.database.transaction() as session:
            movement = service.Movement(
                "test", key or uuid.uuid4().hex, [service.Leg(*leg) for leg in legs]
            )
            return service.book(session, [movement], ACTOR)[0]

    def reverse(self, transaction_id: str) -> str:
        """Post the opposite of a transaction."""
        with self.database.transaction() as session:
            return service.reverse(session, transaction_id, ACTOR, "a mistake")

    def balance(self, account_id: str) -> int:
        """Return an account's balance."""
        with self.database.read() as connection:
            row = queries.find_account(connection, account_id)
        return int(row.credits_micros - row.debits_micros)

    def transaction(self, transaction_id: str) -> dict[str, Any]:
        """Return a transaction with its postings."""
        with self.database.read() as connection:
            return queries.find_transaction(connection, transaction_id)

    def transactions(self) -> int:
        """Return how many transactions there are."""
        with self.database.read() as connection:
            return int(connection.execute(select(func.count(Transaction.seq))).scalar_one())

    def seal(self) -> int:
        """Seal what is not sealed yet and return how many blocks that made."""
        with self.database.transaction() as session:
            return seals.seal_pending(session)

    def digest(self) -> dict[str, Any]:
        """Return the newest block's digest."""
        with self.database.read() as connection:
            return seals.read_digest(connection)

    def faults(self, kept: dict[str, Any] | None = None) -> list[Fault]:
        """Return what verification finds."""
        with self.database.snapshot() as connection:
            return list(seals.verify(connection, kept))

    def broken_rules(self) -> dict[str, list[str]]:
        """Return what reconciliation finds, by the number of the rule."""
        with self.database.snapshot() as connection:
            rules = reconcile(connection)
        return {rule.number: rule.findings for rule in rules if rule.findings}

    def contents(self) -> dict[str, list[str]]:
        """Return every row of the ledger."""
        rows = contents(self.settings)
        return {table: lines for table, lines in rows.items() if table.startswith("ledger_")}

    def tamper(self, *statements: str, **parameters: Any) -> None:
        """Run SQL as a database's owner can: past triggers, foreign keys and checks.

        Each statement must change exactly one row, so that no test passes because it did nothing.
        """
        with connect(self.settings) as connection:
            if self.settings.is_sqlite:
                names = connection.exec_driver_sql(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                )
                for name in names.scalars().all():
                    connection.exec_driver_sql(f"DROP TRIGGER {name}")
                connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            else:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                for table, name in CHECKS:
                    connection.exec_driver_sql(
                        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS ck_{table}_{name}"
                    )
            for statement in statements:
                assert connection.execute(text(statement), parameters).rowcount == 1, statement
