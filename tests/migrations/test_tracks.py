"""The journal and the state of tracks tell what happened to a database and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.util import CommandError

from app.config import Settings
from app.ops import tracks
from app.ops.tracks import OutdatedSchema, Track, read_journal, read_tracks, require_current
from app.scopes import SCOPES
from tests.migrations.project import (
    add_revision,
    alembic,
    config,
    connect,
    contents,
    copy_migrations,
    revisions_of,
)
from tests.migrations.rows import insert_rows
from tests.migrations.schema import describe


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The migrations of a release whose registry track has one revision more; it is installed."""
    home = tmp_path / "release"
    home.mkdir()
    add_revision(copy_migrations(home), "registry")
    monkeypatch.setattr(tracks, "migrations_home", lambda: home)
    tracks._revisions.cache_clear()
    yield home
    tracks._revisions.cache_clear()


def journal(settings: Settings) -> list[tuple[str, str, str]]:
    """Return the journal without its times."""
    with connect(settings) as connection:
        return [
            (str(row["scope"]), str(row["revision"]), str(row["direction"]))
            for row in read_journal(connection)
        ]


def state(settings: Settings, scope: str) -> Track:
    """Return the state of one track."""
    with connect(settings) as connection:
        (track,) = (track for track in read_tracks(connection) if track.scope == scope)
    return track


def refusal(settings: Settings) -> str:
    """Return why a service would not start on the database."""
    with connect(settings) as connection, pytest.raises(OutdatedSchema) as caught:
        require_current(connection)
    return str(caught.value)


def set_revision(settings: Settings, old: str | None, new: str) -> None:
    """Write a revision into the version table, as a release that knows it would."""
    with connect(settings) as connection:
        if old is not None:
            connection.exec_driver_sql(f"DELETE FROM alembic_version WHERE version_num = '{old}'")
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{new}')")


def test_the_journal_records_every_step_in_order(empty_settings: Settings) -> None:
    settings = empty_settings
    assert journal(settings) == []
    before = datetime.now(UTC)

    alembic(settings, "upgrade", "registry@head")
    command.downgrade(config(settings), "registry@base")
    command.upgrade(config(settings), "registry@+1")
    command.stamp(config(settings), "access@head")

    up = [("registry", revision, "upgrade") for revision in revisions_of("registry")]
    down = [("registry", revision, "downgrade") for revision in reversed(revisions_of("registry"))]
    assert journal(settings) == [*up, *down, up[0], ("access", revisions_of("access")[-1], "stamp")]
    with connect(settings) as connection:
        times = [row["applied_at"] for row in read_journal(connection)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert all(isinstance(t, datetime) and t.utcoffset() == timedelta(0) for t in times)
    assert before <= times[0] <= times[-1] <= datetime.now(UTC)  # type: ignore[operator]


def test_a_command_that_does_nothing_writes_nothing(settings: Settings) -> None:
    before = journal(settings)
    assert sorted(before) == sorted(
        (scope, revision, "upgrade") for scope in SCOPES for revision in revisions_of(scope)
    )

    command.upgrade(config(settings), "heads")
    command.stamp(config(settings), "heads")
    command.current(config(settings))
    command.check(config(settings))

    assert journal(settings) == before


def test_a_stamp_changes_the_record_and_nothing_else(empty_settings: Settings) -> None:
    command.stamp(config(empty_settings), "heads")

    with connect(empty_settings) as connection:
        require_current(connection)
        tables = connection.dialect.get_table_names(connection)
    assert set(tables) == {"alembic_version", "schema_journal"}
    assert sorted(journal(empty_settings)) == sorted(
        (scope, revisions_of(scope)[-1], "stamp") for scope in SCOPES
    )


def test_a_stamp_back_to_base_is_journalled(settings: Settings) -> None:
    command.stamp(config(settings), "registry@base")

    assert state(settings, "registry").state == tracks.ABSENT
    assert journal(settings)[-1] == ("registry", revisions_of("registry")[-1], "stamp")


def test_the_database_refuses_a_journal_row_of_an_unknown_kind(settings: Settings) -> None:
    with connect(settings) as connection, pytest.raises(Exception, match="ck_schema_journal"):
        connection.exec_driver_sql(
            "INSERT INTO schema_journal (scope, revision, direction, applied_at)"
            " VALUES ('registry', 'registry_0001', 'sideways', CURRENT_TIMESTAMP)"
        )


def test_tracks_never_applied_are_absent(empty_settings: Settings) -> None:
    with connect(empty_settings) as connection:
        found = read_tracks(connection)

    assert found == [
        Track(scope, tracks.ABSENT, None, revisions_of(scope)[-1], f"alembic upgrade {scope}@head")
        for scope in SCOPES
    ]
    message = refusal(empty_settings)
    assert "track registry is absent, run: alembic upgrade registry@head" in message
    assert message.endswith("All at once: alembic upgrade heads")


def test_tracks_at_their_newest_revision_are_current(settings: Settings) -> None:
    with connect(settings) as connection:
        found = read_tracks(connection)
        require_current(connection)

    heads = {scope: revisions_of(scope)[-1] for scope in SCOPES}
    assert found == [Track(s, tracks.CURRENT, heads[s], heads[s], None) for s in SCOPES]


def test_one_track_can_be_absent_while_the_others_are_current(settings: Settings) -> None:
    command.downgrade(config(settings), "registry@base")

    assert state(settings, "access").state == tracks.CURRENT
    assert state(settings, "registry").state == tracks.ABSENT
    assert refusal(settings).endswith(
        "track registry is absent, run: alembic upgrade registry@head"
    )


def test_a_track_of_an_older_release_is_behind(settings: Settings, later_release: Path) -> None:
    old = revisions_of("registry")[-1]

    found = state(settings, "registry")
    assert (found.state, found.revision) == (tracks.BEHIND, old)
    assert found.head == f"registry_{int(old[-4:]) + 1:04d}"
    assert found.remedy == "alembic upgrade registry@head"
    assert refusal(settings) == (
        "the database schema does not fit this release:"
        " track registry is behind, run: alembic upgrade registry@head"
    )

    tracks.upgrade_all(settings)
    assert state(settings, "registry").state == tracks.CURRENT


def test_the_remedy_for_a_track_of_a_later_release_works(
    settings: Settings, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks.upgrade_all(settings)
    monkeypatch.undo()  # Back to this release, which lacks the revision.
    tracks._revisions.cache_clear()

    found = state(settings, "registry")
    head = revisions_of("registry")[-1]
    assert (found.state, found.head) == (tracks.UNKNOWN, head)
    assert found.remedy is not None
    assert f"install the release that has revision {found.revision}" in found.remedy
    arguments = found.remedy.partition("run: alembic ")[2].split()
    assert arguments == ["downgrade", f"registry@{head}"]
    assert "track registry is unknown, run: install the release" in refusal(settings)
    with pytest.raises(CommandError, match="Can't locate revision"):
        command.upgrade(config(settings), "heads")

    alembic(settings, *arguments, home=later_release)
    assert state(settings, "registry").state == tracks.CURRENT


@pytest.mark.parametrize("replaced", [True, False])
def test_an_unknown_revision_is_told_from_a_known_one(settings: Settings, replaced: bool) -> None:
    set_revision(settings, revisions_of("registry")[-1] if replaced else None, "registry_9999")

    found = state(settings, "registry")

    assert (found.state, found.revision) == (tracks.UNKNOWN, "registry_9999")
    assert state(settings, "access").state == tracks.CURRENT


def test_a_track_of_an_unknown_scope_is_listed(settings: Settings) -> None:
    set_revision(settings, None, "billing_0001")

    found = state(settings, "billing")

    assert found == Track(
        "billing",
        tracks.UNKNOWN,
        "billing_0001",
        None,
        "install the release that has revision billing_0001, or with that release run:"
        " alembic downgrade billing@base",
    )
    assert "track billing is unknown" in refusal(settings)


def test_no_command_for_all_tracks_is_advised_while_an_unknown_revision_blocks_it(
    settings: Settings,
) -> None:
    command.downgrade(config(settings), "access@base")
    set_revision(settings, revisions_of("registry")[-1], "registry_9999")

    message = refusal(settings)

    assert "track access is absent" in message
    assert "track registry is unknown" in message
    assert "alembic upgrade heads" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("upgrade", "heads"),
        ("upgrade", "ledger@head"),
        ("upgrade", "ledger_0001"),
        ("downgrade", "ledger@-1"),
        ("downgrade", "ledger@base"),
        ("-x", "allow-data-loss=ledger", "downgrade", "ledger_0001"),
    ],
    ids=" ".join,
)
def test_a_track_that_was_forgotten_is_told_from_one_that_was_never_applied(
    arguments: tuple[str, ...], settings: Settings
) -> None:
    insert_rows(settings)
    command.stamp(config(settings), "base")
    rows, schema = contents(settings), describe(settings)

    out, log = alembic(settings, *arguments, fails=True)

    track = "ledger" if "heads" not in arguments else SCOPES[0]
    assert f"FAILED: the database holds tables of the track {track} (" in out
    assert f"Record what it holds: alembic stamp {track}@head, then alembic check" in out
    assert "Traceback" not in out + log
    assert contents(settings) == rows
    assert describe(settings) == schema


