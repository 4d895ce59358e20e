"""Diagnosis: settings, database, tracks, keys, disk, each with what to do about it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from app.access.pepper import PEPPER_FILE, known_pepper, load_pepper
from app.access.service import ADMIN_KEY_FILE, list_keys
from app.config import Settings, SettingsError
from app.db import Database
from app.files import find_open_files
from app.ops.probe import READ_ONLY, STORAGE_FULL, find_fault
from app.ops.restored import ACTIVATE, held_copy
from app.ops.snapshot.listing import list_files
from app.ops.tracks import CURRENT, read_tracks

MIN_FREE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``ok``, and when it is not, ``remedy`` says what to do."""

    subject: str
    ok: bool
    detail: str
    remedy: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Check everything a running service needs. A fault becomes a finding, not an exception."""
    findings = [*_settings(settings), _disk(settings), _files(settings)]
    if settings.is_sqlite and not Path(settings.url.database or "").exists():
        return [*findings, _absent(settings)]
    database = Database(settings)
    try:
        with database.read() as connection:
            findings.append(_database(connection, settings))
            tracks = list(_tracks(connection))
            findings += tracks
            findings.append(_writes(database))
            findings += _restored(connection)
            if all(track.ok for track in tracks):
                findings.append(_keys(connection, settings))
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        findings.append(
            Finding("database", False, reason, "check AGENTHUB_DATABASE_URL and the server")
        )
    finally:
        database.dispose()
    return findings


def _settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", True, f"database {settings.url.render_as_string(hide_password=True)}")
    try:
        load_pepper(settings)
    except (SettingsError, OSError) as error:
        yield Finding("key pepper", False, str(error), "set AGENTHUB_KEY_PEPPER")
    else:
        source = "AGENTHUB_KEY_PEPPER" if settings.key_pepper else "file in the data directory"
        yield Finding("key pepper", True, source)


def _absent(settings: Settings) -> Finding:
    path = settings.url.database
    if Path(f"{path}-wal").exists():
        detail = f"{path} is gone, but its -wal is there: it was moved while it was served"
        return Finding("database", False, detail, "stop the service and put the file back")
    return Finding("database", False, "does not exist yet", "agenthub up")


_WRITES = {
    STORAGE_FULL: ("the disk is full", "make space"),
    READ_ONLY: ("the database takes no writes", "look at its permissions, or for the primary"),
}


def _writes(database: Database) -> Finding:
    fault = find_fault(database)
    if fault is None:
        return Finding("writes", True, "are taken")
    detail, remedy = _WRITES.get(fault, ("are not taken", "look at the database's log"))
    return Finding("writes", False, detail, remedy)


def _files(settings: Settings) -> Finding:
    """Look at who may read what holds tasks, answers and the hashes of keys."""
    paths = [settings.data_dir / name for name in (PEPPER_FILE, ADMIN_KEY_FILE)]
    if settings.database_url is None:
        paths.append(settings.data_dir)
    if settings.is_sqlite:
        paths += [Path(f"{settings.url.database}{end}") for end in ("", "-wal", "-shm")]
    if settings.snapshot_dir is not None:
        paths += list_files(settings.snapshot_dir)
    found = find_open_files(paths)
    if not found:
        return Finding("files", True, "only their owner reads them")
    names = ", ".join(str(path) for path in found[:5])
    detail = f"others may read {names}" + (f" and {len(found) - 5} more" if found[5:] else "")
    remedy = "chmod go= " + " ".join(shlex.quote(str(path)) for path in found[:5])
    return Finding("files", False, detail, remedy)


def _disk(settings: Settings) -> Finding:
    folder = next(p for p in [settings.data_dir.absolute(), *settings.data_dir.absolute().parents]
                  if p.exists())  # fmt: skip
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free in {settings.data_dir.absolute()}"
    remedy = f"free at least {MIN_FREE_BYTES // 2**20} MiB" if free < MIN_FREE_BYTES else None
    return Finding("disk", remedy is None, detail, remedy)


def _database(connection: Connection, settings: Settings) -> Finding:
    if settings.is_sqlite:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        version = connection.scalar(text("SELECT sqlite_version()"))
        ok = mode == "wal"
        remedy = None if ok else "agenthub up"
        return Finding("database", ok, f"SQLite {version}, journal mode {mode}", remedy)
    version = connection.scalar(text("SHOW server_version"))
    durable = connection.scalar(text("SHOW fsync")) == "on"
    return Finding(
        "database",
        durable,
        f"PostgreSQL {version}, fsync {'on' if durable else 'off'}",
        None if durable else "set fsync = on: acknowledged writes could be lost",
    )


def _tracks(connection: Connection) -> Iterator[Finding]:
    for track in read_tracks(connection):
        detail = f"{track.state} at {track.revision or 'no revision'}"
        yield Finding(f"track {track.scope}", track.state == CURRENT, detail, track.remedy)


def _restored(connection: Connection) -> Iterator[Finding]:
    copy = held_copy(connection)
    if copy is not None:
        yield Finding("restored copy", False, str(copy), ACTIVATE)


def _keys(connection: Connection, settings: Settings) -> Finding:
    found = list_keys(connection, known_pepper(settings))
    live = [key for key in found if key["revoked_at"] is None]
    if not live:
        return Finding(
            "API keys", False, "none", "agenthub keys create --owner NAME --role developer"
        )
    altered = [str(key["id"]) for key in live if key["genuine"] is False]
    if altered:
        return Finding(
            "API keys",
            False,
            f"refused, since the pepper is another or their rows were edited: {', '.join(altered)}",
            "agenthub keys revoke KEY_ID, or if all of it is right: agenthub keys bind KEY_ID",
        )
    return Finding("API keys", True, f"{len(live)} not revoked")
