"""The secret that API key hashes are keyed with."""

from __future__ import annotations

from app import ids
from app.access.files import write_secret
from app.config import Settings, SettingsError

PEPPER_FILE = "key-pepper"


def load_pepper(settings: Settings) -> bytes:
    """Return the pepper: the setting, else (embedded database only) a file made on first use.

    A stolen database alone then verifies no guess of a key and admits no forged key row. Raises
    ``SettingsError`` for PostgreSQL without the setting: several servers must share one pepper.
    """
    found = find_pepper(settings)
    if found is not None:
        return found
    # The first writer wins: its pepper is everybody's.
    write_secret(settings.data_dir / PEPPER_FILE, ids.new_secret(), replace=False)
    return (settings.data_dir / PEPPER_FILE).read_bytes().strip()


def known_pepper(settings: Settings) -> bytes | None:
    """Return the pepper if there is one, for who can do without."""
    try:
        return find_pepper(settings)
    except SettingsError:
        return None


def find_pepper(settings: Settings) -> bytes | None:
    """Return the pepper if there is one, and make none. Raises ``SettingsError`` as above."""
    if settings.key_pepper is not None:
        return settings.key_pepper.encode()
    if not settings.is_sqlite:
        raise SettingsError(
            "AGENTHUB_KEY_PEPPER is required with PostgreSQL, the same for every server; "
            "make one with: openssl rand -base64 48"
        )
    path = settings.data_dir / PEPPER_FILE
    return path.read_bytes().strip() if path.exists() else None
