"""What the database knows of the time: it tells a clock, and ids, that were set back or ahead."""

from __future__ import annotations

from sqlalchemy import Connection, String, column, func, select, table, text

from app import ids
from app.db import Database
from app.ledger.queries import newest_time

# What lists show in the order of ids.
LISTED_BY_ID = (
    "access_admin_actions",
    "delegation_delegations",
    "notification_deliveries",
    "registry_evaluations",
)


def watch_clock(database: Database, connection: Connection) -> None:
    """Hold the clock of this process to the time that was stored last, and to the server's."""
    server = None
    if connection.dialect.name == "postgresql":
        server = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    database.clock_watch.learn(newest_time(connection), server)


def continue_ids(connection: Connection) -> None:
    """Have this process make ids above all that lists go by."""
    for name in LISTED_BY_ID:
        newest = select(func.max(column("id", String))).select_from(table(name))
        ids.go_on_after(connection.execute(newest).scalar_one())
