"""The database: declarative base, engines for both dialects, and the two ways to use them.

``Database.transaction`` is the only way to write: it commits when its block returns and rolls back
when it raises. ``Database.read`` gives a connection that the database itself keeps read-only.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    MetaData,
    String,
    TypeDecorator,
    create_engine,
    event,
    literal_column,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.config import Settings

# Alembic and the drift tests recognise a constraint by its name, so every constraint has one.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


BEGIN, COMMIT, ROLLBACK = b"BEGIN ISOLATION LEVEL READ COMMITTED", b"COMMIT", b"ROLLBACK"


class Base(DeclarativeBase):
    """Base of every entity."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class UTCDateTime(TypeDecorator[datetime]):
    """A moment in UTC: TIMESTAMPTZ on PostgreSQL, ISO text in UTC on SQLite, aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time must be timezone-aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def bytewise(length: int) -> String:
    """Return a text type that both databases compare byte by byte.

    Keyset pagination and SemVer keys need one order on every database; PostgreSQL would otherwise
    use the locale the cluster was created with.
    """
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class Database:
    """The engines of one process.

    ``writer`` runs read-write transactions. ``reader`` runs single statements, each its own
    transaction, on connections that refuse writes.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.is_sqlite:
            self.writer, self.reader = _sqlite_engines(settings)
        else:
            self.writer, self.reader = _postgresql_engines(settings)
        self._idle: list[Connection] = []

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Run one read-write transaction: commit when the block returns, roll back when it raises.

        On SQLite the write lock is taken at the first statement; ``OperationalError`` is raised
        when it is not free within ``lock_timeout_ms``.
        """
        with Session(self.writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection whose statements each see the latest commit and cannot write.

        It is kept for the next read, since the pool takes longer than SQLite for a row by its key,
        unless an ordinary statement began a transaction on it. After an error all go back to the
        pool, which knows how to replace broken ones.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.reader.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            self._release_idle()
            raise
        # What the pool may open beyond as many is left to other users of it.
        if connection.in_transaction() or len(self._idle) >= self.settings.threads:
            connection.close()
        else:
            self._idle.append(connection)

    def _release_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a read-only connection whose statements all see one instant; it locks nothing."""
        with self.reader.connect() as connection:
            if self.settings.is_sqlite:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield connection
                finally:
                    connection.exec_driver_sql("ROLLBACK")
            else:
                with connection.execution_options(isolation_level="REPEATABLE READ").begin():
                    yield connection

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._release_idle()
        self.writer.dispose()
        self.reader.dispose()


def _postgresql_engines(settings: Settings) -> tuple[Engine, Engine]:
    limits = (
        f"-c timezone=UTC -c lock_timeout={settings.lock_timeout_ms}"
        f" -c statement_timeout={settings.statement_timeout_ms}"
        f" -c idle_in_transaction_session_timeout={settings.statement_timeout_ms}"
    )

    def engine(options: str, **arguments: Any) -> Engine:
        return create_engine(
            settings.url,
            connect_args={
                "options": options,
                "connect_timeout": 5,
                "application_name": "agenthub",
                "client_encoding": "UTF8",
            },
            # The server runs a thread more than it is told at times; no connection ends with that.
            pool_size=2 * settings.threads,
            max_overflow=0,
            pool_timeout=10,
            **arguments,
        )

    # Writes go by key. A plan kept from when a table was small would read all of it for as long as
    # nobody analyses the table.
    writer = engine(f"{limits} -c enable_seqscan=off", isolation_level="READ COMMITTED")
    reader = engine(
        f"{limits} -c default_transaction_read_only=on",
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )

    # Transactions begin and end here, because statements that go to libpq directly are none of the
    # driver's: it would begin too late, and it drops all prepared statements after a rollback.
    event.listen(writer, "begin", lambda connection: control(connection, BEGIN))
    event.listen(writer, "commit", lambda connection: control(connection, COMMIT))
    event.listen(writer, "rollback", lambda connection: control(connection, ROLLBACK))
    return writer, reader


def control(connection: Connection, command: bytes) -> None:
    """Begin or end a transaction on PostgreSQL.

    Raises what SQLAlchemy would, and ``InternalError`` for a COMMIT that PostgreSQL turned into a
    rollback, which it does without an error when a statement of the transaction had failed.
    """
    if connection.invalidated:
        return
    libpq: Any = connection.connection.dbapi_connection.pgconn  # type: ignore[union-attr]
    if command == ROLLBACK and libpq.status != ConnStatus.OK:
        return
    result = libpq.exec_(command)
    if result.status != ExecStatus.COMMAND_OK:
        raise_translated(connection, error_of(result), command.decode())
    if command == COMMIT and result.command_status != COMMIT:
        error = psycopg.InternalError("the transaction had failed and was rolled back")
        raise_translated(connection, error, command.decode())


def error_of(result: Any) -> Exception:
    """Return the error that a result of PostgreSQL's C library stands for."""
    if result.error_field(DiagnosticField.SQLSTATE) is None:
        return psycopg.OperationalError(result.get_error_message())
    return psycopg.errors.error_from_result(result)


def raise_translated(connection: Connection, error: Exception, sql: str) -> NoReturn:
    """Raise a driver's error as SQLAlchemy does; a lost connection takes the pool's others along.

    The others lead to the same server, which went away since they were opened.
    """
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
    if lost:
        connection.invalidate(error)
        connection.engine.dispose()
    raise DBAPIError.instance(
        sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect
    ) from error


def _sqlite_engines(settings: Settings) -> tuple[Engine, Engine]:
    def engine() -> Engine:
        return create_engine(
            settings.url,
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
    file. Raises ``OperationalError`` ("database is locked") after ``timeout_ms``.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        except OperationalError as error:
            if not is_lock_timeout(error) or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.0003, 0.0015))  # noqa: S311 (not a secret)


def insert_if_absent(
    session: Session, entity: type[Base], returning: Any = None, **values: Any
) -> Any:
    """Insert one row unless a unique constraint is taken.

    Returns the inserted row's ``returning`` column, or 1 if none is asked for; None when nothing
    was inserted. Waits for a rival transaction that inserts the same key, and then sees what it
    committed.
    """
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    statement = insert(entity).values(**values).on_conflict_do_nothing()
    column = literal_column("1") if returning is None else returning
    return session.scalar(statement.returning(column))


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether a database error means that a lock was not free in time."""
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.OperationalError):
        return original.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(original, "sqlstate", None) == "55P03"


def is_retryable(error: DBAPIError) -> bool:
    """Tell whether a transaction may do well if it runs again.

    PostgreSQL undid it because it met another (40001, 40P01), or its connection was lost, which
    happens to every pooled one when the database is restarted.
    """
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state in ("40001", "40P01")
