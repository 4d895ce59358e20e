"""State of the migration tracks, and the migration that ``agenthub up`` runs by itself."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from app.config import Settings
from app.engines import begin_immediate, configure_sqlite
from app.files import make_private_file
from app.ops.journal import JOURNAL
from app.scopes import SCOPES, metadata, scope_of_table

CURRENT, BEHIND, ABSENT, UNKNOWN = "current", "behind", "absent", "unknown"
# An arbitrary constant: every process that migrates an AgentHub database asks for this lock.
ADVISORY_LOCK = 0x4147484D  # "AGHM"
LOCK_WAIT_MS = 60_000


@dataclass(frozen=True)
class Track:
    """One scope's track in one database.

    ``state`` is ``current``, ``behind`` (an older revision of this release), ``absent`` (never
    applied) or ``unknown`` (a revision this release does not have). ``remedy`` is what to do, None
    when nothing is.
    """

    scope: str
    state: str
    revision: str | None
    head: str | None
    remedy: str | None


class OutdatedSchema(Exception):
    """The database's schema is not the one this release serves; the message holds the remedy."""


def migrations_home() -> Path:
    """Return the folder of ``alembic.ini`` and ``alembic/``: the checkout or the installed copy."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "alembic.ini").is_file():
        return checkout
    return Path(sys.prefix) / "share" / "agenthub"


def alembic_config(settings: Settings) -> Config:
    """Return Alembic's configuration for running commands from within the process."""
    config = Config(str(migrations_home() / "alembic.ini"))
    config.attributes.update(settings=settings, configure_logging=False)
    return config


@cache
def _revisions() -> dict[str, list[str]]:
    """Return every revision of this release by scope, oldest first."""
    script = ScriptDirectory.from_config(Config(str(migrations_home() / "alembic.ini")))
    return {
        scope: [revision.revision for revision in script.walk_revisions("base", f"{scope}@head")][
            ::-1
        ]
        for scope in SCOPES
    }


def revisions_of(scope: str) -> list[str]:
    """Return the revisions that this release has of a scope's track, oldest first."""
    return _revisions()[scope]


def read_tracks(connection: Connection) -> list[Track]:
    """Return the state of every track, those of unknown revisions included."""
    heads = {scope: revisions_of(scope)[-1] for scope in SCOPES}
    known = {revision for scope in SCOPES for revision in revisions_of(scope)}
    applied: dict[str, str] = {}
    # Should a track have two rows, the unknown one decides: it blocks every Alembic command.
    recorded = MigrationContext.configure(connection).get_current_heads()
    for row in sorted(recorded, key=lambda row: row not in known):
        applied[row.rpartition("_")[0] or row] = row
    lost = unrecorded_tables(connection, recorded)
    tracks = []
    for scope in [*SCOPES, *sorted(applied.keys() - set(SCOPES))]:
        revision, head = applied.get(scope), heads.get(scope)
        if revision is None:
            state = ABSENT
        elif revision == head:
            state = CURRENT
        else:
            state = BEHIND if revision in known else UNKNOWN
        remedy = _remedy(scope, state, revision, head)
        if scope in lost:
            remedy = _RECORD.format(scope=scope)
        tracks.append(Track(scope, state, revision, head, remedy))
    return tracks


# What mends a track whose tables are there while its revision was forgotten.
_RECORD = "alembic stamp {scope}@head, then alembic check, which must find no difference"


def unrecorded_tables(connection: Connection, recorded: Iterable[str]) -> dict[str, list[str]]:
    """Return the tables of each track that are there although no revision of it is ``recorded``.

    A ``stamp base`` leaves a database so, and so does whoever deletes rows of ``alembic_version``.
    """
    absent = set(SCOPES) - {revision.rpartition("_")[0] for revision in recorded}
    if not absent:
        return {}
    inspector = sa.inspect(connection)
    inspector.clear_cache()
    found: dict[str, list[str]] = {}
    for table in sorted(metadata().tables.keys() & set(inspector.get_table_names())):
        scope = scope_of_table(table)
        if scope in absent:
            found.setdefault(str(scope), []).append(table)
    return found


