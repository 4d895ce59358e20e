"""The database: declarative base, engines for both dialects, and the two ways to use them.

``Database.transaction`` is the only way to write: it commits when its block returns and rolls back
when it raises. ``Database.read`` gives a connection that the database itself keeps read-only.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Integer,
    MetaData,
    Select,
    String,
    TypeDecorator,
    create_engine,
    event,
    literal_column,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import OperationalError
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

    return (
        engine(limits, isolation_level="READ COMMITTED", pool_pre_ping=True),
        engine(
            f"{limits} -c default_transaction_read_only=on",
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
        ),
    )


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


class HotRead:
    """A statement that the most frequent reads run, compiled once for each dialect.

    On a reading connection it goes to the driver directly, on PostgreSQL to the C library below the
    driver: what SQLAlchemy and psycopg do around an execution costs more than the database does for
    a row by its key. So its parameters must be texts, and its columns texts and whole numbers. The
    statement runs in the ordinary way when somebody listens to statements, and again in the
    ordinary way, on a new connection, should the direct one fail, so that errors keep their names.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        self.statement = statement
        columns = statement.selected_columns
        self._row: Any = namedtuple("Row", columns.keys())  # type: ignore[misc]
        self._from_text: list[Callable[[bytes], Any]] = [
            int if isinstance(column.type, Integer) else bytes.decode for column in columns
        ]
        self._compiled: dict[str, tuple[str, Sequence[str]]] = {}

    def all(self, reader: Connection | Session, parameters: dict[str, str]) -> Sequence[Any]:
        """Return every row, with its columns as attributes."""
        if (
            isinstance(reader, Session)
            or reader.in_transaction()
            or reader.engine.dispatch.before_cursor_execute
        ):
            return reader.execute(self.statement, parameters).all()
        dialect = reader.dialect
        sql, names = self._compiled.get(dialect.name) or self._compile(dialect)
        run = self._run_prepared if dialect.name == "postgresql" else self._run
        try:
            rows = run(reader, sql, [parameters[name] for name in names])
        except dialect.loaded_dbapi.Error:
            reader.invalidate()
            return reader.execute(self.statement, parameters).all()
        return [self._row._make(row) for row in rows]

    def _compile(self, dialect: Any) -> tuple[str, Sequence[str]]:
        style = "numeric_dollar" if dialect.name == "postgresql" else "qmark"
        compiled: Any = self.statement.compile(dialect=type(dialect)(paramstyle=style))
        found = self._compiled[dialect.name] = (compiled.string, compiled.positiontup)
        return found

    @staticmethod
    def _run(reader: Connection, sql: str, parameters: Sequence[str]) -> Sequence[Any]:
        cursor = reader.connection.cursor()
        try:
            cursor.execute(sql, parameters)
            return cursor.fetchall()
        finally:
            cursor.close()

    def _run_prepared(
        self, reader: Connection, sql: str, parameters: Sequence[str]
    ) -> Sequence[Any]:
        pooled, driver = reader.connection, reader.dialect.loaded_dbapi
        libpq: Any = pooled.dbapi_connection.pgconn  # type: ignore[union-attr]
        name = pooled.info.get(self)
        if name is None:
            name = f"hot_read_{len(pooled.info)}".encode()
            if libpq.prepare(name, sql.encode()).status != driver.pq.ExecStatus.COMMAND_OK:
                raise driver.OperationalError("the statement cannot be prepared")
            pooled.info[self] = name
        given = [value.encode() for value in parameters]
        # Binary, since a text is otherwise taken to end at its first NUL.
        result = libpq.exec_prepared(name, given, [driver.pq.Format.BINARY] * len(given))
        if result.status != driver.pq.ExecStatus.TUPLES_OK:
            raise driver.OperationalError("the statement failed")
        return [
            [
                None if (text := result.get_value(row, column)) is None else from_text(text)
                for column, from_text in enumerate(self._from_text)
            ]
            for row in range(result.ntuples)
        ]


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


def is_retryable(error: BaseException) -> bool:
    """Tell whether PostgreSQL undid a transaction only because it met another (40001, 40P01)."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in ("40001", "40P01")
