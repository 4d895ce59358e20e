"""Restoring a snapshot into an empty database: entirely and proven, or not at all.

One transaction holds everything: bringing the tracks to the snapshot's revisions, the rows, their
proof, the upgrade to this release's revisions, and the mark that keeps the copy from acting.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, select, table, text

from app.config import Settings
from app.delegation.reconciliation import RULES
from app.ledger.reconciliation import reconcile
from app.ledger.seals import read_digest
from app.ops.restored import hold
from app.ops.snapshot.archive import Snapshot, publish
from app.ops.snapshot.errors import SnapshotCorrupt, SnapshotRefused
from app.ops.snapshot.loading import load_rows, reset_numbering
from app.ops.snapshot.manifest import Manifest
from app.ops.snapshot.progress import Watch
from app.ops.snapshot.tables import Table, database_tables, digest_rows, scope_of
from app.ops.tracks import (
    CURRENT,
    UNKNOWN,
    alembic_config,
    migrating,
    read_tracks,
    require_current,
    revisions_of,
)
from app.scopes import SCOPES


@dataclass(frozen=True)
class Restored:
    """What was restored: rows, and the tracks' revisions when it was taken and now."""

    rows: int
    taken_at: str
    snapshot_revisions: dict[str, str]
    revisions: dict[str, str]


def restore(settings: Settings, snapshot: Snapshot, watch: Watch) -> Restored:
    """Fill the empty database of ``settings`` with a snapshot; one that is absent is made.

    Raises ``SnapshotRefused`` when the database holds rows or is of another release, when the
    snapshot is of a later release or corrupt, or when a rule of reconciliation does not hold. The
    database is then as it was.
    """
    require_known(snapshot.manifest)
    with _target(settings) as target, migrating(target) as connection, connection.begin():
        restored = _restore(connection, target, snapshot, watch)
        watch.step("committing")
    return restored


def require_known(manifest: Manifest) -> None:
    """Raise ``SnapshotRefused`` for a snapshot whose tracks are beyond this release."""
    later = sorted(
        revision
        for scope, revision in manifest.revisions.items()
        if scope not in SCOPES or revision not in revisions_of(scope)
    )
    if later:
        raise SnapshotRefused(
            f"the snapshot is of a later release (AgentHub {manifest.release}): this one does not"
            f" know {', '.join(later)}; install that release, or a later one"
        )


@contextmanager
def _target(settings: Settings) -> Iterator[Settings]:
    """Give the settings of the database to fill.

    A SQLite file that does not exist yet gets its name when it is complete.
    """
    path = Path(settings.url.database or "")
    if not settings.is_sqlite or path.exists():
        yield settings
        return
    if settings.database_url is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            partial = Path(folder) / path.name
            yield replace(settings, database_url=settings.url.set(database=str(partial)))
            descriptor = os.open(partial, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            publish(partial, path)
    except OSError as error:
        raise SnapshotRefused(f"{path} cannot be written: {error.strerror}") from None


def _restore(
    connection: Connection, settings: Settings, snapshot: Snapshot, watch: Watch
) -> Restored:
    manifest = snapshot.manifest
    _prepare(connection, settings)
    _require_empty(connection, settings)
    _migrate(connection, settings, manifest.revisions)
    _require_tables(connection, manifest)
    sizes = {}
    for content in manifest.contents:
        watch.step(f"loading {content.table.name}", content.rows)
        sizes[content.table.name] = load_rows(connection, snapshot, content, watch)
    _require_references(connection)
    _prove_rows(connection, manifest, sizes, watch)
    for content in manifest.contents:
        reset_numbering(connection, content.table)
    if any(track.state != CURRENT for track in read_tracks(connection)):
        watch.step("upgrading")
        _alembic(connection, settings, "heads")
    require_current(connection)
    _prove_ledger(connection, manifest, watch)
    hold(connection, manifest.taken_at)
    revisions = {t.scope: t.revision for t in read_tracks(connection) if t.revision}
    return Restored(manifest.rows, manifest.taken_at, manifest.revisions, revisions)


def _prepare(connection: Connection, settings: Settings) -> None:
    """Keep writers out until the end, and give SQLite a cache that a bulk load can use."""
    unknown = [track for track in read_tracks(connection) if track.state == UNKNOWN]
    if unknown:
        found = ", ".join(str(track.revision) for track in unknown)
        raise SnapshotRefused(f"the database is of a later release: it has {found}")
    if settings.is_sqlite:
        connection.exec_driver_sql("PRAGMA cache_size = -32768")  # KiB
        return
    names = ", ".join(sorted(database_tables(connection)))
    if names:
        connection.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))


