"""Loading rows in bulk: COPY on PostgreSQL, batches of inserts on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
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

# Rows are handed over in batches of about this size; a single one may be larger.
BATCH_BYTES = 16 * 1024 * 1024


def load_rows(connection: Connection, snapshot: Snapshot, content: Content, watch: Watch) -> int:
    """Insert the rows of one table; return how many of them, read together, take little memory.

    Raises ``SnapshotCorrupt`` for rows that are not those of the manifest, ``SnapshotRefused`` for
    one that the database does not take.
    """
    dialect = connection.dialect
    batches = Batches(snapshot, content, dialect.name)
    load = _copy if dialect.name == "postgresql" else _insert
    try:
        load(connection, content.table, batches, watch)
    except (dialect.loaded_dbapi.DatabaseError, OverflowError) as error:
        if dialect.name == "sqlite" and getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            raise SnapshotRefused("the disk is full") from None
        reason = str(error).strip().splitlines()[0]
        raise SnapshotRefused(
            f"{content.table.name}: the database refused a row: {reason}"
        ) from None
    return max(1, min(BATCH, BATCH_BYTES // batches.longest))


class Batches:
    """Rows as a database stores them, some at a time: many short ones, or a few that are long."""

    def __init__(self, snapshot: Snapshot, content: Content, dialect: str) -> None:
        self._snapshot = snapshot
        self._content = content
        self._dialect = dialect
        self.longest = 1

    def __iter__(self) -> Iterator[list[list[Any]]]:
        decode = decoder(self._content.table.columns, self._dialect)
        batch: list[list[Any]] = []
        size = 0
        for number, line in enumerate(self._snapshot.read_lines(self._content), start=1):
            self.longest = max(self.longest, len(line))
            batch.append(decode_row(decode, self._content, number, line))
            size += len(line)
            if len(batch) == BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _columns(table: Table) -> str:
    return ", ".join(f'"{name}"' for name, _ in table.columns)


def _copy(connection: Connection, table: Table, batches: Batches, watch: Watch) -> None:
    driver: Any = connection.connection.dbapi_connection
    statement = f'COPY "{table.name}" ({_columns(table)}) FROM STDIN'
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in batches:
            for row in batch:
                copy.write_row(row)
            watch.advance(len(batch))


def _insert(connection: Connection, table: Table, batches: Batches, watch: Watch) -> None:
    driver: Any = connection.connection.dbapi_connection
    marks = ", ".join("?" for _ in table.columns)
    statement = f'INSERT INTO "{table.name}" ({_columns(table)}) VALUES ({marks})'  # noqa: S608
    for batch in batches:
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
