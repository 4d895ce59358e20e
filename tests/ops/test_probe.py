"""Readiness asks by writing, seldom, and says what is in the way."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.config import Settings
from app.db import Database
from app.engines import begin_immediate
from app.http.context import Services
from app.ops import probe
from app.ops.doctor import examine
from app.ops.probe import WriteProbe, code_of, find_fault
from tests.client import Api
from tests.migrations.project import contents
from tests.postgres import PostgresServer


def sqlite_error(path: Path, prepare: str, statement: str) -> sqlite3.Error:
    """Return the error that SQLite itself raises."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(prepare)
        connection.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("no error")


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize(
    ("prepare", "code"),
    [("PRAGMA query_only=ON", "database_read_only"), ("PRAGMA max_page_count=1", "storage_full")],
)
def test_errors_of_sqlite_have_codes(
    prepare: str, code: str, settings: Settings, acme: Api, services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    statement = "CREATE TABLE more AS SELECT randomblob(100000)"
    error = sqlite_error(Path(str(settings.url.database)), prepare, statement)
    raised = OperationalError(statement, None, error)
    assert code_of(error) == code_of(raised) == code

    def fail(_: Database) -> None:
        raise raised

    monkeypatch.setattr(probe, "_write_sqlite", fail)
    answer = acme.get("/readyz")
    assert (answer.status_code, answer.get_json()["fault"]) == (503, code)
    assert answer.get_json()["status"] == "unavailable"
    assert {one.subject: one.ok for one in examine(settings)}["writes"] is False


def test_a_lock_that_others_hold_is_no_fault(settings: Settings) -> None:
    database, other = Database(settings), Database(settings)
    try:
        with other.transaction() as session:
            if settings.is_sqlite:
                session.connection()
            assert find_fault(database) is None
    finally:
        database.dispose()
        other.dispose()


def test_asking_changes_nothing(settings: Settings) -> None:
    before = contents(settings)
    database = Database(settings)
    assert find_fault(database) is None
    database.dispose()
    assert contents(settings) == before


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_server_that_takes_no_writes_is_not_ready(
    settings: Settings, anyone: Api, services: Services, postgres: PostgresServer
) -> None:
    assert anyone.get("/readyz").status_code == 200
    database = Database(settings)
    with database.transaction() as session:
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    services.database.dispose()
    services.write_probe._asked_at = None
    answer = anyone.get("/readyz")
    assert (answer.status_code, answer.get_json()["fault"]) == (503, "database_unavailable")
    database.dispose()


def test_a_process_asks_once_in_a_while(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = [], iter([None, "storage_full", None])
    now = 100.0
    monkeypatch.setattr(probe, "find_fault", lambda _: asked.append(now) or next(answers))
    monkeypatch.setattr(probe.time, "monotonic", lambda: now)
    found = WriteProbe()
    seen = []
    for now in (100.0, 100.5, 100.9, 101.0, 101.5, 102.1, 102.2):  # noqa: B007
        seen.append(found.fault(services.database))
    assert asked == [100.0, 101.0, 102.1]
    assert seen == [None, None, None, "storage_full", "storage_full", None, None]


def test_nobody_waits_for_somebody_elses_question(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asking, go_on = WriteProbe(), threading.Event(), threading.Event()
    assert found.fault(services.database) is None

    def ask(_: Database) -> str:
        asking.set()
        go_on.wait(20)
        return "storage_full"

    monkeypatch.setattr(probe, "find_fault", ask)
    monkeypatch.setattr(probe, "CACHE_SECONDS", 0.0)
    thread = threading.Thread(target=found.fault, args=(services.database,))
    thread.start()
    assert asking.wait(20)
    assert found.fault(services.database) is None
    go_on.set()
    thread.join()
    assert found._fault == "storage_full"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_refused_transaction_leaves_no_lock_behind(settings: Settings, tmp_path: Path) -> None:
    database, other = Database(settings), Database(settings)
    path = Path(str(settings.url.database))
    statement = text("UPDATE alembic_version SET version_num = version_num")
    with database.transaction() as session:
        session.execute(statement)
    path.rename(tmp_path / "elsewhere")
    for moment in ("begin", "commit"):
        if moment == "commit":
            (tmp_path / "elsewhere").rename(path)

        def write(moment: str = moment) -> None:
            with database.transaction() as session:
                session.execute(statement)
                if moment == "commit":
                    path.rename(tmp_path / "elsewhere")

        with pytest.raises(probe.DatabaseFileReplaced):
            write()
    (tmp_path / "elsewhere").rename(path)
    with other.writer.connect() as connection:
        begin_immediate(connection, 1)
        connection.connection.driver_connection.execute("ROLLBACK")  # type: ignore[union-attr]
    with database.transaction() as session:
        session.execute(statement)
    database.dispose()
    other.dispose()


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_log_that_is_gone_takes_no_commit(settings: Settings) -> None:
    database = Database(settings)
    statement = text("UPDATE alembic_version SET version_num = version_num")

    def write() -> None:
        with database.transaction() as session:
            session.execute(statement)

    write()
    assert find_fault(database) is None
    Path(f"{settings.url.database}-wal").unlink()
    with pytest.raises(probe.DatabaseFileReplaced, match="its write-ahead log was"):
        write()
    assert find_fault(database) == "database_file_replaced"
    database.dispose()
    # Another log is another matter once nobody has this one open.
    write()
    assert find_fault(database) is None
    database.dispose()