def _require_empty(connection: Connection, settings: Settings) -> None:
    held = [
        name
        for name in database_tables(connection)
        if connection.execute(select(1).select_from(table(name)).limit(1)).first()
    ]
    if held:
        where = settings.url.render_as_string(hide_password=True)
        others = f" and {len(held) - 1} more tables hold" if len(held) > 1 else " holds"
        raise SnapshotRefused(
            f"the database {where} is not empty: {held[0]}{others} rows; name a new one in"
            " AGENTHUB_DATABASE_URL"
        )


def _migrate(connection: Connection, settings: Settings, wanted: dict[str, str]) -> None:
    """Bring each track of the snapshot to its revision, up or down."""
    if all(wanted.get(scope) == revisions_of(scope)[-1] for scope in SCOPES):
        _alembic(connection, settings, "heads")
        return
    present = {track.scope: track.revision for track in read_tracks(connection)}
    for scope, revision in wanted.items():
        known, current = revisions_of(scope), present[scope]
        down = current is not None and known.index(revision) < known.index(current)
        _alembic(connection, settings, revision, down=down)


def _alembic(
    connection: Connection, settings: Settings, revision: str, *, down: bool = False
) -> None:
    config = alembic_config(settings)
    config.attributes["connection"] = connection
    try:
        (command.downgrade if down else command.upgrade)(config, revision)
    except CommandError as error:
        raise SnapshotRefused(f"the schema cannot be brought to {revision}: {error}") from None


def _require_tables(connection: Connection, manifest: Manifest) -> None:
    """Raise ``SnapshotRefused`` unless the snapshot's tables are those of its revisions."""
    present = {
        name: found
        for name, found in database_tables(connection).items()
        if scope_of(name) in manifest.revisions
    }
    given = {content.table.name: content.table for content in manifest.contents}
    for name in sorted(present.keys() | given.keys()):
        if name not in given:
            raise SnapshotRefused(f"the snapshot lacks the table {name} of its own revision")
        if name not in present:
            raise SnapshotRefused(f"the snapshot has a table that its revision has not: {name}")
        if _shape(given[name]) != _shape(present[name]):
            differing = sorted(
                {name for name, _ in {*given[name].columns} ^ {*present[name].columns}}
            )
            raise SnapshotRefused(
                f"{name}: the snapshot's columns are not those of its revision:"
                f" {', '.join(differing) or 'the primary key'}"
            )


def _shape(table_: Table) -> tuple[set[tuple[str, str]], tuple[str, ...]]:
    return set(table_.columns), table_.key


def _require_references(connection: Connection) -> None:
    """Raise ``SnapshotRefused`` for a row that refers to none; PostgreSQL has seen to it."""
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise SnapshotRefused(f"{broken[0]}: a row refers to one of {broken[2]} that is not there")


def _prove_rows(
    connection: Connection, manifest: Manifest, sizes: dict[str, int], watch: Watch
) -> None:
    """Read back what was loaded, so many rows of each table at a time, and compare its hashes."""
    for content in manifest.contents:
        name = content.table.name
        watch.step(f"proving {name}", content.rows)
        found = digest_rows(connection, content.table, watch.advance, sizes[name])
        if found != (content.rows, content.sha256):
            raise SnapshotCorrupt(f"{name}: the database does not keep the rows as they are")
        if connection.dialect.name == "postgresql":
            # Without statistics the rules below would be planned as if every table were empty.
            connection.execute(text(f"ANALYZE {name}"))


def _prove_ledger(connection: Connection, manifest: Manifest, watch: Watch) -> None:
    """Raise ``SnapshotRefused`` unless the ledger is the one that was sealed, and in balance."""
    watch.step("reconciling")
    if read_digest(connection) != manifest.ledger_digest:
        raise SnapshotCorrupt("the newest seal is not the one of the manifest")
    for rule in reconcile(connection, RULES):
        if rule.findings:
            raise SnapshotRefused(
                f"{rule.number} does not hold ({rule.statement}): {'; '.join(rule.findings[:3])}"
            )
