"""Tables of a snapshot: which there are, and their rows in the one order of both databases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from app import scopes
from app.ops.snapshot.errors import SnapshotRefused
from app.ops.snapshot.values import READ_AS, TEXT, encode_rows, kind_of

BATCH = 1_000


@dataclass(frozen=True)
class Table:
    """A table: its columns with the kind of each, and the columns of its primary key."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    """Some rows as lines of JSON."""

    rows: int
    lines: bytes


def model_tables() -> list[Table]:
    """Return every table of this release, those that others refer to first."""
    found = [
        Table(
            table.name,
            tuple((column.name, kind_of(column.type)) for column in table.columns),
            tuple(column.name for column in table.primary_key),
        )
        for table in scopes.metadata().sorted_tables
    ]
    # No reference leaves a scope, so putting scopes together keeps that order.
    return sorted(found, key=lambda table: scopes.SCOPES.index(scope_of(table.name)))


def scope_of(table: str) -> str:
    """Return the scope of a table that has one."""
    scope = scopes.scope_of_table(table)
    assert scope is not None  # noqa: S101 (tables of no scope are never asked about)
    return scope


def database_tables(connection: Connection) -> dict[str, Table]:
    """Return every table of any scope that the database has, by name."""
    inspector = sa.inspect(connection)
    inspector.clear_cache()
    return {
        name: Table(
            name,
            tuple((c["name"], kind_of(c["type"])) for c in inspector.get_columns(name)),
            tuple(inspector.get_pk_constraint(name)["constrained_columns"]),
        )
        for name in sorted(filter(scopes.scope_of_table, inspector.get_table_names()))
    }


def read_chunks(connection: Connection, table: Table, size: int = BATCH) -> Iterator[Chunk]:
    """Yield the rows in the order of their primary key, byte by byte, whichever the database.

    Holds one chunk of ``size`` rows at a time. Raises ``SnapshotRefused`` for a value that is not
    of its column's kind.
    """
    columns = {name: sa.column(name, READ_AS[kind]) for name, kind in table.columns}
    kinds = dict(table.columns)
    statement = (
        sa.select(*columns.values())
        .select_from(sa.table(table.name))
        .order_by(*(_order(connection, columns[name], kinds[name]) for name in table.key))
        .execution_options(yield_per=size)
    )
    read = 0
    try:
        lines = encode_rows(table.columns, connection.execute(statement))
        while batch := list(islice(lines, size)):
            read += len(batch)
            yield Chunk(len(batch), b"".join(batch))
    except (ValueError, TypeError) as error:
        raise SnapshotRefused(
            f"{table.name}: a row after the first {read} cannot be read: {error}"
        ) from None


def _order(connection: Connection, column: Any, kind: str) -> Any:
    """Return what to order by: PostgreSQL would use the collation the cluster was made with."""
    if kind == TEXT and connection.dialect.name == "postgresql":
        return column.collate("C")
    return column


def digest_rows(
    connection: Connection, table: Table, advance: Any, size: int = BATCH
) -> tuple[int, str]:
    """Return how many rows a table has and the SHA-256 of their lines, as a snapshot would.

    ``size`` is how many rows are read at a time.
    """
    rows, digest = 0, hashlib.sha256()
    for chunk in read_chunks(connection, table, size):
        rows += chunk.rows
        digest.update(chunk.lines)
        advance(chunk.rows)
    return rows, digest.hexdigest()
