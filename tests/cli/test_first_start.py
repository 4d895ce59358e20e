"""What a newcomer does first: ``up``, the key it shows, ``demo``, and its curl lines."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from tests.cli.test_commands import Shell
from tests.registry.manifests import build_manifest
from tests.reliability.server import API_KEY, Server, url_of

DEMO_AGENTS = ["@demo:expense-classifier", "@demo:invoice-reader", "@demo:payables-clerk"]


@pytest.fixture
def first_server(empty_settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """A server whose first start migrates an empty database."""
    server = Server(url_of(empty_settings), tmp_path).start()
    yield server
    server.end()


def test_the_first_start_shows_a_key_that_works_and_the_second_none(first_server: Server) -> None:
    (key,) = API_KEY.findall(first_server.log)
    body = {"namespace": "@first", "manifest": build_manifest()}
    assert first_server.client(key).request("POST", "/v1/agents", body).status == 200
    first_server.terminate()
    assert first_server.wait() == 0
    first_server.start()
    assert not API_KEY.findall(first_server.log)
    assert first_server.client().request("GET", "/v1/agents").document["pagination"]["total"] == 1


def test_the_demonstration_can_be_run_twice_and_copied(
    first_server: Server, empty_settings: Settings, tmp_path: Path
) -> None:
    shell = Shell(empty_settings, tmp_path)
    url = f"http://127.0.0.1:{first_server.port}"
    for _ in range(2):
        done = shell.run("demo", "--url", url)
        assert done.returncode == 0, done.stderr
        listed = first_server.client().request("GET", "/v1/namespaces/demo").document["data"]
        assert [agent["id"] for agent in listed] == DEMO_AGENTS
        assert listed[1]["versions"] == ["1.0.0", "2.0.0"]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    commands = re.findall(r"^curl (?:.*\\\n)*.*", done.stdout, re.MULTILINE)
    assert len(commands) == 6
    (key,) = re.findall("AGENTHUB_API_KEY=(.*)", done.stdout)
    for command in commands:
        ran = subprocess.run(
            ["/bin/sh", "-c", command.replace("curl -sS", "curl -sS --fail-with-body")],
            env={"AGENTHUB_API_KEY": key, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