def require_recorded(
    connection: Connection, recorded: Iterable[str], wanted: Collection[str]
) -> None:
    """Raise ``CommandError`` when tables of a wanted track are there and its revision is not.

    Steps that begin at nothing would meet them.
    """
    for scope, tables in unrecorded_tables(connection, recorded).items():
        if scope in wanted:
            raise CommandError(
                f"the database holds tables of the track {scope} ({tables[0]} first), but no"
                " revision of it is recorded, as after a stamp of base; nothing was changed."
                f" Record what it holds: {_RECORD.format(scope=scope)}"
            )


def _remedy(scope: str, state: str, revision: str | None, head: str | None) -> str | None:
    if state == CURRENT:
        return None
    if state == UNKNOWN:
        return (
            f"install the release that has revision {revision}, or with that release run: "
            f"alembic downgrade {scope}@{head or 'base'}"
        )
    return f"alembic upgrade {scope}@head"


def require_current(connection: Connection) -> None:
    """Raise ``OutdatedSchema`` unless every track is current."""
    stale = [track for track in read_tracks(connection) if track.state != CURRENT]
    # One command for all would meet a revision that is unknown, or tables that are not recorded.
    simple = all(track.remedy == f"alembic upgrade {track.scope}@head" for track in stale)
    together = len(stale) > 1 and simple
    if stale:
        raise OutdatedSchema(
            "the database schema does not fit this release: "
            + "; ".join(f"track {t.scope} is {t.state}, run: {t.remedy}" for t in stale)
            + (". All at once: alembic upgrade heads" if together else "")
        )


def migration_engine(settings: Settings, *, exclusive: bool) -> sa.Engine:
    """Return an engine for one connection, prepared as the dialect needs for DDL.

    With ``exclusive`` a transaction on SQLite holds the write lock from its beginning. Raises
    ``CommandError`` behind a pooler in transaction mode.
    """
    if settings.transaction_pooler:
        raise CommandError(
            "migrations hold a lock of their session, which a pooler in transaction mode breaks:"
            " set AGENTHUB_DATABASE_URL to PostgreSQL itself and unset AGENTHUB_TRANSACTION_POOLER"
        )
    if not settings.is_sqlite:
        return sa.create_engine(
            settings.url,
            poolclass=sa.NullPool,
            connect_args={
                "options": f"-c timezone=UTC -c lock_timeout={LOCK_WAIT_MS}",
                "target_session_attrs": "primary",
            },
        )
    if settings.database_url is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_private_file(settings.url)
    engine = sa.create_engine(
        settings.url, poolclass=sa.NullPool, connect_args={"isolation_level": None}
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        configure_sqlite(connection)
        # With enforcement on, rebuilding a table would delete the rows of tables that cascade.
        connection.execute("PRAGMA foreign_keys=OFF")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if exclusive:
            begin_immediate(connection, LOCK_WAIT_MS)

    return engine


@contextmanager
def migrating(settings: Settings) -> Iterator[Connection]:
    """Give the connection of the one process that may migrate the database, in no transaction.

    Whoever comes second waits up to a minute: on PostgreSQL here, on SQLite when it begins.
    """
    with migration_engine(settings, exclusive=True).connect() as connection:
        if not settings.is_sqlite:
            # The session lock outlives this transaction, and each that follows is all of a command.
            with connection.begin():
                connection.execute(sa.select(sa.func.pg_advisory_lock(ADVISORY_LOCK)))
        yield connection


def upgrade_all(settings: Settings) -> None:
    """Bring every track to its newest revision; waits while another process does the same."""
    command.upgrade(alembic_config(settings), "heads")


def read_journal(connection: Connection) -> list[dict[str, object]]:
    """Return every applied step, oldest first: scope, revision, direction, applied_at."""
    if not sa.inspect(connection).has_table(JOURNAL.name):
        return []
    rows = connection.execute(sa.select(JOURNAL).order_by(JOURNAL.c.id)).mappings()
    return [{name: row[name] for name in row if name != "id"} for row in rows]
