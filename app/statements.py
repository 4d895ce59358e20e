"""Statements of the hot paths, run on the driver directly.

What SQLAlchemy and psycopg do around an execution costs more than the database does for a row by
its key. A ``Statement`` is written and compiled with SQLAlchemy, once, and then goes to ``sqlite3``
or to the C library below psycopg, prepared once for each connection. It runs in the ordinary way
when somebody listens to statements, as tests that count them and tracing do.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from psycopg.pq import ExecStatus, Format
from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Integer,
    LargeBinary,
    Text,
    any_,
    bindparam,
    cast,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.orm import Session
from sqlalchemy.types import String

from app.db import UTCDateTime
from app.engines import PREPARED, error_of, raise_translated

Parameters = Mapping[str, Any]
# SQLAlchemy tells how many rows an INSERT wrote only if asked to.
_COUNT = {"preserve_rowcount": True}


class Statement:
    """A statement whose parameters are texts, whole numbers, times, bytes, truth values or None.

    ``statement`` is one for both databases, or one for each by the dialect's name. Errors are those
    that SQLAlchemy would raise.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._compiled: dict[str, _OnSqlite | _OnPostgresql] = {}

    def all(self, reader: Connection | Session, parameters: Parameters) -> Sequence[Any]:
        """Run it and return every row, with its columns as attributes.

        On a reading connection it is a transaction of its own and runs again, on a new connection,
        should it fail.
        """
        if isinstance(reader, Session):
            return self._run(reader.connection(), parameters).rows
        if reader.in_transaction() or _is_watched(reader):
            return reader.execute(self._of(reader), parameters).all()
        try:
            return self._run_directly(reader, parameters).rows
        except reader.dialect.loaded_dbapi.Error:
            reader.invalidate()
            return reader.execute(self._of(reader), parameters).all()

    def first(self, reader: Connection | Session, parameters: Parameters) -> Any:
        """Run it and return its first row, or None."""
        rows = self.all(reader, parameters)
        return rows[0] if rows else None

    def run(self, session: Session, parameters: Parameters) -> int:
        """Run it in the session's transaction and return how many rows it wrote."""
        return self._run(session.connection(), parameters).count

    def _run(self, connection: Connection, parameters: Parameters) -> _Outcome:
        if _is_watched(connection):
            result = connection.execute(self._of(connection), parameters, execution_options=_COUNT)
            count = result.rowcount
            return _Outcome(result.all() if result.returns_rows else (), count)
        try:
            return self._run_directly(connection, parameters)
        except connection.dialect.loaded_dbapi.Error as error:
            raise_translated(connection, error, self._compiled[connection.dialect.name].sql)

    def _run_directly(self, connection: Connection, parameters: Parameters) -> _Outcome:
        dialect = connection.dialect.name
        compiled = self._compiled.get(dialect)
        if compiled is None:
            way = _OnSqlite if dialect == "sqlite" else _OnPostgresql
            compiled = self._compiled[dialect] = way(self._of(connection))
        return compiled.run(connection, parameters)

    def _of(self, connection: Connection) -> Any:
        if isinstance(self._statement, dict):
            return self._statement[connection.dialect.name]
        return self._statement


