"""Fixtures of every suite: two real databases, each test on a fresh copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.config import Settings
from app.ops.tracks import upgrade_all
from tests.postgres import PostgresServer

DIALECTS = ("sqlite", "postgresql")
PEPPER = "pepper-of-the-tests-0123456789abcdef"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests of a worker process."""
    server = PostgresServer()
    yield server
    server.destroy()


def settings_for(url: str, folder: Path, **overrides: object) -> Settings:
    """Return settings of a service on the database ``url`` with its data in ``folder``."""
    values: dict[str, object] = {
        "database_url": make_url(url).set(
            drivername="sqlite" if url.startswith("sqlite") else "postgresql+psycopg"
        ),
        "data_dir": folder,
        "key_pepper": PEPPER,
        "log_level": "error",
    }
    return Settings(**(values | overrides))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy."""
    folder = tmp_path_factory.mktemp("template")
    path = folder / "agenthub.db"
    upgrade_all(settings_for(f"sqlite:///{path}", folder))
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated PostgreSQL database that tests copy."""
    name = postgres.create_database()
    upgrade_all(settings_for(postgres.url(name), tmp_path_factory.mktemp("template")))
    return name


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """The database a test runs on: each test that asks for it runs on both."""
    return str(request.param)


@pytest.fixture
def empty_settings(
    dialect: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Settings]:
    """Settings whose database has no tables yet."""
    if dialect == "sqlite":
        yield settings_for(f"sqlite:///{tmp_path / 'agenthub.db'}", tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database()
    yield settings_for(server.url(name), tmp_path)
    server.drop_database(name)


@pytest.fixture
def settings(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings whose database is migrated and empty."""
    if dialect == "sqlite":
        path = tmp_path / "agenthub.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield settings_for(f"sqlite:///{path}", tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database(request.getfixturevalue("postgresql_template"))
    yield settings_for(server.url(name), tmp_path)
    server.drop_database(name)
