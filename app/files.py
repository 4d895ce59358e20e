"""Whether the file of a SQLite database is still the one that was opened.

A file that is moved, deleted or replaced while it is open goes on taking writes, which nobody finds
again. So its identity is compared whenever a transaction begins and before it commits.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

Identity = tuple[int, int]
_WAL = "agenthub.wal"


class DatabaseFileReplaced(OperationalError):
    """The database's path no longer leads to the file that was opened; nothing is written."""


def make_private_file(url: URL) -> None:
    """Make the file of a database that has none, so that only its owner reads it.

    SQLite gives its log and its index the mode of the file.
    """
    if "uri" not in url.query:
        with suppress(OSError):
            # What SQLite cannot open either, it tells itself.
            os.close(os.open(url.database or "", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def find_open_files(paths: Iterable[Path]) -> list[Path]:
    """Return those of the paths that others than their owner may read or write."""
    found = []
    for path in paths:
        with suppress(OSError):
            if os.stat(path).st_mode & 0o077:
                found.append(path)
    return found


# The file that this server began with, which its workers inherit however late they are started.
_served: dict[Path, Identity] = {}


def serve_only(url: URL) -> None:
    """Let this process and its forks open the present file of a database and no other."""
    path = Path(url.database or "")
    found = _identity(path)
    if found is not None:
        _served[path] = found


class OpenedFile:
    """The file of one process's engines: its server's, or that of the first connection."""

    def __init__(self, url: URL) -> None:
        # Of a URI of SQLite's own, SQLite alone knows the file.
        self._path = None if "uri" in url.query else Path(url.database or "")
        self._opened = _served.get(self._path) if self._path is not None else None
        # The log as the last transaction that committed saw it.
        self._log: Identity | None = None

    def watch(self, writer: Engine, reader: Engine) -> None:
        """Compare at every connection, and whenever the writer begins and commits."""
        for engine in (writer, reader):
            # Before SQLite would make a file where there is none, which migrations alone may.
            event.listen(engine, "do_connect", lambda *_: self._require())
            event.listen(engine, "connect", self._note)
        # Before the transaction holds the write lock.
        event.listen(writer, "begin", self.check, insert=True)
        event.listen(writer, "commit", self._check_both)

    def check(self, _: Connection | None = None) -> None:
        """Raise ``DatabaseFileReplaced`` unless the path leads to the file that was opened."""
        if self._path is not None and self._opened not in (None, _identity(self._path)):
            raise self._replaced("the database file")

    def _require(self) -> None:
        self.check()
        if self._path is not None and not self._path.exists():
            raise self._replaced("the database file")

    def _note(self, _: sqlite3.Connection, __: ConnectionPoolEntry) -> None:
        if self._opened is None and self._path is not None:
            self._opened = _identity(self._path)
        self.check()

    def _check_both(self, connection: Connection) -> None:
        """Look at the write-ahead log, too, which a connection keeps while it is open."""
        self.check()
        if self._path is None:
            return
        found = self._find_log()
        if connection.info.setdefault(_WAL, found) != found:
            raise self._replaced("its write-ahead log")
        self._log = found

    def check_all(self) -> None:
        """Raise ``DatabaseFileReplaced`` also when the log is not the one last written to.

        It stays while connections are open.
        """
        self.check()
        if self._log is not None and self._log != self._find_log():
            raise self._replaced("its write-ahead log")

    def forget(self) -> None:
        """Expect another log from now on: the connections that kept this one are closed."""
        self._log = None

    def _find_log(self) -> Identity | None:
        return _identity(Path(f"{self._path}-wal"))

    def _replaced(self, what: str) -> DatabaseFileReplaced:
        reason = (
            f"{what} was moved, deleted or replaced since it was opened: {self._path}; put it back,"
            " or stop the service"
        )
        return DatabaseFileReplaced(None, None, sqlite3.OperationalError(reason))


def _identity(path: Path) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
