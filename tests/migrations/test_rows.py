"""The sample rows cover the whole schema, or the tests that use them would prove less."""

from __future__ import annotations

from app import scopes
from app.config import Settings
from tests.migrations.project import contents
from tests.migrations.rows import ROWS, insert_rows, rows_of


def test_every_table_has_a_row(settings: Settings) -> None:
    tables = {name for rows in ROWS.values() for name in rows}
    assert tables == set(scopes.metadata().tables)

    insert_rows(settings)

    rows = contents(settings)
    expected = {name: len(rows_of(scope, name)) for scope in ROWS for name in ROWS[scope]}
    assert min(expected.values()) == 1
    assert {name: len(rows[name]) for name in tables} == expected
