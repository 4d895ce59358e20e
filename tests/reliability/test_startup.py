"""Starting: two servers at once, and a server on a schema that is not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.access.service import ADMIN_KEY_FILE
from app.config import Settings
from tests.registry.manifests import build_manifest
from tests.reliability.server import Server, opened, url_of


def test_two_first_starts_at_once(empty_settings: Settings, tmp_path: Path) -> None:
    """Both migrate, one makes the admin key, and with SQLite both find one generated pepper."""
    own: dict[str, Any] = {"KEY_PEPPER": None} if empty_settings.is_sqlite else {}
    servers = [Server(url_of(empty_settings), tmp_path, WORKERS=1, **own) for _ in range(2)]
    try:
        for server in servers:
            server.spawn()
        for server in servers:
            server.wait_until_ready()
        assert sum("Admin API key" in server.log for server in servers) == 1
        found = (tmp_path / ADMIN_KEY_FILE).read_text().strip()
        body = {"namespace": "@acme", "manifest": build_manifest()}
        answers = [
            server.client(found).request("POST", "/v1/agents", body, key="k") for server in servers
        ]
        assert [answer.status for answer in answers] == [200, 200]
        assert [answer.is_replay for answer in answers] == [False, True]
        tracks = servers[0].client().request("GET", "/readyz").document["tracks"]
        assert {track["state"] for track in tracks} == {"current"}
    finally:
        for server in servers:
            server.end()


def test_an_outdated_schema_is_not_served(settings: Settings, tmp_path: Path) -> None:
    server = Server(url_of(settings), tmp_path, command="serve")
    with opened(server) as database, database.transaction() as session:
        session.execute(text("DELETE FROM alembic_version WHERE version_num LIKE 'registry%'"))
    try:
        server.spawn()
        assert server.wait() != 0
        assert "alembic stamp registry@head" in server.log
        assert "Traceback" not in server.log
    finally:
        server.end()


def test_a_port_in_use_is_said_plainly(settings: Settings, tmp_path: Path) -> None:
    first = Server(url_of(settings), tmp_path, WORKERS=1)
    second = Server(url_of(settings), tmp_path, WORKERS=1)
    second.port = first.port
    try:
        first.start()
        second.spawn()
        assert second.wait() != 0
        assert "Traceback" not in second.log
        assert str(first.port) in second.log
        assert first.client().request("GET", "/healthz").status == 200
    finally:
        second.end()
        first.end()
