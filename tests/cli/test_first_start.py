"""What a newcomer does first: ``up``, and where its admin key is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.access.service import ADMIN_KEY_FILE
from app.config import Settings
from tests.cli.test_commands import Shell
from tests.postgres import free_port
from tests.registry.manifests import build_manifest
from tests.reliability.server import API_KEY, Server, url_of


@pytest.fixture
def first_server(empty_settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """A server whose first start migrates an empty database."""
    server = Server(url_of(empty_settings), tmp_path).start()
    yield server
    server.end()


def test_the_first_start_leaves_a_key_that_works_and_the_second_none(first_server: Server) -> None:
    file = first_server.folder / ADMIN_KEY_FILE
    key = file.read_text().strip()
    assert API_KEY.fullmatch(key)
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(file) in first_server.log
    assert key.split("_", 2)[2] not in first_server.log
    body = {"namespace": "@first", "manifest": build_manifest()}
    assert first_server.client(key).request("POST", "/v1/agents", body).status == 200
    first_server.terminate()
    assert first_server.wait() == 0
    first_server.start()
    assert not API_KEY.findall(first_server.log)
    assert ADMIN_KEY_FILE not in first_server.log
    assert file.read_text().strip() == key
    assert first_server.client().request("GET", "/v1/agents").document["pagination"]["total"] == 1


def test_a_terminal_is_shown_the_key_and_no_file_has_it(
    empty_settings: Settings, tmp_path: Path
) -> None:
    environ = Shell(empty_settings, tmp_path).environ
    command = [sys.executable, "-m", "app.cli", "up", "--port", str(free_port())]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = ""
    try:
        while "docs" not in shown:
            shown += os.read(ours, 4096).decode()
    finally:
        process.terminate()
        process.wait(40)
        os.close(ours)
    assert len(API_KEY.findall(shown)) == 1
    assert not (tmp_path / ADMIN_KEY_FILE).exists()


def test_a_first_start_that_cannot_keep_its_key_makes_none(
    empty_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / ADMIN_KEY_FILE).mkdir()
    shell = Shell(empty_settings, tmp_path)
    done = shell.run("up", "--port", str(free_port()))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert ADMIN_KEY_FILE in done.stderr
    assert shell.json("keys", "list") == []
