"""Snapshots are whole, portable and provable, and taken while others write."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from app import scopes
from app.config import Settings
from app.db import Database
from app.delegation.reconciliation import RULES
from app.ledger.reconciliation import reconcile
from app.ops.snapshot.errors import SnapshotRefused
from app.ops.snapshot.values import READ_AS, kind_of
from tests.client import Api
from tests.conftest import DIALECTS
from tests.delegation.conftest import CLERK, DELEGATIONS, request, top_up
from tests.migrations.project import connect, contents
from tests.ops.conftest import bring_back, take
from tests.ops.place import Place

NewDatabase = Callable[..., Settings]


def hashes(settings: Settings, file: Path) -> dict[str, tuple[int, str]]:
    """Return rows and SHA-256 of each table, as a snapshot taken now says."""
    found = {c.table.name: (c.rows, c.sha256) for c in take(settings, file).contents}
    file.unlink()
    return found


def broken_rules(settings: Settings) -> list[str]:
    """Return the numbers of the rules of reconciliation that do not hold."""
    database = Database(settings)
    with database.snapshot() as connection:
        broken = [rule.number for rule in reconcile(connection, RULES) if rule.findings]
    database.dispose()
    return broken


@pytest.mark.parametrize("migrated", [False, True], ids=["absent", "migrated"])
@pytest.mark.parametrize("target", DIALECTS)
def test_a_place_moves_from_any_database_to_any(
    place: Place, target: str, migrated: bool, new_database: NewDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "place.snapshot"
    taken = take(place.settings, file)
    assert {content.table.name for content in taken.contents} == set(scopes.metadata().tables)

    there = new_database(target, migrated=migrated)
    restored = bring_back(there, file)

    assert restored.rows == taken.rows
    assert restored.revisions == restored.snapshot_revisions
    assert hashes(there, tmp_path / "again") == hashes(place.settings, tmp_path / "again")
    with place.open(there) as shop:
        assert shop.replayed() == len(place.answers) > 3
        # New rows are numbered after those that came along.
        top_up(shop.caller("boss"), CLERK, 5)
        assert shop.caller("acme").post(DELEGATIONS, request()).status_code == 200
    assert not broken_rules(there)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_every_table_of_the_place_has_rows(place: Place, tmp_path: Path) -> None:
    # Otherwise the tests above would prove less than they say.
    found = hashes(place.settings, tmp_path / "place.snapshot")
    elsewhere = {
        "access_ended_sessions",
        "access_request_counts",
        "delegation_cutovers",
        "delegation_import_runs",
        "delegation_legacy_records",
    }
    assert {name for name, (rows, _) in found.items() if rows == 0} <= elsewhere


def test_every_column_of_this_release_has_a_kind() -> None:
    for table in scopes.metadata().tables.values():
        for column in table.columns:
            assert kind_of(column.type) in READ_AS


def test_a_sqlite_file_comes_back_row_by_row(
    place: Place, new_database: NewDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "place.snapshot"
    take(place.settings, file)
    there = new_database(place.settings.url.get_backend_name())
    bring_back(there, file)

    before, after = contents(place.settings), contents(there)
    # The target's journal tells of the target.
    assert len(before.pop("schema_journal")) == len(after.pop("schema_journal"))
    # So does the mark that keeps it from acting.
    assert len(after.pop("restored_copy")) == 1
    # PostgreSQL's sequences belong to tables; SQLite keeps them in one that was compared, too.
    assert after == before


def test_a_snapshot_shows_one_instant_while_others_write(
    place: Place, new_database: NewDatabase, tmp_path: Path
) -> None:
    stop, sent = threading.Event(), []

    def write(acme: Api) -> None:
        while not stop.is_set():
            response = acme.post(DELEGATIONS, request(estimated_cost_usd=0.01))
            sent.append(response.status_code)

    rows = []
    with place.open() as shop:
        callers = [shop.caller("acme") for _ in range(2)]
        writers = [threading.Thread(target=write, args=(caller,)) for caller in callers]
        for writer in writers:
            writer.start()
        try:
            for number in range(4):
                while len(sent) < 4 * number:
                    assert not stop.wait(0.01)
                rows.append(take(place.settings, tmp_path / f"{number}.snapshot").rows)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
    assert set(sent) == {200}
    assert rows == sorted(rows)
    assert rows[-1] > rows[0]
    for number in range(4):
        # Restoring reconciles: a delegation without its money, or half of one, would be found.
        bring_back(new_database("sqlite"), tmp_path / f"{number}.snapshot")


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_the_file_is_private_whole_and_never_overwritten(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    file = folder / "place.snapshot"
    take(place.settings, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(SnapshotRefused, match="exists already"):
        take(place.settings, file)
    with pytest.raises(SnapshotRefused, match="No such file or directory"):
        take(place.settings, folder / "nowhere" / "place.snapshot")
    assert file.read_bytes() == before
    assert os.listdir(folder) == ["place.snapshot"]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_database_that_holds_what_it_should_not_makes_no_file(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for statement, reason in (
        ("UPDATE registry_agents SET revision = 'many'", "registry_agents: .*revision is not of"),
        ("UPDATE access_owners SET created_at = 'once'", "access_owners: .* cannot be read"),
    ):
        with connect(place.settings) as connection:
            connection.execute(text(statement))
        with pytest.raises(SnapshotRefused, match=reason):
            take(place.settings, folder / "place.snapshot")
        with connect(place.settings) as connection:
            connection.execute(text("UPDATE registry_agents SET revision = 1"))
    assert os.listdir(folder) == []


def test_what_is_restored_stays_append_only(
    place: Place, new_database: NewDatabase, tmp_path: Path
) -> None:
    take(place.settings, tmp_path / "place.snapshot")
    there = new_database(place.settings.url.get_backend_name())
    bring_back(there, tmp_path / "place.snapshot")
    for name in ("ledger_transactions", "ledger_postings", "delegation_events"):
        with (
            pytest.raises(DatabaseError, match="append-only"),
            connect(there) as connection,
        ):
            connection.execute(text(f"DELETE FROM {name}"))
