"""A downgrade does not destroy data unless it is told to."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from app.config import Settings
from app.scopes import SCOPES, scope_of_table
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
    assert {name.partition(".")[0] for name in named} <= ROWS[scope].keys()
    assert contents(settings) == rows
    assert describe(settings) == schema


# What names no track, or reads to Alembic as something on every track.
UNNAMED = {
    "base": "write out each that is to go, one by one: alembic downgrade access@base, alembic",
    "-1": "say which one goes down: alembic downgrade TRACK@-1",
    "-3": "alembic downgrade TRACK@-3",
    "+1": "alembic downgrade TRACK@-1",
    "delegation-1": "alembic downgrade delegation@-1",
    "registry-2": "alembic downgrade registry@-2",
    "registry_0001-1": "name it as TRACK@REVISION, TRACK@-1 or TRACK@base",
    "registry@registry_0002-1": "name it as TRACK@REVISION",
    "registry@access_0001": "access_0001 is a revision of the track access, not of registry",
    "registry@head": "name it as TRACK@REVISION",
    "registry": "name it as TRACK@REVISION",
    "registry_00": "name it as TRACK@REVISION",
    "heads": "name it as TRACK@REVISION",
    "billing@base": "where TRACK is access, delegation, idempotency, ledger, notification,",
    "registry@base ": "name it as TRACK@REVISION",
    "": "name it as TRACK@REVISION",
}


@pytest.mark.parametrize("flag", [None, "delegation", "yes"])
@pytest.mark.parametrize("target", UNNAMED)
def test_a_downgrade_names_one_track(target: str, flag: str | None, settings: Settings) -> None:
    insert_rows(settings)
    rows, schema = contents(settings), describe(settings)

    with pytest.raises(CommandError) as caught:
        command.downgrade(config(settings, allow_data_loss=flag), target)

    assert UNNAMED[target] in str(caught.value)
    assert contents(settings) == rows
    assert describe(settings) == schema


@pytest.mark.parametrize("target", ["base", "-1", "delegation-1"])
def test_an_empty_database_is_no_exception(target: str, settings: Settings) -> None:
    schema = describe(settings)

    with pytest.raises(CommandError, match="nothing was changed"):
        command.downgrade(config(settings), target)

    assert describe(settings) == schema


@pytest.mark.parametrize("target", UNNAMED)
def test_what_is_refused_online_is_refused_offline(target: str, settings: Settings) -> None:
    start = revisions_of("delegation")[-1]
    options = config(settings)
    options.output_buffer = written = StringIO()

    with pytest.raises(CommandError) as caught:
        command.downgrade(options, f"{start}:{target}", sql=True)

    assert UNNAMED[target] in str(caught.value)
    assert written.getvalue() == ""


def test_an_offline_downgrade_begins_on_the_track_it_goes_down(settings: Settings) -> None:
    options = config(settings)
    options.output_buffer = written = StringIO()

    for start in ("base", "heads", revisions_of("access")[-1]):
        with pytest.raises(CommandError):
            command.downgrade(options, f"{start}:registry@base", sql=True)
    assert written.getvalue() == ""

    command.downgrade(options, "registry@head:registry@base", sql=True)
    dropped = set(re.findall(r"DROP TABLE (\w+)", written.getvalue()))
    assert dropped
    assert all(table.startswith("registry_") for table in dropped)


def test_every_track_goes_where_each_is_written_out(settings: Settings) -> None:
    insert_rows(settings)

    for scope in SCOPES:
        command.downgrade(config(settings, allow_data_loss=scope), f"{scope}@base")

    assert contents(settings).keys() == {"alembic_version", "schema_journal"}


@pytest.mark.parametrize(
    "target", ["delegation@base", "delegation_0001", "delegation@delegation_0001"]
)
def test_the_refusal_prints_the_command_that_loses_no_more(target: str, settings: Settings) -> None:
    insert_rows(settings)
    rows = contents(settings)

    out, _ = alembic(settings, "-c", "alembic.ini", "downgrade", target, fails=True)

    (again,) = {line.partition("repeat with: alembic ")[2] for line in out.splitlines()} - {""}
    flag = ("-x", "allow-data-loss=delegation", "downgrade", target)
    assert again.split() == ["-c", "alembic.ini", *flag]
    assert contents(settings) == rows

    alembic(settings, *again.split())

    left = contents(settings)
    kept = [table for table in rows if scope_of_table(table) not in (None, "delegation")]
    assert {table: left[table] for table in kept} == {table: rows[table] for table in kept}
    assert left["alembic_version"] != rows["alembic_version"]


def test_the_command_line_refuses_and_obeys_the_override(settings: Settings) -> None:
    insert_rows(settings)
    rows = contents(settings)

    out, _ = alembic(settings, "downgrade", "registry@base", fails=True)

    newest = revisions_of("registry")[-1]
    assert f"FAILED: downgrade of {newest} would destroy the data in registry_" in out
    assert "alembic -x allow-data-loss=registry downgrade registry@base" in out
    assert contents(settings) == rows

    alembic(settings, "-x", "allow-data-loss=registry", "downgrade", "registry@base")

    left = contents(settings)
    assert not [table for table in left if table.startswith("registry_")]
    others = [table for table in rows if table.startswith(("access_", "idempotency_"))]
    assert {table: left[table] for table in others} == {table: rows[table] for table in others}
    assert len(left["schema_journal"]) == len(rows["schema_journal"]) + len(
        revisions_of("registry")
    )


@pytest.mark.parametrize("value", ["yes", "no", "YES", "access", "registry,access", ""])
def test_the_flag_names_the_track_that_may_lose_data(value: str, settings: Settings) -> None:
    insert_rows(settings)
    rows = contents(settings)
    options = config(settings)
    assert options.cmd_opts is not None
    options.cmd_opts.x = [f"allow-data-loss={value}"]

    with pytest.raises(CommandError, match="-x allow-data-loss=registry, not") as caught:
        command.downgrade(options, "registry@base")

    assert f"not {value};" in str(caught.value)
    assert contents(settings) == rows


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

    command.downgrade(config(settings, home, allow_data_loss="access"), "access@-1")
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
