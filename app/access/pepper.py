"""The secret that API key hashes are keyed with."""

from __future__ import annotations

import os
from pathlib import Path

from app import ids
from app.config import Settings, SettingsError

PEPPER_FILE = "key-pepper"


def load_pepper(settings: Settings) -> bytes:
    """Return the pepper: the setting, else (embedded database only) a file made on first use.

    A stolen database alone then verifies no guess of a key and admits no forged key row. Raises
    ``SettingsError`` for PostgreSQL without the setting: several servers must share one pepper.
    """
    if settings.key_pepper is not None:
        return settings.key_pepper.encode()
    if not settings.is_sqlite:
        raise SettingsError(
            "AGENTHUB_KEY_PEPPER is required with PostgreSQL, the same for every server; "
            "make one with: openssl rand -base64 48"
        )
    path = settings.data_dir / PEPPER_FILE
    if not path.exists():
        _create(path)
    return path.read_bytes().strip()


def _create(path: Path) -> None:
    """Write a new pepper that is complete the moment its name exists; the first writer wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{ids.new_key_id()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(ids.new_secret() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
