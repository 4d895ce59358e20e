"""State of the migration tracks, and the migration that ``agenthub up`` runs by itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.config import Settings
from app.ops.journal import JOURNAL
from app.scopes import SCOPES

CURRENT, BEHIND, ABSENT, UNKNOWN = "current", "behind", "absent", "unknown"


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
def _heads() -> tuple[dict[str, str], frozenset[str]]:
    """Return each scope's newest revision, and every revision of this release."""
    script = ScriptDirectory.from_config(Config(str(migrations_home() / "alembic.ini")))
    heads = {scope: _revision(script, f"{scope}@head") for scope in SCOPES}
    return heads, frozenset(revision.revision for revision in script.walk_revisions())


def _revision(script: ScriptDirectory, name: str) -> str:
    return script.get_revision(name).revision


def read_tracks(connection: Connection) -> list[Track]:
    """Return the state of every track, those of unknown revisions included."""
    heads, known = _heads()
    applied: dict[str, str] = {}
    # Should a track have two rows, the unknown one decides: it blocks every Alembic command.
    rows = MigrationContext.configure(connection).get_current_heads()
    for row in sorted(rows, key=lambda row: row not in known):
        applied[row.rpartition("_")[0] or row] = row
    tracks = []
    for scope in [*SCOPES, *sorted(applied.keys() - set(SCOPES))]:
        revision, head = applied.get(scope), heads.get(scope)
        if revision is None:
            state = ABSENT
        elif revision == head:
            state = CURRENT
        else:
            state = BEHIND if revision in known else UNKNOWN
        tracks.append(Track(scope, state, revision, head, _remedy(scope, state, revision, head)))
    return tracks


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
    # An unknown revision blocks every Alembic command, so one for all tracks would fail, too.
    together = len(stale) > 1 and UNKNOWN not in {track.state for track in stale}
    if stale:
        raise OutdatedSchema(
            "the database schema does not fit this release: "
            + "; ".join(f"track {t.scope} is {t.state}, run: {t.remedy}" for t in stale)
            + (". All at once: alembic upgrade heads" if together else "")
        )


def upgrade_all(settings: Settings) -> None:
    """Bring every track to its newest revision; waits while another process does the same."""
    command.upgrade(alembic_config(settings), "heads")


def read_journal(connection: Connection) -> list[dict[str, object]]:
    """Return every applied step, oldest first: scope, revision, direction, applied_at."""
    if not sa.inspect(connection).has_table(JOURNAL.name):
        return []
    rows = connection.execute(sa.select(JOURNAL).order_by(JOURNAL.c.id)).mappings()
    return [{name: row[name] for name in row if name != "id"} for row in rows]
