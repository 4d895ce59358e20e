"""Fixtures of the tests of snapshots: a filled database, and databases to restore into."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from app.config import Settings
from app.db import Database
from app.ops.snapshot.archive import open_snapshot
from app.ops.snapshot.create import create
from app.ops.snapshot.manifest import Manifest
from app.ops.snapshot.progress import Silence
from app.ops.snapshot.restore import Restored, restore
from tests.conftest import settings_for
from tests.ops.place import Place, fill
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Place]:
    """Fill a database of each kind once; tests use copies."""

    @cache
    def fill_one(dialect: str) -> Place:
        folder = tmp_path_factory.mktemp("place")
        if dialect == "sqlite":
            shutil.copy(request.getfixturevalue("sqlite_template"), folder / "agenthub.db")
            return fill(settings_for(f"sqlite:///{folder / 'agenthub.db'}", folder))
        server: PostgresServer = request.getfixturevalue("postgres")
        name = server.create_database(request.getfixturevalue("postgresql_template"))
        return fill(settings_for(server.url(name), folder))

    return fill_one


@pytest.fixture
def place(
    dialect: str, filled: Callable[[str], Place], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Place]:
    """A filled database."""
    original = filled(dialect)
    # Each test remembers its own writes.
    original = replace(original, answers=dict(original.answers))
    source = str(original.settings.url.database)
    if dialect == "sqlite":
        shutil.copy(source, tmp_path / "agenthub.db")
        settings = settings_for(f"sqlite:///{tmp_path / 'agenthub.db'}", tmp_path)
        yield replace(original, settings=settings)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database(source)
    yield replace(original, settings=settings_for(server.url(name), tmp_path))
    server.drop_database(name)


@pytest.fixture
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Settings]]:
    """Make settings of an absent database, or of a migrated and empty one."""
    made: list[str] = []

    def make(dialect: str, *, migrated: bool = False) -> Settings:
        folder = tmp_path_factory.mktemp("target")
        if dialect == "sqlite":
            path = folder / "agenthub.db"
            if migrated:
                shutil.copy(request.getfixturevalue("sqlite_template"), path)
            return settings_for(f"sqlite:///{path}", folder)
        server: PostgresServer = request.getfixturevalue("postgres")
        template = request.getfixturevalue("postgresql_template") if migrated else None
        made.append(server.create_database(template))
        return settings_for(server.url(made[-1]), folder)

    yield make
    for name in made:
        request.getfixturevalue("postgres").drop_database(name)


def take(settings: Settings, file: Path) -> Manifest:
    """Write a snapshot of a database."""
    database = Database(settings)
    try:
        return create(database, file, Silence())
    finally:
        database.dispose()


def bring_back(settings: Settings, file: Path) -> Restored:
    """Restore a snapshot into a database."""
    with open_snapshot(file) as snapshot:
        return restore(settings, snapshot, Silence())