class RowInsert:
    """Insert any number of rows, in order, with one statement; each maps column names to values.

    ``unless_present`` leaves out a row that a unique constraint refuses.
    """

    def __init__(self, table: Any, *, unless_present: bool = False) -> None:
        columns = [column for column in table.c if column is not table.autoincrement_column]
        self._names = [column.name for column in columns]
        names = ", ".join(f'"{name}"' for name in self._names)
        into = f"INSERT INTO {table.name} ({names})"
        conflict = " ON CONFLICT DO NOTHING" if unless_present else ""
        places = ", ".join("?" * len(self._names))
        self._sqlite = f"{into} VALUES ({places}){conflict}"
        one: Any = insert(table)
        self._watched = one.on_conflict_do_nothing() if unless_present else one
        self._postgresql = Statement(
            text(
                f"{into} SELECT {names} FROM {recordset('given', columns)} ORDER BY place{conflict}"  # noqa: S608
            )
        )

    def run(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert the rows in the session's transaction and return how many went in."""
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            return self._postgresql.run(session, {"given": to_json(rows)})
        if _is_watched(connection):
            values = [dict(row) for row in rows]
            return connection.execute(self._watched, values, execution_options=_COUNT).rowcount
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(
                self._sqlite, [[_to_sqlite(row[name]) for name in self._names] for row in rows]
            )
            return cursor.rowcount
        except connection.dialect.loaded_dbapi.Error as error:
            raise_translated(connection, error, self._sqlite)
        finally:
            cursor.close()


def to_json(value: Any) -> str:
    """Return rows or names as the text that ``recordset`` and ``json_each`` take."""
    return orjson.dumps(value).decode()


def is_one_of(column: Any, parameter: str) -> dict[str, Any]:
    """Return, by dialect, the condition that a column's value is in a parameter: a JSON array.

    So a statement is the same however many values there are, and PostgreSQL plans it once.
    """
    names = bindparam(parameter, type_=Text)
    in_sqlite = func.json_each(names).table_valued("value")
    in_postgresql = func.json_array_elements_text(cast(names, JSON)).column_valued()
    return {
        "sqlite": column.in_(select(in_sqlite.c.value)),
        "postgresql": column == any_(func.array(select(in_postgresql).scalar_subquery())),
    }


def recordset(parameter: str, columns: Sequence[Any]) -> str:
    """Return a table of PostgreSQL made from a parameter: an array of JSON objects, one a row.

    It has the given columns and ``place``, the row's position. One text costs the driver a fraction
    of what an array for each column does.
    """
    kinds = (
        f'"{column.name}" ' + ("text" if isinstance(column.type, String) else _kind(column))
        for column in columns
    )
    names = ", ".join(f'"{column.name}"' for column in columns)
    return (
        f"ROWS FROM (json_to_recordset(CAST(:{parameter} AS json)) AS ({', '.join(kinds)}))"
        f" WITH ORDINALITY AS {parameter} ({names}, place)"
    )


def _kind(column: Any) -> str:
    kind: str = column.type.compile(dialect=_POSTGRESQL)
    return kind


def _is_watched(connection: Connection) -> bool:
    return bool(connection.engine.dispatch.before_cursor_execute)


@dataclass(frozen=True, slots=True)
class _Outcome:
    rows: Sequence[Any]
    count: int


def _row_type(statement: Any) -> tuple[Any, list[Any]]:
    """Return the class of a statement's rows and the types of its columns."""
    columns = getattr(statement, "exported_columns", None)
    if not columns:
        return None, []
    names = columns.keys()
    return namedtuple("Row", names), [column.type for column in columns]


def _constants(compiled: Any) -> dict[str, Any]:
    """Return the values that the statement was written with."""
    return {name: value for name, value in compiled.params.items() if value is not None}


class _OnSqlite:
    """A statement on ``sqlite3``."""

    def __init__(self, statement: Any) -> None:
        compiled: Any = statement.compile(dialect=SQLiteDialect_pysqlite(paramstyle="qmark"))
        self.sql: str = compiled.string
        self._names: Sequence[str] = compiled.positiontup
        self._constants = _constants(compiled)
        self._row, types = _row_type(statement)
        self._converted = [
            (place, _from_sqlite[type(kind)])
            for place, kind in enumerate(types)
            if type(kind) in _from_sqlite
        ]

    def run(self, connection: Connection, parameters: Parameters) -> _Outcome:
        cursor = connection.connection.cursor()
        given = {**self._constants, **parameters}
        try:
            cursor.execute(self.sql, [_to_sqlite(given[name]) for name in self._names])
            rows = cursor.fetchall() if self._row else ()
            count = cursor.rowcount
        finally:
            cursor.close()
        return _Outcome([self._row._make(self._convert(row)) for row in rows], count)

    def _convert(self, row: Sequence[Any]) -> Sequence[Any]:
        if not self._converted:
            return row
        values = list(row)
        for place, convert in self._converted:
            if values[place] is not None:
                values[place] = convert(values[place])
        return values


def _to_sqlite(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value


_from_sqlite: dict[type, Callable[[Any], Any]] = {
    UTCDateTime: lambda stored: datetime.fromisoformat(stored).replace(tzinfo=UTC),
    Boolean: bool,
}

_POSTGRESQL: Any = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


class _OnPostgresql:
    """A statement on libpq, prepared once for each connection that lasts."""

    def __init__(self, statement: Any) -> None:
        compiled: Any = statement.compile(dialect=_POSTGRESQL)
        self.sql: str = compiled.string
        self._sql = self.sql.encode()
        self._names: Sequence[str] = compiled.positiontup or ()
        self._constants = _constants(compiled)
        self._row, types = _row_type(statement)
        self._from_text = [_from_postgresql(kind) for kind in types]

    def run(self, connection: Connection, parameters: Parameters) -> _Outcome:
        pooled = connection.connection
        libpq: Any = pooled.dbapi_connection.pgconn  # type: ignore[union-attr]
        given = {**self._constants, **parameters}
        values, formats = [], []
        for parameter in self._names:
            value, kind = _to_postgresql(given[parameter])
            values.append(value)
            formats.append(kind)
        if connection.get_execution_options()[PREPARED]:
            name = pooled.info.get(self) or self._prepare(libpq, pooled.info)
            result = libpq.exec_prepared(name, values, formats)
        else:
            result = libpq.exec_params(self._sql, values, param_formats=formats)
        if result.status == ExecStatus.COMMAND_OK:
            return _Outcome((), result.command_tuples or 0)
        if result.status != ExecStatus.TUPLES_OK:
            raise error_of(result)
        rows = [
            self._row._make(
                None if (found := result.get_value(row, column)) is None else from_text(found)
                for column, from_text in enumerate(self._from_text)
            )
            for row in range(result.ntuples)
        ]
        return _Outcome(rows, result.command_tuples or 0)

    def _prepare(self, libpq: Any, prepared: dict[Any, bytes]) -> bytes:
        name = f"statement_{len(prepared)}".encode()
        result = libpq.prepare(name, self._sql)
        if result.status != ExecStatus.COMMAND_OK:
            raise error_of(result)
        prepared[self] = name
        return name


def _to_postgresql(value: Any) -> tuple[bytes | None, Format]:
    # A text is binary, since it is otherwise taken to end at its first NUL.
    if isinstance(value, str):
        return value.encode(), Format.BINARY
    if isinstance(value, bytes):
        return value, Format.BINARY
    if isinstance(value, datetime):
        return value.isoformat().encode(), Format.TEXT
    return (None if value is None else str(value).encode()), Format.TEXT


def _from_postgresql(kind: Any) -> Callable[[bytes], Any]:
    if isinstance(kind, UTCDateTime):
        return lambda stored: datetime.fromisoformat(stored.decode()).astimezone(UTC)
    if isinstance(kind, LargeBinary):
        return lambda stored: bytes.fromhex(stored[2:].decode())
    if isinstance(kind, Boolean):
        return lambda stored: stored == b"t"
    return int if isinstance(kind, Integer) else bytes.decode
