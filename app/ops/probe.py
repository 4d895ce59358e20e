"""Whether the database takes writes: asked by writing, since nothing else tells.

A full disk, a file that was moved and a database that has become read-only all go on answering
reads.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from pathlib import Path

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.engines import is_full, is_lock_timeout, is_read_only
from app.files import DatabaseFileReplaced

# However often it is asked, a process writes once in this time at most.
CACHE_SECONDS = 1.0
MIN_FREE_BYTES = 1024 * 1024
STORAGE_FULL, REPLACED = "storage_full", "database_file_replaced"
READ_ONLY, UNAVAILABLE = "database_read_only", "database_unavailable"
FAULTS = (STORAGE_FULL, REPLACED, READ_ONLY, UNAVAILABLE)
log = structlog.get_logger("agenthub.probe")


class WriteProbe:
    """Tells why a process's database takes no writes, if it does not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._fault: str | None = None

    def fault(self, database: Database) -> str | None:
        """Return the code of what is wrong, or None; what was found is kept for a second.

        Who comes while another asks gets what was found before.
        """
        first = self._asked_at is None
        if not self._lock.acquire(blocking=first):
            return self._fault
        try:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at >= CACHE_SECONDS:
                self._fault = find_fault(database)
                self._asked_at = time.monotonic()
            return self._fault
        finally:
            self._lock.release()


def find_fault(database: Database) -> str | None:
    """Write durably without changing any data; return the code of the fault that prevents it.

    A lock that others hold is no fault: they write.
    """
    try:
        if not database.settings.is_sqlite:
            return None if _write_postgresql(database) else UNAVAILABLE
        if _write_sqlite(database):
            log.warning("probe.failed", fault=STORAGE_FULL)
            return STORAGE_FULL
    except (SQLAlchemyError, sqlite3.Error) as error:
        fault = code_of(error)
        if fault is not None:
            log.warning("probe.failed", fault=fault, error=str(getattr(error, "orig", error)))
        return fault
    return None


def code_of(error: Exception) -> str | None:
    """Return the code that a failed write stands for; None for a lock that was not free."""
    if is_lock_timeout(error):
        return None
    if isinstance(error, DatabaseFileReplaced):
        return REPLACED
    if is_full(error):
        return STORAGE_FULL
    return READ_ONLY if is_read_only(error) else UNAVAILABLE


def _write_sqlite(database: Database) -> bool:
    """Commit the present value of a number in the file's header that nobody uses.

    So small a write may find room in the write-ahead log when others do not, so the return value
    tells whether the file system is full.
    """
    database.check_file()
    if "uri" in database.settings.url.query:
        return False
    path = Path(str(database.settings.url.database)).absolute()
    # A connection of its own, in the path's present file, waits little for the lock.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=0.5, isolation_level=None
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        (present,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version={present:d}")
        connection.execute("COMMIT")
    finally:
        connection.close()
    return shutil.disk_usage(path.parent).free < MIN_FREE_BYTES


def _write_postgresql(database: Database) -> bool:
    """Commit a message in the write-ahead log that nobody reads, on this server alone.

    Return False where it is told to take no writes, which does not concern such a message.
    """
    with database.transaction() as session:
        if session.scalar(text("SHOW transaction_read_only")) == "on":
            return False
        session.execute(text("SET LOCAL synchronous_commit TO local"))
        session.execute(text("SELECT pg_logical_emit_message(true, 'agenthub', '')"))
    return True