def test_what_is_said_of_a_forgotten_track_mends_it(settings: Settings) -> None:
    insert_rows(settings)
    command.stamp(config(settings), "base")

    found = state(settings, "registry")
    assert (found.state, found.revision) == (tracks.ABSENT, None)
    assert found.remedy is not None
    assert "alembic stamp registry@head" in found.remedy
    assert "All at once" not in refusal(settings)
    with pytest.raises(CommandError, match="no revision of it is recorded"):
        tracks.upgrade_all(settings)

    for scope in SCOPES:
        remedy = state(settings, scope).remedy
        assert remedy is not None
        alembic(settings, *remedy.partition(",")[0].removeprefix("alembic ").split())
    command.check(config(settings))
    assert {state(settings, scope).state for scope in SCOPES} == {tracks.CURRENT}


def test_another_programs_table_with_a_like_name_is_no_tables_of_a_track(
    empty_settings: Settings,
) -> None:
    with connect(empty_settings) as connection:
        connection.exec_driver_sql("CREATE TABLE registry_of_somebody_else (id INTEGER)")

    command.upgrade(config(empty_settings), "heads")

    assert state(empty_settings, "registry").state == tracks.CURRENT


def test_a_step_that_the_database_refuses_is_told_in_a_sentence(settings: Settings) -> None:
    # The record says less than the tables hold, as after a stamp too low.
    command.stamp(config(settings), "registry@registry_0001")
    before = contents(settings)

    out, log = alembic(settings, "upgrade", "heads", fails=True)

    assert "FAILED: the database refused: " in out
    assert "already exists" in out
    assert "Traceback" not in out + log
    assert contents(settings) == before


@pytest.mark.parametrize("target", ["registry@-1", "registry_0001"])
def test_a_track_that_is_not_applied_cannot_go_down(target: str, settings: Settings) -> None:
    command.downgrade(config(settings), "registry@base")

    with pytest.raises(CommandError, match="the track registry is not applied"):
        command.downgrade(config(settings), target)
