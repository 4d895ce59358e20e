"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Settings, SettingsError


def test_defaults_are_local_and_hold_no_secret() -> None:
    settings = Settings.from_env({})
    assert settings.host == "127.0.0.1"
    assert settings.key_pepper is None
    assert settings.is_sqlite
    assert settings.url.database == str(Path("agenthub-data/agenthub.db").absolute())


def test_the_data_directory_moves_the_database() -> None:
    settings = Settings.from_env({"AGENTHUB_DATA_DIR": "/srv/agenthub"})
    assert settings.url.database == "/srv/agenthub/agenthub.db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_urls_use_one_driver(scheme: str) -> None:
    settings = Settings.from_env({"AGENTHUB_DATABASE_URL": f"{scheme}://u:secret@db/agenthub"})
    assert settings.url.drivername == "postgresql+psycopg"
    assert not settings.is_sqlite


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AGENTHUB_NONSENSE", "1", "unknown setting AGENTHUB_NONSENSE"),
        ("AGENTHUB_PORT", "http", "AGENTHUB_PORT: expected a whole number"),
        ("AGENTHUB_PORT", "70000", "from 1 to 65535"),
        ("AGENTHUB_PORT", " ", "AGENTHUB_PORT is empty"),
        ("AGENTHUB_IDEMPOTENCY_BODY_HOURS", "23", "from 24"),
        ("AGENTHUB_LOG_FORMAT", "xml", "expected one of json, text"),
        ("AGENTHUB_DATABASE_URL", "mysql://h/d", "expected postgresql"),
        ("AGENTHUB_DATABASE_URL", "sqlite://", "expected postgresql"),
        ("AGENTHUB_DATABASE_URL", "no url", "expected a database URL"),
        ("AGENTHUB_KEY_PEPPER", "short", "at least 32 characters"),
    ],
)
def test_unusable_settings_are_refused_by_name(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        Settings.from_env({name: value})


def test_variables_of_other_programs_are_ignored() -> None:
    Settings.from_env({"PATH": "/bin", "AGENTHUB_URL": "http://hub", "AGENTHUB_API_KEY": "ah_x"})


def test_a_description_shows_no_secret() -> None:
    settings = Settings.from_env(
        {
            "AGENTHUB_DATABASE_URL": "postgresql://u:hunter22@db/agenthub",
            "AGENTHUB_KEY_PEPPER": "p" * 40,
        }
    )
    shown = f"{settings!r} {settings.describe()}"
    assert "hunter22" not in shown
    assert "pppp" not in shown
    values = {name: value for name, value, _ in settings.describe()}
    assert values["AGENTHUB_KEY_PEPPER"] == "set"


def test_an_error_shows_no_password() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"AGENTHUB_DATABASE_URL": "mysql://u:hunter22@db/agenthub"})
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "link"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("hub.internal", "http://hub.internal:8080"),
        ("::1", "http://[::1]:8080"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:8080"),
        ("::", "http://localhost:8080"),
        ("0.0.0.0", "http://localhost:8080"),
    ],
)
def test_a_link_to_the_server_is_a_url(host: str, link: str) -> None:
    assert Settings(host=host).link == link
