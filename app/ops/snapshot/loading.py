"""Loading rows in bulk: COPY on PostgreSQL, batches of inserts on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from app.ops.snapshot.archive import Snapshot
from app.ops.snapshot.create import decode_row
from app.ops.snapshot.errors import SnapshotRefused
from app.ops.snapshot.manifest import Content
from app.ops.snapshot.progress import Watch
from app.ops.snapshot.tables import BATCH, Table
from app.ops.snapshot.values import INTEGER, decoder


def load_rows(connection: Connection, snapshot: Snapshot, content: Content, watch: Watch) -> None:
    """Insert the rows of one table.

    Raises ``SnapshotCorrupt`` for rows that are not those of the manifest, ``SnapshotRefused`` for
    one that the database does not take.
    """
    dialect = connection.dialect
    decode = decoder(content.table.columns, dialect.name)
    rows = (
        decode_row(decode, content, number, line)
        for number, line in enumerate(snapshot.read_lines(content), start=1)
    )
    load = _copy if dialect.name == "postgresql" else _insert
    try:
        load(connection, content.table, rows, watch)
    except (dialect.loaded_dbapi.DatabaseError, OverflowError) as error:
        if dialect.name == "sqlite" and getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            raise SnapshotRefused("the disk is full") from None
        reason = str(error).strip().splitlines()[0]
        raise SnapshotRefused(
            f"{content.table.name}: the database refused a row: {reason}"
        ) from None


def _columns(table: Table) -> str:
    return ", ".join(f'"{name}"' for name, _ in table.columns)


def _copy(connection: Connection, table: Table, rows: Iterator[list[Any]], watch: Watch) -> None:
    driver: Any = connection.connection.dbapi_connection
    statement = f'COPY "{table.name}" ({_columns(table)}) FROM STDIN'
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        while batch := list(islice(rows, BATCH)):
            for row in batch:
                copy.write_row(row)
            watch.advance(len(batch))


def _insert(connection: Connection, table: Table, rows: Iterator[list[Any]], watch: Watch) -> None:
    driver: Any = connection.connection.dbapi_connection
    marks = ", ".join("?" for _ in table.columns)
    statement = f'INSERT INTO "{table.name}" ({_columns(table)}) VALUES ({marks})'  # noqa: S608
    while batch := list(islice(rows, BATCH)):
        driver.executemany(statement, batch)
        watch.advance(len(batch))


def reset_numbering(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number new rows after those that were loaded.

    SQLite does so by itself. RESTART is undone with the transaction; ``setval`` would not be.
    """
    kinds = dict(table.columns)
    if connection.dialect.name != "postgresql":
        return
    for name in table.key:
        sequence = (
            connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, name)))
            if kinds[name] == INTEGER
            else None
        )
        highest = (
            connection.scalar(
                sa.select(sa.func.max(sa.column(name))).select_from(sa.table(table.name))
            )
            if sequence
            else None
        )
        if highest is not None:
            connection.execute(sa.text(f"ALTER SEQUENCE {sequence} RESTART WITH {highest + 1}"))
