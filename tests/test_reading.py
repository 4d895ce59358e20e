"""``Database.read``: a connection is kept for the next read, and only as long as it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from sqlalchemy import text

from app.config import Settings
from app.db import Database

THREADS = 2


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A database for two threads."""
    database = Database(replace(settings, threads=THREADS))
    yield database
    database.dispose()


def test_the_next_read_has_the_same_connection(database: Database) -> None:
    with database.read() as first:
        pass
    with database.read() as second, database.read() as nested:
        assert second is first
        assert nested is not first


def test_a_transaction_is_not_kept(database: Database) -> None:
    with database.read() as connection:
        connection.execute(text("SELECT 1"))
    assert connection.closed


def test_after_an_error_every_connection_is_a_new_one(database: Database) -> None:
    with database.read() as failing, database.read() as bystander:
        pass
    with pytest.raises(LookupError), database.read():
        raise LookupError
    assert failing.closed
    assert bystander.closed
    with database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_no_more_are_kept_than_there_are_threads(database: Database) -> None:
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(database.read())
        assert database.reader.pool.checkedout() == 2 * THREADS  # type: ignore[attr-defined]
    assert database.reader.pool.checkedout() == THREADS  # type: ignore[attr-defined]


def test_disposing_closes_the_kept_ones(database: Database) -> None:
    with database.read() as connection:
        pass
    database.dispose()
    assert connection.closed
