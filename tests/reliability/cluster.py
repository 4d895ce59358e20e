"""Trials of the loss of the primary: a synchronous standby takes its place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.postgres import PostgresServer
from tests.reliability.faults import SECONDS_OF_LOAD, SECONDS_TO_RECOVER, under_load
from tests.reliability.market import Market
from tests.reliability.races import Figures
from tests.reliability.server import wait_for
from tests.reliability.watch import Watch


class Pair:
    """A primary and its synchronous standby, each on a port of its own of this machine."""

    def __init__(self) -> None:
        self.primary = PostgresServer(durable=True)
        self.database = self.primary.create_database()
        self.standby = self._join()
        # Servers look for the primary in this order, whichever it is.
        self.hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"

    @property
    def url(self) -> str:
        """The database's URL, with both hosts."""
        return f"postgresql://agenthub@{self.hosts}/{self.database}"

    def _join(self, port: int | None = None) -> PostgresServer:
        """Add a standby and have every commit wait for it from now on."""
        standby = PostgresServer(durable=True, standby_of=self.primary, port=port)
        self.primary.administer(
            "ALTER SYSTEM SET synchronous_standby_names TO 'standby'", "SELECT pg_reload_conf()"
        )
        wait_for(self._is_synchronous, SECONDS_TO_RECOVER)
        return standby

    def _is_synchronous(self) -> bool:
        return self.primary.administer("SELECT sync_state FROM pg_stat_replication") == [("sync",)]

    def fail_over(self) -> PostgresServer:
        """Kill the primary and promote its standby. From here there is no way back to the old one.

        Returns the lost primary.
        """
        lost = self.primary
        lost.kill()
        self.standby.promote()
        # The copy of the old primary's settings names a standby that is nowhere yet.
        self.primary = self.standby
        self.primary.administer(
            "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"
        )
        return lost

    def replace(self, lost: PostgresServer) -> None:
        """Throw the lost server's data away and give the primary a new standby on its port."""
        lost.destroy()
        self.standby = self._join(lost.port)

    def destroy(self) -> None:
        """Stop both servers and remove their files."""
        self.primary.destroy()
        self.standby.destroy()


@contextmanager
def pair() -> Iterator[Pair]:
    """Give a primary with its standby."""
    both = Pair()
    try:
        yield both
    finally:
        both.destroy()


def failovers(market: Market, both: Pair, count: int) -> Figures:
    """Kill the primary under load and promote its standby; nobody touches the servers."""
    recoveries: list[float] = []

    def fail_over(_: int, watch: Watch) -> int:
        watch.wait(SECONDS_OF_LOAD * 2)
        begun = time.monotonic()
        lost = both.fail_over()
        written = len(market.journal)
        wait_for(lambda: len(market.journal) > written + 20, SECONDS_TO_RECOVER)
        recoveries.append(time.monotonic() - begun)
        both.replace(lost)
        return 1

    figures = under_load(market, count, fail_over)
    return {
        "primaries killed and standbys promoted": figures.pop("faults"),
        **figures,
        "longest from a kill until 20 writes on the new primary": f"{max(recoveries):.1f} s",
    }
