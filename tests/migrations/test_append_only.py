"""Tables that only grow are kept so by the database itself, whichever path built them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from app.config import Settings
from app.db import Database
from app.scopes import SCOPES
from tests.migrations.project import add_revision, config, contents, copy_migrations
from tests.migrations.rows import insert_rows, rows_of
from tests.migrations.schema import describe, triggers

APPEND_ONLY = {
    "registry": ("registry_evaluations", "registry_usage_reports", "registry_versions"),
    "ledger": ("ledger_transactions", "ledger_postings", "ledger_seals", "ledger_metering_events"),
    "access": ("access_admin_actions",),
    "delegation": (
        "delegation_cutovers",
        "delegation_events",
        "delegation_import_runs",
        "delegation_legacy_records",
    ),
}
TABLES = [(scope, table) for scope, tables in APPEND_ONLY.items() for table in tables]
ACTIONS = {"sqlite": ("delete", "update"), "postgresql": ("delete", "truncate", "update")}

REBUILD = (
    'with op.batch_alter_table("registry_agents") as batch:\n'
    '        batch.alter_column("latest_version", type_=sa.String(200))'
)


def expected_triggers(settings: Settings, *scopes: str) -> list[str]:
    dialect = settings.url.get_backend_name()
    return sorted(
        f"{table}_no_{action}"
        for scope in scopes or APPEND_ONLY
        for table in APPEND_ONLY[scope]
        for action in ACTIONS[dialect]
    )


@pytest.mark.parametrize("path", ["upgrade", "up and down", "one track", "rebuilt table"])
def test_triggers_are_there_after_every_path(
    path: str, empty_settings: Settings, tmp_path: Path
) -> None:
    settings = empty_settings
    alone = ["registry"] if path == "one track" else []
    command.upgrade(config(settings), "registry@head" if alone else "heads")
    if path == "up and down":
        for scope in SCOPES:
            command.downgrade(config(settings), f"{scope}@base")
        assert triggers(describe(settings)) == []
        for scope in reversed(SCOPES):
            command.upgrade(config(settings), f"{scope}@head")
    elif path == "rebuilt table":
        # On SQLite this rebuilds a table that an append-only one refers to.
        (tmp_path / "release").mkdir()
        home = copy_migrations(tmp_path / "release")
        widen = 'batch.alter_column("latest_version", type_=sa.String(200))'
        add_revision(
            home,
            "registry",
            f'with op.batch_alter_table("registry_agents") as batch:\n        {widen}',
        )
        insert_rows(settings)
        command.upgrade(config(settings, home), "registry@head")

    assert triggers(describe(settings)) == expected_triggers(settings, *alone)


def statements(dialect: str, scope: str, table: str) -> dict[str, str]:
    """Return the statements that would change or remove a row of ``table``."""
    column = next(iter(rows_of(scope, table)[0]))
    found = {
        "update": f"UPDATE {table} SET {column} = {column}",
        "delete": f"DELETE FROM {table}",
    }
    if dialect == "sqlite":
        found["replace"] = f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"
        found["update or replace"] = f"UPDATE OR REPLACE {table} SET {column} = {column}"
    else:
        found["truncate"] = f"TRUNCATE {table} CASCADE"
        found["upsert"] = (
            f"INSERT INTO {table} SELECT * FROM {table}"
            f" ON CONFLICT ON CONSTRAINT pk_{table} DO UPDATE SET {column} = EXCLUDED.{column}"
        )
    return found


@pytest.mark.parametrize(("scope", "table"), TABLES)
def test_rows_cannot_be_changed_or_removed(scope: str, table: str, settings: Settings) -> None:
    insert_rows(settings)
    rows = contents(settings)[table]
    database = Database(settings)

    for statement in statements(settings.url.get_backend_name(), scope, table).values():
        with (
            pytest.raises(sa.exc.DatabaseError, match="is append-only"),
            database.transaction() as session,
        ):
            session.execute(sa.text(statement))

    database.dispose()
    assert contents(settings)[table] == rows
