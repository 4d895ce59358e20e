"""Real servers, each on a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from app.config import Settings
from tests.reliability.server import Server, url_of


@pytest.fixture
def make_server(settings: Settings) -> Iterator[Callable[..., Server]]:
    """Make servers on one migrated, empty database; whatever is left of them is killed."""
    servers: list[Server] = []

    def make(**options: object) -> Server:
        servers.append(Server(url_of(settings), settings.data_dir, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.end()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server that is ready."""
    return make_server().start()
