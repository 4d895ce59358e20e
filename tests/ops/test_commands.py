"""``agenthub snapshot`` as operators and scripts run it, and the page that shows it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import Settings
from tests.migrations.project import ROOT, environ
from tests.migrations.test_docs import matches, read_page
from tests.ops.place import Place

PAGE = ROOT / "docs" / "snapshots.md"
SHOWN = re.compile(
    r"[0-9a-f]{64}|[0-9]{4}-[0-9-]{5}T[0-9:.]+Z|(?:sqlite|postgresql)[+a-z]*:/\S+|\b[0-9][0-9,]*\b"
)


def agenthub(
    settings: Settings, *arguments: str, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=cwd, env=environ(settings), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_exit_codes_and_json(
    place: Place, new_database: Callable[..., Settings], tmp_path: Path
) -> None:
    file, there = tmp_path / "place.snapshot", new_database("sqlite")

    def run(*arguments: str, settings: Settings = place.settings) -> tuple[int, str, str]:
        done = agenthub(settings, "snapshot", *arguments)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("create", str(file))
    assert (code, "is complete" in out) == (0, True)
    assert "writing ledger_postings" in err
    code, out, err = run("create", str(file))
    assert (code, out, err) == (2, "", f"Error: {file} exists already; it is left as it is\n")
    for command in ("verify", "inspect"):
        code, out, err = run(command, str(file), "--json")
        assert (code, err) == (0, "")
        manifest = json.loads(out)
        assert manifest["format"] == "agenthub-snapshot"
    assert run("restore", str(file), settings=there)[0] == 0
    code, _, err = run("restore", str(file), settings=there)
    assert (code, "is not empty" in err) == (2, True)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    code, out, _ = run("verify", str(file))
    assert (code, "is corrupt" in out) == (1, True)
    assert json.loads(run("verify", str(file), "--json")[1])["fault"]
    for command in ("verify", "inspect", "restore"):
        code, out, err = run(command, str(tmp_path / "none"))
        assert (code, out) == (2, "")
        assert "cannot be read: No such file" in err


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_database_of_another_release_makes_no_snapshot(
    empty_settings: Settings, tmp_path: Path
) -> None:
    done = agenthub(empty_settings, "snapshot", "create", str(tmp_path / "none"))
    assert (done.returncode, "agenthub up" in done.stderr) == (2, True)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_every_command_of_the_page_prints_what_the_page_shows(
    place: Place, new_database: Callable[..., Settings], tmp_path: Path
) -> None:
    """Figures, hashes and times differ from run to run; the rest may not."""
    settings, ran = place.settings, []
    for command, shown in read_page(PAGE.read_text()):
        if command.startswith("export AGENTHUB_DATABASE_URL="):
            settings = new_database("postgresql" if "postgresql" in command else "sqlite")
            continue
        arguments = shlex.split(command.replace("\\\n", " "))
        if arguments[0] == "agenthub":
            done = agenthub(settings, *arguments[1:], cwd=tmp_path)
            printed = done.stdout if done.returncode in (0, 1) else done.stderr
        else:
            # What an auditor needs without AgentHub: tar, zstd, sha256sum.
            ran_there = subprocess.run(
                command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
            )
            printed = ran_there.stdout
        assert matches(plain(shown), plain(printed)), f"$ {command}\n{printed}"
        ran.append(" ".join(arguments[:3]))
    for needed in ("create", "verify", "inspect", "restore"):
        assert any(command.startswith(f"agenthub snapshot {needed}") for command in ran)


def plain(text: str) -> str:
    """Return output without what differs from run to run."""
    text = SHOWN.sub("#", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)).strip()
