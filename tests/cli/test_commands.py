"""The ``agenthub`` command, run as operators and scripts run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.config import Settings
from app.db import Database
from app.scopes import SCOPES
from tests.conftest import PEPPER
from tests.migrations.project import revisions_of


class Shell:
    """Runs ``agenthub`` against one database."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AGENTHUB_")},
            "AGENTHUB_DATABASE_URL": settings.url.render_as_string(hide_password=False),
            "AGENTHUB_DATA_DIR": str(folder),
            "AGENTHUB_KEY_PEPPER": PEPPER,
        }

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command and return its exit code and output."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds and return the JSON it prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shell(settings: Settings, tmp_path: Path) -> Shell:
    """A shell whose database is migrated."""
    return Shell(settings, tmp_path)


@pytest.fixture
def empty_shell(empty_settings: Settings, tmp_path: Path) -> Shell:
    """A shell whose database was never migrated."""
    return Shell(empty_settings, tmp_path)


def test_the_life_of_a_key(shell: Shell) -> None:
    made = shell.json("keys", "create", "--owner", "acme", "--role", "developer")
    assert made["key"].startswith(f"ah_{made['id']}_")
    assert (made["owner"], made["role"], made["expires_at"]) == ("acme", "developer", None)
    rotated = shell.json("keys", "rotate", made["id"], "--grace-hours", "1")
    assert rotated["key"] != made["key"]
    assert shell.run("keys", "revoke", rotated["id"]).returncode == 0
    listed = {row["id"]: row for row in shell.json("keys", "list")}
    assert listed[made["id"]]["replaced_by"] == rotated["id"]
    assert listed[rotated["id"]]["revoked_at"].endswith("Z")
    table = shell.run("keys", "list").stdout
    assert made["id"] in table
    assert made["key"] not in table + json.dumps(list(listed.values()))


def test_what_cannot_be_done_is_one_clear_line(shell: Shell) -> None:
    for arguments, expected in (
        (("keys", "revoke", "nonsense"), "no API key has the id"),
        (("keys", "create", "--owner", "a b", "--role", "viewer"), "an owner's name has"),
        (("keys", "create", "--owner", "acme", "--role", "root"), "--role"),
        (("demo", "--url", "http://127.0.0.1:9"), "agenthub up"),
    ):
        done = shell.run(*arguments)
        assert done.returncode == 2
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_a_bad_setting_is_one_clear_line(shell: Shell) -> None:
    done = shell.run("keys", "list", AGENTHUB_WORKERZ="2")
    assert (done.returncode, "AGENTHUB_WORKERZ" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_tracks_exit_codes(shell: Shell, settings: Settings) -> None:
    report = shell.json("tracks")
    assert {track["state"] for track in report["tracks"]} == {"current"}
    assert len(report["journal"]) == sum(len(revisions_of(scope)) for scope in SCOPES)
    assert report["journal"][0]["applied_at"].endswith("Z")
    database = Database(settings)
    for statement, code in (
        ("DELETE FROM alembic_version WHERE version_num LIKE 'registry_%'", 1),
        ("INSERT INTO alembic_version VALUES ('registry_9999')", 2),
    ):
        with database.transaction() as session:
            session.execute(text(statement))
        done = shell.run("tracks")
        assert done.returncode == code
        assert "registry" in done.stdout
    database.dispose()


def test_an_outdated_schema_is_not_served(empty_shell: Shell) -> None:
    for arguments in (("serve", "--port", "1"), ("keys", "list")):
        done = empty_shell.run(*arguments)
        assert done.returncode == 2
        # SQLite without a file has nothing to upgrade yet.
        remedy = "agenthub up" if "sqlite" in shell_url(empty_shell) else "alembic upgrade heads"
        assert remedy in done.stderr


def shell_url(shell: Shell) -> str:
    """Return the database a shell works on."""
    return shell.environ["AGENTHUB_DATABASE_URL"]


def test_doctor_finds_nothing_in_a_healthy_installation(shell: Shell) -> None:
    shell.json("keys", "create", "--owner", "acme", "--role", "admin")
    done = shell.run("doctor", "--json")
    report = json.loads(done.stdout)
    troubles = [finding["detail"] for finding in report["findings"] if not finding["ok"]]
    if "postgresql" in shell_url(shell):
        # The server of the tests runs without fsync, which the doctor must notice.
        assert (done.returncode, len(troubles)) == (1, 1)
        assert "fsync off" in troubles[0]
    else:
        assert (done.returncode, troubles) == (0, [])
    assert "AGENTHUB_MAX_BODY_BYTES" in report["settings"]
    assert PEPPER not in done.stdout + shell.run("doctor").stdout


def test_doctor_says_what_to_do(empty_shell: Shell) -> None:
    done = empty_shell.run("doctor", "--json")
    assert done.returncode == 1
    remedies = [f["remedy"] for f in json.loads(done.stdout)["findings"] if not f["ok"]]
    assert remedies
    assert all(remedies)


def test_doctor_survives_a_database_that_is_away(shell: Shell) -> None:
    done = shell.run("doctor", AGENTHUB_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert done.returncode == 1
    assert "check AGENTHUB_DATABASE_URL" in done.stdout
    assert "Traceback" not in done.stderr


def test_looking_makes_no_database(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "nothing", key_pepper=PEPPER)
    shell = Shell(settings, tmp_path / "nothing")
    for arguments in (("tracks",), ("keys", "list"), ("doctor",)):
        done = shell.run(*arguments)
        assert done.returncode in (1, 2)
        assert "agenthub up" in done.stdout + done.stderr
    assert not (tmp_path / "nothing").exists()


def test_webhooks_can_be_delivered_by_hand(shell: Shell) -> None:
    assert shell.json("deliver-webhooks") == {"delivered": 0, "failed": 0, "dead": 0}
    assert "0 delivered" in shell.run("deliver-webhooks").stdout
