"""Trials of what must survive under load: killed servers, and a PostgreSQL that crashes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from tests.postgres import PostgresServer
from tests.reliability.evidence import assert_consistent
from tests.reliability.load import running
from tests.reliability.market import Market
from tests.reliability.races import Figures
from tests.reliability.server import Client, Server, opened, start_all, wait_for
from tests.reliability.watch import Watch, watching
from tests.reliability.written import assert_written

SECONDS_OF_LOAD = 0.6
# After so many faults the load pauses, and everything acknowledged since is asked for again.
FAULTS_TO_REPLAY = 10
SECONDS_TO_RECOVER = 60


def kills(market: Market, count: int) -> Figures:
    """Kill servers under load, one after the other and now and then all, and start them again.

    Before all are killed the readers let go of the database, so that nobody has it open: SQLite
    then recovers from its log as after a power failure.
    """
    recoveries: list[float] = []

    def kill(victims: Sequence[Server]) -> int:
        begun = time.monotonic()
        for server in victims:
            server.kill()
        start_all(victims)
        recoveries.append(time.monotonic() - begun)
        return len(victims)

    def one(number: int, watch: Watch) -> int:
        watch.wait(SECONDS_OF_LOAD * random.uniform(0.5, 1.5))
        return kill([market.servers[number % len(market.servers)]])

    def all_() -> int:
        time.sleep(SECONDS_OF_LOAD)
        return kill(market.servers)

    figures = under_load(market, count, one, all_, len(market.servers))
    return {
        "kills of a server": figures.pop("faults"),
        **figures,
        "longest from a kill until it was ready again": f"{max(recoveries):.1f} s",
    }


def database_stops(market: Market, postgres: PostgresServer, count: int) -> Figures:
    """Crash PostgreSQL under load and start it again; nobody touches the servers."""
    recoveries: list[float] = []

    def crash(_: int, watch: Watch) -> int:
        watch.wait(SECONDS_OF_LOAD * 2)
        postgres.stop("immediate")
        _assert_unavailable([server.client() for server in market.servers])
        written = len(market.journal)
        postgres.start()
        begun = time.monotonic()
        wait_for(lambda: len(market.journal) > written + 20, SECONDS_TO_RECOVER)
        recoveries.append(time.monotonic() - begun)
        return 1

    figures = under_load(market, count, crash)
    assert market.repeated["database_unavailable"] > 0
    return {
        "immediate stops of PostgreSQL": figures.pop("faults"),
        **figures,
        "answers 503 with Retry-After": market.repeated["database_unavailable"],
        "longest until 20 writes, once PostgreSQL was back": f"{max(recoveries):.1f} s",
    }


def _assert_unavailable(clients: Sequence[Client]) -> None:
    for client in clients:
        ready = client.request("GET", "/readyz")
        assert (ready.status, ready.document["status"]) == (503, "unavailable")
        assert client.request("GET", "/healthz").status == 200


def under_load(
    market: Market,
    count: int,
    fault: Callable[[int, Watch], int],
    finale: Callable[[], int] = lambda: 0,
    finale_counts: int = 0,
) -> Figures:
    """Cause faults while clients trade and readers add up; then look for every single write.

    Both return how many faults they caused. ``finale`` comes last in each round, when no reader
    has the database open, and causes ``finale_counts``.
    """
    market.faulty = True
    faults = replayed = views = before = 0
    with opened(market.servers[0], threads=4) as database:
        while faults < count:
            until = min(count, faults + FAULTS_TO_REPLAY) - finale_counts
            with running(market, seed=faults):
                with watching(database, faulty=True) as watch:
                    while faults < until and not watch.stopped.is_set():
                        faults += fault(faults, watch)
                database.dispose()
                faults += finale()
            views += watch.views
            assert_consistent(database)
            assert_written(database, market.journal)
            replayed += market.replay(before)
            before = len(market.journal)
        # Replaying has changed nothing.
        assert_written(database, market.journal)
    return {
        "faults": faults,
        "writes acknowledged": len(market.journal),
        "of them lost": 0,
        "answers that only a repetition brought": sum(
            entry.answer.is_replay for entry in market.journal
        ),
        "answers compared byte by byte": replayed,
        "readings of all balances": views,
    }
