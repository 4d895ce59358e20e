"""What the commands of every scope share: the terminal, JSON for scripts, the database."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app import clock
from app.config import Settings
from app.db import Database
from app.ops.tracks import require_current

# Wide where nobody looks, so that scripts and logs get whole lines.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)


class Failure(click.ClickException):
    """An error with one clear line and exit code 2."""

    exit_code = 2


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


def print_json(document: Any) -> None:
    """Print a document for a script: one JSON value, times in RFC 3339."""
    click.echo(json.dumps(document, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return clock.isoformat(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def new_table(*columns: str) -> Table:
    """Return a plain table whose first column is never cut: it is what people copy."""
    table = Table(box=None)
    for place, column in enumerate(columns):
        table.add_column(column, no_wrap=place == 0, overflow="fold")
    return table


def show_time(moment: Any) -> str:
    """Return a time as people read it, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


@contextmanager
def open_database() -> Iterator[tuple[Settings, Database]]:
    """Give the settings and the migrated database. Raises ``OutdatedSchema``."""
    settings = Settings.from_env()
    require_database_file(settings)
    database = Database(settings)
    try:
        with database.read() as connection:
            require_current(connection)
        yield settings, database
    finally:
        database.dispose()


def require_database_file(settings: Settings) -> None:
    """Refuse to create an empty SQLite file by only looking at it."""
    if settings.is_sqlite and not os.path.exists(settings.url.database or ""):
        raise Failure(f"there is no database at {settings.url.database}; run: agenthub up")
