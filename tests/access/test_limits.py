"""A key may make so many requests a minute, whichever servers they go to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app import clock
from app.access.errors import RateLimited
from app.access.limits import RateLimiter
from app.access.models import RequestCount
from app.access.service import create_key
from app.config import Settings
from app.db import Database
from app.ops.maintenance import RateSharing
from tests.client import Api
from tests.conftest import PEPPER, settings_for

NOON = datetime(2026, 5, 4, 12, 0, 20, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a service that lets a key ask five times a minute."""
    url = settings.url.render_as_string(hide_password=False)
    return settings_for(url, settings.data_dir, rate_limit_per_minute=5)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database that the servers share."""
    database = Database(settings)
    yield database
    database.dispose()


@pytest.fixture
def key_id(database: Database) -> str:
    """The id of a key."""
    with database.transaction() as session:
        return create_key(session, PEPPER.encode(), "acme", "developer").id


def admitted(limiter: RateLimiter, key_id: str) -> int:
    """Ask until it is refused, and return how often it was not."""
    for number in range(1000):
        try:
            limiter.admit(key_id)
        except RateLimited:
            return number
    raise AssertionError("nothing was refused")


def test_one_request_too_many_is_told_when_to_return(acme: Api) -> None:
    with clock.frozen(lambda: NOON):
        for _ in range(5):
            assert acme.get("/v1/cost/metering").status_code == 200
        response = acme.get("/v1/cost/metering")
        assert (response.status_code, response.get_json()["code"]) == (429, "rate_limited")
        assert response.headers["Retry-After"] == "40"
        write = acme.post("/v1/agents", {}, idempotency_key="k")
        assert write.status_code == 429
        # Who needs no key is not counted.
        assert acme.get("/v1/agents").status_code == 200
    with clock.frozen(lambda: NOON + timedelta(seconds=40)):
        assert acme.get("/v1/cost/metering").status_code == 200
        # The refused write has used up nothing.
        assert acme.post("/v1/agents", {}, idempotency_key="k").status_code == 422


def test_servers_count_together(database: Database, key_id: str) -> None:
    servers = [RateLimiter(100) for _ in range(2)]
    sharings = [RateSharing(database, limiter) for limiter in servers]
    with clock.frozen(lambda: NOON):
        for _ in range(30):
            servers[0].admit(key_id)
        for _ in range(40):
            servers[1].admit(key_id)
        for sharing in [*sharings, *sharings]:
            sharing.round()
        # The second has learned of the first's, and the first learns of the second's when it tells
        # something itself.
        assert admitted(servers[1], key_id) == 30
        servers[0].admit(key_id)
        for sharing in reversed(sharings):
            sharing.round()
        assert admitted(servers[0], key_id) == 0
    with clock.frozen(lambda: NOON + timedelta(minutes=1)):
        assert [admitted(server, key_id) for server in servers] == [100, 100]
        for sharing in sharings:
            sharing.round()
    with database.transaction() as session:
        assert session.get_one(RequestCount, key_id).requests == 200


def test_a_server_that_starts_again_learns_what_was_counted(
    database: Database, key_id: str
) -> None:
    with clock.frozen(lambda: NOON):
        before, after = RateLimiter(100), RateLimiter(100)
        assert admitted(before, key_id) == 100
        RateSharing(database, before).round()
        after.admit(key_id)
        RateSharing(database, after).round()
        assert admitted(after, key_id) == 0


def test_a_clock_that_is_behind_takes_nothing_back(database: Database, key_id: str) -> None:
    behind, ahead = RateLimiter(100), RateLimiter(100)
    with clock.frozen(lambda: NOON + timedelta(minutes=1)):
        assert admitted(ahead, key_id) == 100
        RateSharing(database, ahead).round()
    with clock.frozen(lambda: NOON):
        assert admitted(behind, key_id) == 100
        RateSharing(database, behind).round()
    with database.transaction() as session:
        assert session.get_one(RequestCount, key_id).minute == int(NOON.timestamp()) // 60 + 1


def test_a_rare_key_costs_no_write(database: Database, key_id: str) -> None:
    limiter = RateLimiter(6000)
    for _ in range(59):
        limiter.admit(key_id)
    assert limiter.pending() == {}


def test_no_limit_counts_nothing(key_id: str) -> None:
    limiter = RateLimiter(0)
    for _ in range(1000):
        limiter.admit(key_id)
    assert limiter.pending() == {}
