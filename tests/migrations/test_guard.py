"""A downgrade does not destroy data unless it is told to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from app.config import Settings
from app.scopes import SCOPES
from tests.migrations.project import (
    add_revision,
    alembic,
    config,
    contents,
    copy_migrations,
    revisions_of,
)
from tests.migrations.rows import ROWS, insert_rows
from tests.migrations.schema import describe


@pytest.mark.parametrize("scope", SCOPES)
def test_a_downgrade_that_would_destroy_rows_changes_nothing(
    scope: str, settings: Settings
) -> None:
    insert_rows(settings)
    rows, schema = contents(settings), describe(settings)

    with pytest.raises(CommandError, match="would destroy the data") as caught:
        command.downgrade(config(settings), f"{scope}@base")

    named = str(caught.value).partition("the data in ")[2].partition(";")[0].split(", ")
    assert set(named) <= ROWS[scope].keys()
    assert contents(settings) == rows
    assert describe(settings) == schema


def test_one_track_with_rows_stops_the_downgrade_of_all(settings: Settings) -> None:
    insert_rows(settings, SCOPES[-1])
    rows, schema = contents(settings), describe(settings)

    with pytest.raises(CommandError, match="would destroy the data"):
        command.downgrade(config(settings), "base")

    assert contents(settings) == rows
    assert describe(settings) == schema


def test_the_command_line_refuses_and_obeys_the_override(settings: Settings) -> None:
    insert_rows(settings)
    rows = contents(settings)

    out, _ = alembic(settings, "downgrade", "registry@base", fails=True)

    newest = revisions_of("registry")[-1]
    assert f"FAILED: downgrade of {newest} would destroy the data in registry_" in out
    assert "alembic -x allow-data-loss=yes downgrade" in out
    assert contents(settings) == rows

    alembic(settings, "-x", "allow-data-loss=yes", "downgrade", "registry@base")

    left = contents(settings)
    assert not [table for table in left if table.startswith("registry_")]
    others = [table for table in rows if table.startswith(("access_", "idempotency_"))]
    assert {table: left[table] for table in others} == {table: rows[table] for table in others}
    assert len(left["schema_journal"]) == len(rows["schema_journal"]) + len(
        revisions_of("registry")
    )


@pytest.mark.parametrize("value", ["no", "true", "YES"])
def test_only_yes_overrides(value: str, settings: Settings) -> None:
    insert_rows(settings)
    options = config(settings)
    assert options.cmd_opts is not None
    options.cmd_opts.x = [f"allow-data-loss={value}"]

    with pytest.raises(CommandError, match="would destroy the data"):
        command.downgrade(options, "registry@base")


@pytest.mark.parametrize("scope", SCOPES)
def test_empty_tables_go_without_asking(scope: str, settings: Settings) -> None:
    insert_rows(settings, *(other for other in SCOPES if other != scope))

    command.downgrade(config(settings), f"{scope}@base")

    assert not [table for table in contents(settings) if table.startswith(f"{scope}_")]


def test_a_column_that_holds_data_is_guarded_like_a_table(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "release").mkdir()
    home = copy_migrations(tmp_path / "release")
    column = 'sa.Column("nickname", sa.String(8))'
    add_revision(
        home,
        "access",
        f'op.add_column("access_owners", {column})',
        'op.drop_column("access_owners", "nickname")',
    )
    command.upgrade(config(settings, home), "access@head")
    insert_rows(settings, "access")
    rows = contents(settings)

    with pytest.raises(CommandError, match=r"the data in access_owners\.nickname;"):
        command.downgrade(config(settings, home), "access@-1")
    assert contents(settings) == rows

    command.downgrade(config(settings, home, allow_data_loss=True), "access@-1")
    assert len(contents(settings)["access_owners"]) == 1


def test_the_guard_looks_in_the_transaction_that_drops(settings: Settings) -> None:
    # Otherwise rows that a running service inserts between the two would be lost without a word.
    events: list[str] = []

    def began(_connection: sa.Connection) -> None:
        events.append("begin")

    def executed(_connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if match := re.search(r"\b(FROM|DROP TABLE) idempotency_keys\b", statement):
            events.append(match[1])

    sa.event.listen(sa.Engine, "begin", began)
    sa.event.listen(sa.Engine, "before_cursor_execute", executed)
    try:
        command.downgrade(config(settings), "idempotency@base")
    finally:
        sa.event.remove(sa.Engine, "begin", began)
        sa.event.remove(sa.Engine, "before_cursor_execute", executed)

    assert events[-3:] == ["begin", "FROM", "DROP TABLE"]
