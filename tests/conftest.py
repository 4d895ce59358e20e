"""Fixtures of every suite: two real databases, each test on a fresh copy of its own."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from flask import Flask, Response, request

from app import create_app
from app.access.service import create_key
from app.config import Settings
from app.http.context import EXTENSION, Services
from app.ops.tracks import upgrade_all
from tests.client import Api, Contract
from tests.postgres import Copies, PostgresServer

DIALECTS = ("sqlite", "postgresql")

# A change is judged by the same examples every time; at a desk every run looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")
PEPPER = "pepper-of-the-tests-0123456789abcdef"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test marked ``alone`` while no other process runs a test, so that it may compare times.

    Whoever waits to be alone holds the door: those who share the room cannot keep it for ever.
    """
    alone = item.get_closest_marker("alone") is not None
    place = Path(tempfile.gettempdir(), f"agenthub-tests-{os.getuid()}")
    with place.with_suffix(".door").open("w") as door, place.with_suffix(".room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests of a worker process."""
    server = PostgresServer()
    yield server
    server.destroy()


def settings_for(url: str, folder: Path, **overrides: object) -> Settings:
    """Return settings of a service on the database ``url`` with its data in ``folder``."""
    values: dict[str, object] = {
        "database_url": Settings.from_env({"AGENTHUB_DATABASE_URL": url}).database_url,
        "data_dir": folder,
        "key_pepper": PEPPER,
        "log_level": "error",
        "rate_limit_per_minute": 0,
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


@pytest.fixture(scope="session")
def postgresql_copies(postgres: PostgresServer, postgresql_template: str) -> Copies:
    """Copies of the migrated PostgreSQL database."""
    return Copies(postgres, postgresql_template)


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
    copies: Copies = request.getfixturevalue("postgresql_copies")
    name = copies.take()
    yield settings_for(server.url(name), tmp_path)
    copies.give_back(name)


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """The application on a fresh database; its errors are problems, as in production."""
    application = create_app(settings)
    rule_of(application)
    yield application
    application.extensions[EXTENSION].database.dispose()


def rule_of(application: Flask) -> None:
    """Let the test client know which documented route answered."""

    @application.after_request
    def note(response: Response) -> Response:
        if request.url_rule is not None:
            documented = re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", request.url_rule.rule)
            request.environ["agenthub.rule"] = documented
        return response


@pytest.fixture
def services(app: Flask) -> Services:
    """The application's settings, database and secrets."""
    found: Services = app.extensions[EXTENSION]
    return found


_contract: Contract | None = None


@pytest.fixture
def contract(app: Flask) -> Contract:
    """The OpenAPI document that every answer is held to; it is the same for every application."""
    global _contract
    if _contract is None:
        _contract = Contract(app)
    return _contract


@pytest.fixture
def caller(app: Flask, contract: Contract, services: Services) -> Callable[..., Api]:
    """Make callers: ``caller("acme")`` has a developer key of the owner ``acme``."""

    def make(owner: str | None, role: str = "developer") -> Api:
        if owner is None:
            return Api(app.test_client(), contract, None)
        with services.database.transaction() as session:
            key = create_key(session, services.pepper, owner, role)
        return Api(app.test_client(), contract, key.secret)

    return make


@pytest.fixture
def acme(caller: Callable[..., Api]) -> Api:
    """A developer of the owner ``acme``."""
    return caller("acme")


@pytest.fixture
def globex(caller: Callable[..., Api]) -> Api:
    """A developer of another owner."""
    return caller("globex")


@pytest.fixture
def anyone(caller: Callable[..., Api]) -> Api:
    """A caller without an API key."""
    return caller(None)
