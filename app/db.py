"""The database: the declarative base, and the two ways to use a database.

``Database.transaction`` is the only way to write: it commits when its block returns and rolls back
when it raises. ``Database.read`` gives a connection that the database itself keeps read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    MetaData,
    String,
    TypeDecorator,
    literal_column,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.functions import FunctionElement

from app.clock import ClockWatch
from app.config import Settings
from app.engines import postgresql_engines, sqlite_engines
from app.files import OpenedFile
from app.logs import surviving

# Alembic and the drift tests recognise a constraint by its name, so every constraint has one.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# Where a session keeps what is to be done after its commit.
AFTER_COMMIT = "agenthub.after_commit"


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


# The largest number that a column of either database holds.
MAX_INTEGER = 2**63 - 1


class bounded_sum(FunctionElement[int]):
    """The exact sum of integers; ``MAX_INTEGER`` where it would be more, NULL where there is none.

    SQLite's own sum ends in an error there, and PostgreSQL's is of a type that holds any number.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(bounded_sum)
def _bounded_sum(element: Any, compiler: Any, **options: Any) -> str:
    term = compiler.process(element.clauses, **options)
    return (
        f"CAST(CASE WHEN sum({term}) > {MAX_INTEGER} THEN {MAX_INTEGER} ELSE sum({term}) END"
        " AS BIGINT)"
    )


@compiles(bounded_sum, "sqlite")
def _bounded_sum_of_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    term = compiler.process(element.clauses, **options)
    # Halves whose sums stay small; total() is not exact, and nothing can be above its bound here.
    return (
        f"CASE WHEN total({term}) >= 9.2233720368e18 THEN {MAX_INTEGER}"
        f" ELSE sum({term} / 1000000000) * 1000000000 + sum({term} % 1000000000) END"
    )


class Database:
    """The engines of one process.

    ``writer`` runs read-write transactions. ``reader`` runs single statements, each its own
    transaction, on connections that refuse writes.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_engines = sqlite_engines if settings.is_sqlite else postgresql_engines
        self.writer, self.reader = make_engines(settings)
        self.clock_watch = ClockWatch(timedelta(seconds=settings.clock_tolerance_seconds))
        self._file = OpenedFile(settings.url) if settings.is_sqlite else None
        if self._file is not None:
            self._file.watch(self.writer, self.reader)
        self._idle: list[Connection] = []

    def check_file(self) -> None:
        """Raise ``DatabaseFileReplaced`` when SQLite's file is not the one that was opened."""
        if self._file is not None:
            self._file.check_all()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Run one read-write transaction: commit when the block returns, roll back when it raises.

        What ``after_commit`` was given is done after the commit, and cannot fail it. On SQLite the
        write lock is taken at the first statement; ``OperationalError`` is raised when it is not
        free within ``lock_timeout_ms``. What is written depends on the clock: ``ClockImplausible``
        is raised while that cannot be right.
        """
        self.clock_watch.require()
        with Session(self.writer, expire_on_commit=False) as session, session.begin():
            yield session
        for function in session.info.get(AFTER_COMMIT, ()):
            with surviving("after_commit"):
                function()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection whose statements each see the latest commit and cannot write.

        The connection is kept for the next read: the pool takes longer to hand one out than SQLite
        takes to read a row by its key. A connection on which a transaction began goes back to the
        pool. After an error every kept connection goes back, because the pool replaces broken ones.
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
        if self._file is not None:
            self._file.forget()


def after_commit(session: Session, function: Callable[[], object]) -> None:
    """Have a function called once the session's transaction is committed, if it is."""
    session.info.setdefault(AFTER_COMMIT, []).append(function)


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
