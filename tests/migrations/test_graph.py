"""The shape of the tracks: independent, linear, numbered, and named alike everywhere."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from app import scopes
from app.config import Settings
from app.scopes import SCOPES, scope_of_table
from tests.migrations.project import ROOT, connect, revision_files


@pytest.fixture(scope="module")
def script() -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))


@pytest.fixture(scope="module")
def revisions(script: ScriptDirectory) -> list[Script]:
    found = list(script.walk_revisions())
    # A file Alembic does not see (a wrong folder, a duplicate id) would escape every other test.
    assert sorted(Path(r.path) for r in found) == revision_files()
    return found


def test_every_scope_has_one_base_and_one_head(script: ScriptDirectory) -> None:
    bases = script.get_revisions(script.get_bases())

    assert sorted(label for base in bases for label in base._orig_branch_labels) == sorted(SCOPES)
    assert len(bases) == len(script.get_heads()) == len(SCOPES)


def test_only_a_base_carries_a_label(revisions: list[Script]) -> None:
    for revision in revisions:
        own = set(revision._orig_branch_labels)
        scope = revision.revision.rpartition("_")[0]
        assert own == ({scope} if revision.is_base else set()), revision.path


def test_tracks_are_linear_and_independent(revisions: list[Script]) -> None:
    for revision in revisions:
        scope, _, number = revision.revision.rpartition("_")
        assert not revision.is_branch_point, revision.path
        assert not revision.is_merge_point, revision.path
        assert revision.dependencies is None, revision.path
        parent = f"{scope}_{int(number) - 1:04d}" if int(number) > 1 else None
        assert revision.down_revision == parent, revision.path


def test_files_are_named_and_placed_by_scope(revisions: list[Script]) -> None:
    for revision in revisions:
        path = Path(revision.path)
        scope = path.parent.name
        assert scope in SCOPES
        assert re.fullmatch(rf"{scope}_[0-9]{{4}}", revision.revision), path
        assert re.fullmatch(rf"{revision.revision}_[a-z0-9_]+\.py", path.name), path


@pytest.mark.parametrize("path", revision_files(), ids=lambda path: path.stem)
def test_revisions_import_nothing_of_the_application(path: Path) -> None:
    # A revision must do tomorrow what it does today, whatever becomes of the models.
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
    roots = {name.partition(".")[0] for name in names}
    assert roots <= {"alembic", "sqlalchemy"} | sys.stdlib_module_names


def test_configuration_names_exactly_the_scopes() -> None:
    versions = {f"alembic/versions/{scope}" for scope in SCOPES}
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "alembic/versions").iterdir()} == versions

    alembic_ini = configparser.ConfigParser(defaults={"here": "."})
    alembic_ini.read(ROOT / "alembic.ini")
    locations = alembic_ini["alembic"]["version_locations"].split()
    assert locations == [f"./alembic/versions/{scope}" for scope in SCOPES]

    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg")
    data_files = dict(setup_cfg["options.data_files"])
    assert data_files.pop("share/agenthub") == "alembic.ini"
    assert data_files.pop("share/agenthub/alembic") == "alembic/env.py, alembic/script.py.mako"
    assert data_files == {f"share/agenthub/{folder}": f"{folder}/*.py" for folder in versions}


def test_the_migrations_are_no_package() -> None:
    # The folder would hide the library of the same name from everything run beside it.
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_every_table_belongs_to_a_scope() -> None:
    for name, table in scopes.metadata().tables.items():
        scope = scope_of_table(name)
        assert scope is not None, name
        for foreign_key in table.foreign_keys:
            assert foreign_key.target_fullname.startswith(f"{scope}_"), foreign_key


def test_every_constraint_and_index_has_a_name() -> None:
    for table in scopes.metadata().tables.values():
        for constraint in table.constraints | table.indexes:
            assert constraint.name, f"{table.name}: {constraint!r}"


def test_no_foreign_key_of_the_database_crosses_scopes(settings: Settings) -> None:
    with connect(settings) as connection:
        inspector = sa.inspect(connection)
        references = [
            (table, foreign["referred_table"])
            for table in inspector.get_table_names()
            for foreign in inspector.get_foreign_keys(table)
        ]
    assert references
    assert all(scope_of_table(table) == scope_of_table(other) for table, other in references)


def _named_keys(inspector: sa.Inspector, table: str) -> list[Any]:
    """Return a table's primary key, unless it is one that cannot be named.

    SQLite takes AUTOINCREMENT only within the column, where SQLAlchemy writes no name.
    """
    on_sqlite = inspector.bind.dialect.name == "sqlite"
    options = scopes.metadata().tables[table].dialect_options["sqlite"]
    nameless = on_sqlite and options["autoincrement"]
    return [] if nameless else [inspector.get_pk_constraint(table)]


def test_no_constraint_of_the_database_is_without_a_name(settings: Settings) -> None:
    with connect(settings) as connection:
        inspector = sa.inspect(connection)
        for table in filter(scope_of_table, inspector.get_table_names()):
            constraints = [
                *_named_keys(inspector, table),
                *inspector.get_foreign_keys(table),
                *inspector.get_unique_constraints(table),
                *inspector.get_check_constraints(table),
            ]
            assert [c for c in constraints if not c["name"]] == [], table
