"""Creating and verifying a snapshot."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select, table, text

from app import clock
from app.db import Database
from app.ledger.seals import read_digest
from app.ops.snapshot.archive import Snapshot, Writer, new_file
from app.ops.snapshot.errors import SnapshotCorrupt
from app.ops.snapshot.manifest import Content, Manifest
from app.ops.snapshot.progress import Watch
from app.ops.snapshot.tables import Table, model_tables, read_chunks
from app.ops.snapshot.values import decoder
from app.ops.tracks import read_tracks, require_current


def create(database: Database, path: Path, watch: Watch) -> Manifest:
    """Write everything the database holds at one instant to a new file, while others write.

    Raises ``SnapshotRefused`` when the file exists or cannot be written, or the database holds what
    no snapshot can, and ``OutdatedSchema``. There is no file then.
    """
    with new_file(path) as file, database.snapshot() as connection:
        _wait_for_readers(connection)
        require_current(connection)
        now = clock.now()
        writer = Writer(file, now.timestamp())
        manifest = Manifest(
            taken_at=clock.isoformat(now),
            release=version("agenthub"),
            source=connection.dialect.name,
            revisions={
                track.scope: track.revision for track in read_tracks(connection) if track.revision
            },
            ledger_digest=read_digest(connection),
            contents=tuple(
                _write_table(connection, writer, table, watch) for table in model_tables()
            ),
        )
        writer.finish(manifest)
    return manifest


def _wait_for_readers(connection: Connection) -> None:
    """Lift the limits that requests have: a slow disk may make one transaction take minutes."""
    if connection.dialect.name == "postgresql":
        for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = 0"))


def _write_table(connection: Connection, writer: Writer, table_: Table, watch: Watch) -> Content:
    count = connection.scalar(select(func.count()).select_from(table(table_.name)))
    watch.step(f"writing {table_.name}", count)
    rows, digest = 0, hashlib.sha256()
    with writer.table(table_.name) as write:
        for chunk in read_chunks(connection, table_):
            rows += chunk.rows
            digest.update(chunk.lines)
            write(chunk.lines)
            watch.advance(chunk.rows)
    return Content(table_, rows, digest.hexdigest())


def verify(snapshot: Snapshot, watch: Watch) -> None:
    """Hold every row of a snapshot to its manifest and to the kinds of its columns.

    Needs no database. Raises ``SnapshotCorrupt``.
    """
    for content in snapshot.manifest.contents:
        watch.step(f"reading {content.table.name}", content.rows)
        decode = decoder(content.table.columns, "sqlite")
        for number, line in enumerate(snapshot.read_lines(content), start=1):
            decode_row(decode, content, number, line)
            watch.advance(1)


def decode_row(decode: Any, content: Content, number: int, line: bytes) -> list[Any]:
    """Return the values of a row. Raises ``SnapshotCorrupt``, which names the row."""
    try:
        values: list[Any] = decode(line)
    except ValueError as error:
        raise SnapshotCorrupt(f"{content.table.name}, row {number}: {error}") from None
    return values
