"""A database's schema as sorted lines of text, so that two schemas are compared with ``==``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from app.config import Settings
from tests.migrations.project import connect

# What PostgreSQL itself says, in its own words: the inspector shows neither the exact definition of
# a constraint or an index nor any trigger or function.
POSTGRESQL_CATALOGUE = (
    """SELECT table_name, 'catalogue column', column_name, data_type,
              character_maximum_length, is_nullable, column_default, collation_name
         FROM information_schema.columns WHERE table_schema = 'public'""",
    """SELECT conrelid::regclass, 'catalogue constraint', conname, pg_get_constraintdef(oid)
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    """SELECT tablename, 'catalogue index', indexname, indexdef
         FROM pg_indexes WHERE schemaname = 'public'""",
    """SELECT tgrelid::regclass, 'trigger', tgname, tgenabled, pg_get_triggerdef(oid)
         FROM pg_trigger WHERE NOT tgisinternal""",
    """SELECT proname, 'function', pg_get_functiondef(oid)
         FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    """SELECT sequencename, 'sequence', data_type
         FROM pg_sequences WHERE schemaname = 'public'""",
)
SQLITE_CATALOGUE = (
    "SELECT tbl_name, 'trigger', name, sql FROM sqlite_master WHERE type = 'trigger'",
)


def describe(settings: Settings, scope: str | None = None) -> list[str]:
    """Return the schema of a database, or the part of it that belongs to ``scope``."""
    with connect(settings) as connection:
        lines = describe_connection(connection)
    return [line for line in lines if scope is None or line.startswith(f"{scope}_")]


def describe_connection(connection: sa.Connection) -> list[str]:
    """Return the schema that a connection sees; every line starts with the name of its table."""
    sqlite = connection.dialect.name == "sqlite"
    lines = [*_inspect(connection)]
    for query in SQLITE_CATALOGUE if sqlite else POSTGRESQL_CATALOGUE:
        lines += (_line(row) for row in connection.exec_driver_sql(query))
    return sorted(lines)


def without_triggers(lines: Iterable[str]) -> list[str]:
    """Leave out what the models cannot declare: triggers and their functions."""
    return [line for line in lines if line.split()[1] not in ("trigger", "function")]


def triggers(lines: Iterable[str]) -> list[str]:
    """Return the names of the triggers."""
    return sorted(line.split()[2] for line in lines if line.split()[1] == "trigger")


def _line(parts: Iterable[Any]) -> str:
    return re.sub(r"\s+", " ", " ".join(str(part) for part in parts))


def _inspect(connection: sa.Connection) -> Iterator[str]:
    inspector = sa.inspect(connection)
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            kind = column["type"].compile(connection.dialect)
            yield _line(
                (table, "column", column["name"], kind, column["nullable"], column["default"])
            )
        key = inspector.get_pk_constraint(table)
        yield _line((table, "primary key", key["name"], key["constrained_columns"]))
        for foreign in inspector.get_foreign_keys(table):
            yield _line((table, "foreign key", *sorted(foreign.items())))
        for unique in inspector.get_unique_constraints(table):
            yield _line((table, "unique", unique["name"], unique["column_names"]))
        for check in inspector.get_check_constraints(table):
            yield _line((table, "check", check["name"], check["sqltext"]))
        for index in inspector.get_indexes(table):
            options = sorted((k, str(v)) for k, v in index.get("dialect_options", {}).items())
            columns = index["column_names"]
            yield _line((table, "index", index["name"], columns, bool(index["unique"]), options))
