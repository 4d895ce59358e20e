"""Delegations and their money under many hands at once; ``python -m tests.reliability`` does more.

The trials are in ``races``, ``closings`` and ``faults``; each fails by itself when something does
not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import Settings
from tests.postgres import PostgresServer
from tests.reliability import faults, races
from tests.reliability.closings import closings
from tests.reliability.market import Market
from tests.reliability.server import Server, start_all

SERVERS = 2


@pytest.fixture
def market(make_server: Callable[..., Server]) -> Market:
    """Agents with money, and two servers of two workers on one database."""
    servers = [make_server() for _ in range(SERVERS)]
    start_all(servers)
    return Market(servers)


def assert_no_deadlocks(market: Market, settings: Settings) -> None:
    """Fail when PostgreSQL had to undo a transaction, though it was run again; ends the servers."""
    if not settings.is_sqlite:
        for server in market.servers:
            server.end()
        assert races.deadlocks(settings) == 0


def test_no_reading_of_all_balances_is_wrong(market: Market, settings: Settings) -> None:
    figures = races.bank(market, seconds=6)
    assert int(str(figures["writes acknowledged"])) > 100
    assert int(str(figures["readings of all balances"])) > 10
    assert int(str(figures["blocks sealed and verified"])) > 1
    assert_no_deadlocks(market, settings)


def test_what_happens_once(market: Market) -> None:
    races.rivals_for_a_balance(market)
    races.one_key(market)
    races.breaker(market, rounds=2)


def test_payments_in_opposite_directions(market: Market, settings: Settings) -> None:
    races.opposite_directions(market, rounds=4)
    assert_no_deadlocks(market, settings)


def test_of_several_endings_one_happens(settings: Settings) -> None:
    closings(settings, races=60)


def test_killed_servers_lose_nothing(market: Market) -> None:
    faults.kills(market, count=3)


def test_a_database_that_crashes_loses_nothing(tmp_path: Path) -> None:
    postgres = PostgresServer(durable=True)
    url = postgres.url(postgres.create_database())
    servers = [Server(url, tmp_path) for _ in range(SERVERS)]
    try:
        start_all(servers)
        faults.database_stops(Market(servers), postgres, count=1)
    finally:
        for server in servers:
            server.end()
        postgres.destroy()
