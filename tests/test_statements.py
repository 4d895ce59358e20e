"""Statements that go to the driver directly mean the same as in the ordinary way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import bindparam, event, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError

from app import ids
from app.access.models import Owner
from app.config import Settings
from app.db import Base, Database
from app.idempotency.models import IdempotencyKey
from app.ledger.models import MeteringEvent
from app.statements import RowInsert, Statement, is_one_of, to_json

OWNERS: Any = Owner.__table__
KEYS: Any = IdempotencyKey.__table__
EVENTS: Any = Base.metadata.tables[MeteringEvent.__tablename__]
NOON = datetime(2026, 5, 4, 12, 30, 15, 123456, tzinfo=UTC)
find_owner = Statement(select(Owner).where(Owner.name == bindparam("name")))
insert_owners = RowInsert(OWNERS)


@pytest.fixture(params=["direct", "watched"])
def database(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database whose statements go either way."""
    database = Database(settings)
    if request.param == "watched":
        for engine in (database.writer, database.reader):
            event.listen(engine, "before_cursor_execute", lambda *_: None)
    yield database
    database.dispose()


def owner(name: str, created_at: datetime = NOON) -> dict[str, Any]:
    """Return a row of owners."""
    return {"id": ids.new_id(), "name": name, "created_at": created_at}


def test_values_come_back_as_they_went(database: Database) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-7)))
    row = {
        "principal": "owner",
        "key": 'a "key" with {braces}, \\ and ü 発',
        "request_hash": "0" * 64,
        "method": "POST",
        "route": "/v1",
        "status_code": 200,
        "response_body": None,
        "response_headers": None,
        "resource": None,
        "created_at": NOON,
        "body_expires_at": elsewhere,
    }
    store = Statement(
        KEYS.update()
        .where(KEYS.c.key == bindparam("of"))
        .values(response_body=bindparam("body", type_=KEYS.c.response_body.type))
    )
    find = Statement(select(KEYS).where(KEYS.c.key == bindparam("of")))
    with database.transaction() as session:
        assert RowInsert(KEYS).run(session, [row]) == 1
        assert store.run(session, {"of": row["key"], "body": b"\0\xff'"}) == 1
        assert store.run(session, {"of": "another", "body": b""}) == 0
        inside = find.first(session, {"of": row["key"]})
    with database.read() as connection:
        outside = find.first(connection, {"of": row["key"]})
    assert inside._asdict() == outside._asdict()
    assert outside._asdict() == row | {"response_body": b"\0\xff'", "body_expires_at": NOON}


def test_rows_are_numbered_in_the_order_given(database: Database) -> None:
    insert = RowInsert(EVENTS, unless_present=True)
    rows = [
        {f"{column.name}": "" for column in EVENTS.c if column.name != "seq"}
        | {"source": "s", "event_id": str(number), "delegation_id": None, "payer_owner_id": None}
        | {"cost_micros": 2**62 + number, "occurred_at": NOON, "recorded_at": NOON}
        for number in (3, 1, 2)
    ]
    with database.transaction() as session:
        assert insert.run(session, rows) == 3
        assert insert.run(session, rows[:2]) == 0
        found = session.execute(
            select(EVENTS.c.event_id, EVENTS.c.cost_micros).order_by(EVENTS.c.seq)
        )
        assert [tuple(row) for row in found] == [
            (row["event_id"], row["cost_micros"]) for row in rows
        ]


def test_a_condition_takes_any_number_of_names(database: Database) -> None:
    find = Statement(
        {
            dialect: select(Owner.name).where(named).order_by(Owner.name)
            for dialect, named in is_one_of(Owner.name, "names").items()
        }
    )
    with database.transaction() as session:
        insert_owners.run(session, [owner(name) for name in ('x"y', "b", "a")])
        for names in ([], ["a"], ["b", "nobody", 'x"y', "a"]):
            found = [row.name for row in find.all(session, {"names": to_json(names)})]
            assert found == sorted(name for name in names if name != "nobody")


def test_a_value_of_the_statement_itself_needs_not_be_given(database: Database) -> None:
    find = Statement(
        select(Owner.name).where(Owner.name == bindparam("name"), Owner.created_at == NOON)
    )
    with database.transaction() as session:
        insert_owners.run(session, [owner("a"), owner("b", NOON + timedelta(seconds=1))])
        assert [len(find.all(session, {"name": name})) for name in ("a", "b")] == [1, 0]


def test_a_refused_row_is_an_integrity_error_that_names_the_constraint(database: Database) -> None:
    with pytest.raises(IntegrityError, match="name"), database.transaction() as session:
        insert_owners.run(session, [owner("a"), owner("a")])
    with database.transaction() as session:
        assert find_owner.all(session, {"name": "a"}) == []


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_text_that_is_too_long_is_refused(database: Database) -> None:
    with pytest.raises(DataError), database.transaction() as session:
        insert_owners.run(session, [owner("a" * 65)])


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_commit_that_rolled_back_is_an_error(database: Database) -> None:
    def commit_after_a_failure() -> None:
        with database.transaction() as session:
            insert_owners.run(session, [owner("a")])
            with pytest.raises(DBAPIError):
                Statement(text("SELECT 1 / 0")).run(session, {})

    with pytest.raises(InternalError):
        commit_after_a_failure()
    with database.read() as connection:
        assert find_owner.first(connection, {"name": "a"}) is None


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_prepared_statements_outlive_a_rollback(database: Database) -> None:
    for name in ("a", "a", "b"):
        try:
            with database.transaction() as session:
                session.execute(text("SELECT 1"))
                insert_owners.run(session, [owner(name)])
        except IntegrityError:
            continue
    with database.read() as connection:
        assert find_owner.first(connection, {"name": "b"}) is not None


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_lost_connection_takes_the_others_of_its_pool_along(database: Database) -> None:
    with database.transaction() as session, database.transaction() as other:
        session.execute(text("SELECT 1"))
        other.execute(text("SELECT 1"))
    with database.read() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    with pytest.raises(DBAPIError) as caught, database.transaction() as session:
        insert_owners.run(session, [owner("a")])
    assert caught.value.connection_invalidated
    with database.transaction() as session, database.transaction() as other:
        insert_owners.run(session, [owner("a")])
        insert_owners.run(other, [owner("b")])
