"""Whatever path a database takes through the tracks, it arrives at the same schema."""

from __future__ import annotations

from itertools import permutations

import pytest
from alembic import command

from app.config import Settings
from app.scopes import SCOPES
from tests.migrations.project import alembic, config, contents, revisions_of
from tests.migrations.rows import insert_rows
from tests.migrations.schema import describe

# Every order of up to four scopes; of more, orders that put each scope first and last.
ORDERS = (
    list(permutations(SCOPES))
    if len(SCOPES) <= 4
    else [SCOPES[i:] + SCOPES[:i] for i in range(len(SCOPES))]
)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_track_alone_builds_its_part_of_the_schema(
    scope: str, empty_settings: Settings, migrated: list[str]
) -> None:
    command.upgrade(config(empty_settings), f"{scope}@head")

    expected = [line for line in migrated if line.startswith(f"{scope}_")]
    assert expected
    assert describe(empty_settings, scope) == expected
    others = {name for name in contents(empty_settings) if not name.startswith(f"{scope}_")}
    assert others == {"alembic_version", "schema_journal"}


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_tracks_in_any_order_build_the_same_schema(
    order: tuple[str, ...], empty_settings: Settings, migrated: list[str]
) -> None:
    for scope in order:
        command.upgrade(config(empty_settings), f"{scope}@head")

    assert describe(empty_settings) == migrated


@pytest.mark.parametrize("scope", SCOPES)
def test_every_revision_goes_up_down_and_up_again(
    scope: str, empty_settings: Settings, migrated: list[str]
) -> None:
    others = [other for other in SCOPES if other != scope]
    for other in others:
        command.upgrade(config(empty_settings), f"{other}@head")
    insert_rows(empty_settings, *others)
    rows = scope_rows(empty_settings, others)

    for revision in revisions_of(scope):
        before = describe(empty_settings, scope)
        command.upgrade(config(empty_settings), revision)
        after = describe(empty_settings, scope)
        assert after != before or revision != revisions_of(scope)[0]
        command.downgrade(config(empty_settings), f"{scope}@-1")
        assert describe(empty_settings, scope) == before
        command.upgrade(config(empty_settings), f"{scope}@+1")
        assert describe(empty_settings, scope) == after

    assert describe(empty_settings) == migrated
    assert scope_rows(empty_settings, others) == rows


def scope_rows(settings: Settings, scopes: list[str]) -> dict[str, list[str]]:
    """Return the rows of the tables of the given scopes, of which none is empty."""
    rows = {
        table: lines
        for table, lines in contents(settings).items()
        if table.startswith(tuple(f"{scope}_" for scope in scopes))
    }
    assert all(rows.values())
    return rows


def test_going_down_to_nothing_leaves_only_the_journal(settings: Settings) -> None:
    for scope in SCOPES:
        command.downgrade(config(settings), f"{scope}@base")

    rows = contents(settings)
    assert rows.keys() == {"alembic_version", "schema_journal"}
    assert rows["alembic_version"] == []
    leftovers = {line.split()[0] for line in describe(settings)}
    assert leftovers <= {"alembic_version", "schema_journal", "schema_journal_id_seq"}


def test_a_new_connection_sees_what_the_command_did(
    empty_settings: Settings, migrated: list[str]
) -> None:
    # Alembic reports success even when env.py leaves its transaction uncommitted, so neither the
    # exit code nor the connection that ran the steps proves anything.
    _, log = alembic(empty_settings, "upgrade", "heads")

    assert log.count("Running upgrade") == sum(len(revisions_of(scope)) for scope in SCOPES)
    assert describe(empty_settings) == migrated
    heads = sorted(revisions_of(scope)[-1] for scope in SCOPES)
    assert contents(empty_settings)["alembic_version"] == [repr((head,)) for head in heads]
