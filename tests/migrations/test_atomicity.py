"""A command that fails leaves the database exactly as it found it, whichever step failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command

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
from tests.migrations.rows import insert_rows
from tests.migrations.schema import describe

GOOD = 'op.create_table("{0}_whole", sa.Column("id", sa.Integer, primary_key=True))'
RAISES = (
    'op.create_table("{0}_half", sa.Column("id", sa.Integer, primary_key=True))\n'
    '    op.execute("INSERT INTO {0}_half VALUES (1)")\n'
    '    raise RuntimeError("the step failed half-way")'
)
REFUSED = (
    'op.create_table("{0}_half", sa.Column("id", sa.Integer, primary_key=True))\n'
    '    op.execute("INSERT INTO {0}_missing VALUES (1)")'
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    return copy_migrations(folder)


def add_failing_revision(home: Path, scope: str, step: str) -> None:
    """Add a failing revision to the track ``scope`` and a good one to every other track."""
    for other in SCOPES:
        add_revision(home, other, (step if other == scope else GOOD).format(other))


@pytest.mark.parametrize("step", [RAISES, REFUSED], ids=["raises", "refused"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_failing_upgrade_of_an_empty_database_leaves_it_empty(
    scope: str, step: str, empty_settings: Settings, home: Path
) -> None:
    add_failing_revision(home, scope, step)

    with pytest.raises(Exception, match=r"half-way|_missing"):
        command.upgrade(config(empty_settings, home), "heads")

    assert contents(empty_settings) == {}
    assert describe(empty_settings) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_failing_upgrade_of_a_database_in_use_changes_nothing(
    scope: str, settings: Settings, home: Path
) -> None:
    insert_rows(settings)
    rows, schema = contents(settings), describe(settings)
    add_failing_revision(home, scope, RAISES)

    with pytest.raises(RuntimeError, match="half-way"):
        command.upgrade(config(settings, home), "heads")

    assert contents(settings) == rows
    assert describe(settings) == schema


def test_the_steps_that_did_not_fail_would_have_been_applied(
    empty_settings: Settings, home: Path
) -> None:
    # Without this the tests above could pass because nothing was run at all.
    for scope in SCOPES:
        add_revision(home, scope, GOOD.format(scope))

    command.upgrade(config(empty_settings, home), "heads")

    assert {f"{scope}_whole" for scope in SCOPES} <= contents(empty_settings).keys()


def test_a_failing_downgrade_changes_nothing(settings: Settings, home: Path) -> None:
    # The first step down succeeds, the second fails: neither may stay.
    scope = SCOPES[0]
    add_revision(home, scope, "pass", "raise RuntimeError('the step failed half-way')")
    add_revision(home, scope, GOOD.format(scope), f'op.drop_table("{scope}_whole")')
    command.upgrade(config(settings, home), f"{scope}@head")
    rows, schema = contents(settings), describe(settings)

    with pytest.raises(RuntimeError, match="half-way"):
        command.downgrade(config(settings, home), f"{scope}@{revisions_of(scope)[0]}")

    assert contents(settings) == rows
    assert describe(settings) == schema


def test_the_command_line_reports_the_failure(empty_settings: Settings, home: Path) -> None:
    add_failing_revision(home, SCOPES[-1], RAISES)

    _, err = alembic(empty_settings, "upgrade", "heads", home=home, fails=True)

    assert "RuntimeError: the step failed half-way" in err
    assert contents(empty_settings) == {}


def test_a_step_may_not_leave_dangling_references(settings: Settings, home: Path) -> None:
    insert_rows(settings)
    rows = contents(settings)
    scope = SCOPES[0]
    add_revision(home, scope, 'op.execute("DELETE FROM access_owners")')

    with pytest.raises(Exception, match=r"dangling|fk_access_api_keys_owner_id"):
        command.upgrade(config(settings, home), f"{scope}@head")

    assert contents(settings) == rows
