"""The engines for both databases: how connections are opened, and transactions begin and end.

A database has two engines. The writer's transactions take the locks that writing needs; the
reader's connections refuse writes.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Collection
from typing import Any, NoReturn

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from app.config import Settings

# SQLSTATEs of a server that is another's standby now, that is stopping, or that is starting: its
# connections lead nowhere, and a new one may lead to the server that took its place.
NOT_THE_PRIMARY = {"25006", "57P01", "57P02", "57P03"}
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# A timeout would end the wait for a synchronous standby, and so make visible what may yet be lost.
COMMIT = "SET LOCAL statement_timeout TO 0; COMMIT"
# Of a connection: whether statements are prepared, and whether a commit is on one server only.
PREPARED, UNREPLICATED = "prepared", "unreplicated"


def postgresql_engines(settings: Settings) -> tuple[Engine, Engine]:
    """Return the writer and the reader on PostgreSQL."""
    limits = {
        "timezone": "UTC",
        "lock_timeout": settings.lock_timeout_ms,
        "statement_timeout": settings.statement_timeout_ms,
        "idle_in_transaction_session_timeout": settings.statement_timeout_ms,
    }
    # Writes go by key. A plan kept from when a table was small would read all of it for as long as
    # nobody analyses the table.
    writing = limits | {"enable_seqscan": "off"}
    writer = _postgresql_engine(settings, writing, isolation_level="READ COMMITTED")
    reader = _postgresql_engine(
        settings,
        limits | {"default_transaction_read_only": "on"},
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )
    begin = BEGIN
    if settings.transaction_pooler:
        begin += "".join(f"; SET LOCAL {name} TO '{value}'" for name, value in writing.items())
    # Transactions begin and end here, because statements that go to libpq directly are none of the
    # driver's: it would begin too late, and it drops all prepared statements after a rollback.
    event.listen(writer, "begin", lambda connection: _control(connection, begin))
    event.listen(writer, "commit", _commit)
    event.listen(writer, "rollback", _roll_back)
    event.listen(writer, "handle_error", _notice_failover)
    event.listen(writer, "connect", _watch_replication)
    return writer, reader


def _postgresql_engine(settings: Settings, options: dict[str, Any], **arguments: Any) -> Engine:
    connect_args: dict[str, Any] = {
        "connect_timeout": 5,
        "application_name": "agenthub",
        "client_encoding": "UTF8",
        # Of several hosts in the URL it is the one that is nobody's standby.
        "target_session_attrs": "primary",
        # A host that vanished says nothing; it is given up after 15 to 25 seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    if settings.transaction_pooler:
        # Behind such a pooler a session lasts as long as a transaction.
        connect_args["prepare_threshold"] = None
    else:
        connect_args["options"] = " ".join(f"-c {name}={value}" for name, value in options.items())
    return create_engine(
        settings.url,
        # What a statement was given, secrets among it, has no place in errors and logs.
        hide_parameters=True,
        connect_args=connect_args,
        # The server runs a thread more than it is told at times; no connection ends with that.
        pool_size=2 * settings.threads,
        max_overflow=0,
        pool_timeout=10,
        execution_options={PREPARED: not settings.transaction_pooler},
        **arguments,
    )


def _control(connection: Connection, command: str) -> Any:
    """Send a command that begins or ends a transaction and return its result.

    Raises what SQLAlchemy would.
    """
    libpq: Any = connection.connection.dbapi_connection.pgconn  # type: ignore[union-attr]
    result = libpq.exec_(command.encode())
    if result.status != ExecStatus.COMMAND_OK:
        raise_translated(connection, error_of(result), command)
    return result


def _commit(connection: Connection) -> None:
    """Commit, and raise ``DBAPIError`` unless what was committed will stay.

    PostgreSQL gives no error when a statement of the transaction had failed and it rolled back
    instead, nor when an administrator ended the wait for a synchronous standby. The second has then
    happened, on this server at least, and is found under its key when the write is repeated.
    """
    connection.info.pop(UNREPLICATED, None)
    result = _control(connection, COMMIT)
    if result.command_status != b"COMMIT":
        failed = psycopg.InternalError("the transaction had failed and was rolled back")
        raise_translated(connection, failed, COMMIT)
    if connection.info.pop(UNREPLICATED, False):
        alone = psycopg.OperationalError("no synchronous standby confirmed the transaction")
        raise_translated(connection, alone, COMMIT)


def _watch_replication(connection: psycopg.Connection[Any], entry: ConnectionPoolEntry) -> None:
    """Note when PostgreSQL warns that a commit is only on this server.

    It has no SQLSTATE of its own, and its text depends on the server's language; no other warning
    comes with a COMMIT that worked.
    """

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            entry.info[UNREPLICATED] = True

    connection.add_notice_handler(note)


def _roll_back(connection: Connection) -> None:
    if connection.invalidated:
        return
    libpq: Any = connection.connection.dbapi_connection.pgconn  # type: ignore[union-attr]
    if libpq.status == ConnStatus.OK:
        _control(connection, "ROLLBACK")


def _notice_failover(context: ExceptionContext) -> None:
    if getattr(context.original_exception, "sqlstate", None) in NOT_THE_PRIMARY:
        context.is_disconnect = True


def error_of(result: Any) -> psycopg.Error:
    """Return the error that a result of PostgreSQL's C library stands for."""
    if result.error_field(DiagnosticField.SQLSTATE) is None:
        return psycopg.OperationalError(result.get_error_message())
    return psycopg.errors.error_from_result(result)


