"""``Database.snapshot``: several statements, one instant, no locks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from app.config import Settings
from app.db import Database

COUNT = "SELECT count(*) FROM access_owners"


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A database whose pools hold one connection, so that one block's leftovers meet the next."""
    database = Database(replace(settings, threads=1, lock_timeout_ms=200))
    yield database
    database.dispose()


def add_owner(database: Database, name: str) -> None:
    """Commit one more row."""
    with database.transaction() as session:
        session.execute(
            text("INSERT INTO access_owners VALUES (:name, :name, '2026-01-01 00:00:00')"),
            {"name": name},
        )


def test_all_statements_see_one_instant_while_others_commit(database: Database) -> None:
    add_owner(database, "before")
    with database.snapshot() as connection:
        assert connection.execute(text(COUNT)).scalar() == 1
        # A writer neither waits for the snapshot nor is seen by it.
        add_owner(database, "meanwhile")
        assert connection.execute(text(COUNT)).scalar() == 1
        with database.read() as other:
            assert other.execute(text(COUNT)).scalar() == 2
    with database.snapshot() as connection:
        assert connection.execute(text(COUNT)).scalar() == 2


def test_a_snapshot_cannot_write(database: Database) -> None:
    for statement in (
        "INSERT INTO access_owners VALUES ('a', 'a', '2026-01-01 00:00:00')",
        "DELETE FROM access_owners",
    ):
        with (
            pytest.raises(DatabaseError, match=r"read-?only"),
            database.snapshot() as connection,
        ):
            connection.execute(text(statement))
    with database.read() as connection:
        assert connection.execute(text(COUNT)).scalar() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_connection_forgets_the_snapshot(database: Database, fails: bool) -> None:
    try:
        with database.snapshot() as connection:
            connection.execute(text(COUNT))
            if fails:
                raise LookupError
    except LookupError:
        pass
    # The pool gives the same connection again: each statement must see the latest commit.
    with database.read() as connection:
        assert connection.execute(text(COUNT)).scalar() == 0
        add_owner(database, "after")
        assert connection.execute(text(COUNT)).scalar() == 1


def test_a_snapshot_waits_for_no_writer(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("INSERT INTO access_owners VALUES ('a', 'a', '2026-01-01 00:00:00')"))
        with database.snapshot() as connection:
            assert connection.execute(text(COUNT)).scalar() == 0
