"""Real servers whose disk fills up, or whose database file is taken away under them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.ops.doctor import examine
from tests.conftest import settings_for
from tests.registry.manifests import build_manifest
from tests.reliability.server import Answer, Client, Server, make_client, wait_for


@pytest.fixture
def dialect() -> str:
    """Only the embedded database is a file that the service holds itself."""
    return "sqlite"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    """Start a server on a SQLite file."""
    servers: list[Server] = []

    def start(file: Path) -> Server:
        servers.append(Server(f"sqlite:///{file}", tmp_path).start())
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def register(client: Client, slug: str, description: str = "Extracts the totals.") -> Answer:
    manifest = build_manifest(slug=slug)
    manifest["identity"]["description"] = description
    body = {"namespace": "@acme", "manifest": manifest}
    return client.request("POST", "/v1/agents", body, key=uuid.uuid4().hex)


def listed(client: Client) -> set[str]:
    answer = client.request("GET", "/v1/agents?limit=100")
    return {agent["id"] for agent in answer.document["data"]}


def ready(client: Client, fault: str | None) -> Callable[[], bool]:
    """Return whether every process says so: each asks once a second, and tells what it found."""

    def is_so() -> bool:
        answers = [client.request("GET", "/readyz") for _ in range(8)]
        found = {(answer.status, answer.document["fault"]) for answer in answers}
        return found == {(503 if fault else 200, fault)}

    return is_so


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_nothing_is_acknowledged_into_a_file_that_is_gone(
    change: str, served: Callable[[Path], Server], tmp_path: Path
) -> None:
    file = tmp_path / "agenthub.db"
    server = served(file)
    client = make_client(server)
    assert register(client, "before").status == 200
    if change == "moved":
        file.rename(tmp_path / "elsewhere")
    elif change == "deleted":
        file.unlink()
    else:
        shutil.copy(file, tmp_path / "copy")
        os.replace(tmp_path / "copy", file)

    refused = [register(client, f"after-{number}") for number in range(6)]

    assert {answer.status for answer in refused} == {503}
    assert {answer.document["code"] for answer in refused} == {"database_file_replaced"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    wait_for(ready(client, "database_file_replaced"))
    if change == "moved":
        findings = examine(settings_for(server.url, tmp_path))
        assert any("is gone, but its -wal is there" in finding.detail for finding in findings)
        (tmp_path / "elsewhere").rename(file)
        wait_for(ready(client, None))
        assert register(client, "afterwards").status == 200
        assert listed(client) == {"@acme:before", "@acme:afterwards"}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system of its own")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_told_from_a_database_that_is_away(
    served: Callable[[Path], Server], small: Path, tmp_path: Path
) -> None:
    server = served(small / "agenthub.db")
    client = make_client(server)
    assert register(client, "before").status == 200
    wait_for(ready(client, None))
    ballast = small / "ballast"
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
            file.flush()

    wait_for(ready(client, "storage_full"))
    # Once the log has no room left, every write is refused.
    answers = [register(client, f"after-{n}", description="x" * 2000) for n in range(200)]
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    assert {answer.status for answer in refused} == {503}
    assert {answer.document["code"] for answer in refused} == {"storage_full"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert client.request("GET", "/v1/agents?limit=1").status == 200
    findings = {one.subject: one for one in examine(settings_for(server.url, tmp_path))}
    assert (findings["writes"].ok, findings["writes"].detail) == (False, "the disk is full")

    ballast.unlink()
    wait_for(ready(client, None))
    assert register(client, "afterwards").status == 200
    kept = {f"@acme:after-{n}" for n, answer in enumerate(answers) if answer.status == 200}
    with sqlite3.connect(small / "agenthub.db") as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM registry_agents")}
    connection.close()
    assert found == kept | {"@acme:before", "@acme:afterwards"}