def raise_translated(connection: Connection, error: Exception, sql: str) -> NoReturn:
    """Raise a driver's error as SQLAlchemy does; a lost connection takes the pool's others along.

    The others lead to the same server, which went away since they were opened.
    """
    dialect, driver = connection.dialect, connection.connection.dbapi_connection
    lost = (
        dialect.is_disconnect(error, driver, None)  # type: ignore[arg-type]
        or getattr(error, "sqlstate", None) in NOT_THE_PRIMARY
    )
    if lost:
        connection.invalidate(error)
        connection.engine.dispose()
    raise DBAPIError.instance(
        sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect
    ) from error


def sqlite_engines(settings: Settings) -> tuple[Engine, Engine]:
    """Return the writer and the reader on SQLite."""

    def engine() -> Engine:
        return create_engine(
            settings.url,
            # What a statement was given, secrets among it, has no place in errors and logs.
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": settings.lock_timeout_ms / 1000},
            # The server runs a thread more than it is told at times; no connection ends with that.
            pool_size=2 * settings.threads,
            max_overflow=0,
            pool_timeout=10,
        )

    writer, reader = engine(), engine()

    @event.listens_for(writer, "connect")
    def prepare_writer(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        configure_sqlite(connection)
        # Waiting for the write lock is done by ``begin_immediate``, which is fair and bounded.
        connection.execute("PRAGMA busy_timeout=0")

    @event.listens_for(writer, "begin")
    def begin(connection: Connection) -> None:
        begin_immediate(connection, settings.lock_timeout_ms)

    @event.listens_for(reader, "connect")
    def prepare_reader(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.execute("PRAGMA query_only=ON")

    return writer, reader


def configure_sqlite(connection: sqlite3.Connection) -> None:
    """Set what every writing connection needs.

    FULL makes an acknowledged commit survive a power failure. ``recursive_triggers`` makes
    ``INSERT OR REPLACE`` fire the delete triggers that keep append-only tables append-only.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA recursive_triggers=ON")


def begin_immediate(connection: Connection, timeout_ms: int) -> None:
    """Begin a SQLite transaction that holds the write lock.

    SQLite's own busy handler backs off to 100 ms and lets a busy writer starve another for seconds;
    asking again at short random intervals keeps the longest wait near the mean and needs no side
    file. The statement goes to the driver directly: SQLAlchemy would wrap each refusal in an
    exception of its own, which costs several times as much as the refusal.
    Raises ``OperationalError`` ("database is locked") after ``timeout_ms``.
    """
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not is_lock_timeout(error) or time.monotonic() >= deadline:
                raise_translated(connection, error, "BEGIN IMMEDIATE")
        time.sleep(random.uniform(0.0002, 0.001))  # noqa: S311 (not a secret)


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether a database error means that a lock was not free in time."""
    return _is_any(error, (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "55P03")


def is_full(error: BaseException) -> bool:
    """Tell whether a database error means that there is no space left to write to."""
    return _is_any(error, (sqlite3.SQLITE_FULL,), "53100")


def is_read_only(error: BaseException) -> bool:
    """Tell whether a database error means that SQLite may not write its file.

    A server of PostgreSQL that takes no writes is another's standby, and so not the one to ask.
    """
    return _is_any(error, (sqlite3.SQLITE_READONLY,), None)


def _is_any(error: BaseException, sqlite_codes: Collection[int], sqlstate: str | None) -> bool:
    """Tell whether an error, of a driver or as SQLAlchemy raises it, is one of these."""
    original = getattr(error, "orig", None) or error
    # The lower byte is the primary code; SQLite's own errors alone have one.
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in sqlite_codes
    return sqlstate is not None and getattr(original, "sqlstate", None) == sqlstate


def is_retryable(error: DBAPIError) -> bool:
    """Tell whether a transaction may do well if it runs again.

    PostgreSQL undid it because it met another (40001, 40P01), or its connection was lost, which
    happens to every pooled one when the database is restarted.
    """
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state in ("40001", "40P01")
