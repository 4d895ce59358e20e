"""What a newcomer does first: ``up``, and the key it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from tests.registry.manifests import build_manifest
from tests.reliability.server import API_KEY, Server, url_of


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
