"""The SQL that ``--sql`` writes does what the command itself does."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.ops.tracks import read_journal, read_tracks, require_current
from app.scopes import SCOPES
from tests.migrations.project import alembic, connect, contents, revisions_of
from tests.migrations.schema import describe
from tests.postgres import find_binaries


def execute_script(settings: Settings, sql: str) -> None:
    """Execute a script with the client of the database, which must not meet any error."""
    if settings.is_sqlite:
        connection = sqlite3.connect(str(settings.url.database))
        connection.executescript(sql)
        connection.close()
        return
    uri = settings.url.set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [find_binaries() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", uri],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def journalled(settings: Settings) -> list[tuple[object, ...]]:
    """Return the journal and check that its times are of the last minute."""
    with connect(settings) as connection:
        rows = read_journal(connection)
    for row in rows:
        assert isinstance(row["applied_at"], datetime)
        assert abs(datetime.now(UTC) - row["applied_at"]) < timedelta(minutes=1)
    return [(row["scope"], row["revision"], row["direction"]) for row in rows]


def test_a_script_for_all_tracks_builds_the_migrated_schema(
    empty_settings: Settings, migrated: list[str]
) -> None:
    sql, _ = alembic(empty_settings, "upgrade", "heads", "--sql")
    assert contents(empty_settings) == {}  # Writing the script changes nothing.

    execute_script(empty_settings, sql)

    assert describe(empty_settings) == migrated
    with connect(empty_settings) as connection:
        require_current(connection)
    assert sorted(journalled(empty_settings)) == sorted(
        (scope, revision, "upgrade") for scope in SCOPES for revision in revisions_of(scope)
    )


def test_a_script_is_one_transaction(empty_settings: Settings) -> None:
    sql, _ = alembic(empty_settings, "upgrade", "heads", "--sql")

    assert re.findall(r"^(BEGIN|COMMIT)[^;]*;", sql, re.MULTILINE) == ["BEGIN", "COMMIT"]


def test_scripts_for_one_track_go_up_and_down(
    empty_settings: Settings, migrated: list[str]
) -> None:
    up, _ = alembic(empty_settings, "upgrade", "registry@head", "--sql")
    execute_script(empty_settings, up)
    assert describe(empty_settings, "registry") == [
        line for line in migrated if line.startswith("registry_")
    ]

    head, *_ = reversed(revisions_of("registry"))
    down, _ = alembic(empty_settings, "downgrade", f"{head}:registry@base", "--sql")
    execute_script(empty_settings, down)

    assert describe(empty_settings, "registry") == []
    revisions = revisions_of("registry")
    assert journalled(empty_settings) == [
        *(("registry", revision, "upgrade") for revision in revisions),
        *(("registry", revision, "downgrade") for revision in reversed(revisions)),
    ]
    with connect(empty_settings) as connection:
        assert {track.revision for track in read_tracks(connection)} == {None}
