"""Several servers that start at once migrate one database once."""

from __future__ import annotations

from app.config import Settings
from app.scopes import SCOPES
from tests.migrations.project import contents, revisions_of, start_alembic
from tests.migrations.schema import describe

PROCESSES = 6


def test_processes_that_upgrade_at_once_apply_every_step_once(
    empty_settings: Settings, migrated: list[str]
) -> None:
    processes = [start_alembic(empty_settings, "upgrade", "heads") for _ in range(PROCESSES)]
    results = [(process.communicate(timeout=120), process.returncode) for process in processes]

    assert [code for _, code in results] == [0] * PROCESSES, results
    steps = sum(len(revisions_of(scope)) for scope in SCOPES)
    assert sum(err.count("Running upgrade") for (_, err), _ in results) == steps
    assert describe(empty_settings) == migrated
    rows = contents(empty_settings)
    assert len(rows["schema_journal"]) == steps
    assert len(rows["alembic_version"]) == len(SCOPES)
