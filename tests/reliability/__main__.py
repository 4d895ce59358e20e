"""``python -m tests.reliability``: the long form of the trials, and what it measured as a table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from app.config import Settings
from app.logs import configure_logging
from app.ops.tracks import upgrade_all
from tests.conftest import DIALECTS, settings_for
from tests.postgres import PostgresServer
from tests.reliability import cluster, faults, patroni, races
from tests.reliability.closings import closings
from tests.reliability.market import Market
from tests.reliability.server import Server, start_all, url_of

SERVERS = 2


class Site:
    """A migrated database of its own, on which a trial starts servers."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self.stack = stack
        self.servers: list[Server] = []

    def market(self) -> Market:
        """Start servers and open a market on them."""
        url = url_of(self.settings)
        self.servers = [Server(url, self.settings.data_dir) for _ in range(SERVERS)]
        for server in self.servers:
            self.stack.callback(server.end)
        start_all(self.servers)
        return Market(self.servers)

    def deadlocks(self) -> races.Figures:
        """End the servers and say how many deadlocks there were."""
        if self.settings.is_sqlite:
            return {}
        for server in self.servers:
            server.end()
        return {"deadlocks in PostgreSQL": races.deadlocks(self.settings)}


@contextmanager
def site(postgres: PostgresServer | None) -> Iterator[Site]:
    """Give a database that is migrated and empty."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agenthub-")))
        url = postgres.url(postgres.create_database()) if postgres else None
        settings = settings_for(url or f"sqlite:///{folder / 'agenthub.db'}", folder)
        configure_logging(settings)
        upgrade_all(settings)
        yield Site(settings, stack)


Trial = Callable[[Site], races.Figures]


def trials(
    postgres: PostgresServer | None, *, kills: int, stops: int, closes: int, seconds: int
) -> dict[str, Trial]:
    """Return the trials of one database, by name."""

    def once(at: Site) -> races.Figures:
        market = at.market()
        return {
            **races.rivals_for_a_balance(market),
            **races.one_key(market),
            **races.breaker(market, rounds=max(2, closes // 50)),
        }

    def opposite(at: Site) -> races.Figures:
        figures = races.opposite_directions(at.market(), rounds=max(4, closes // 50))
        return {**figures, **at.deadlocks()}

    found: dict[str, Trial] = {
        "Bank": lambda at: races.bank(at.market(), seconds) | at.deadlocks(),
        "Once": once,
        "Opposite directions": opposite,
        "Endings": lambda at: closings(at.settings, closes),
        "Killed servers": lambda at: faults.kills(at.market(), kills),
    }
    if postgres is not None:
        found["Crashes of PostgreSQL"] = lambda at: faults.database_stops(
            at.market(), postgres, stops
        )
    return found


def on_clusters(failovers: int, changes: int, folder: Path) -> Iterator[tuple[str, races.Figures]]:
    """Run the trials that bring a PostgreSQL of several servers along, as far as installed."""
    with cluster.pair() as both, servers_at(both.url, folder) as market:
        yield "Loss of the primary", cluster.failovers(market, both, failovers)
    if patroni.missing():
        click.echo(f"Patroni: not installed: {', '.join(patroni.missing())}", err=True)
        return
    with patroni.cluster() as of, servers_at(of.url, folder) as market:
        yield "Patroni, etcd, HAProxy", patroni.changes_of_primary(market, of, changes)


@contextmanager
def servers_at(url: str, folder: Path) -> Iterator[Market]:
    """Start servers on a database and open a market on them."""
    servers = [Server(url, folder) for _ in range(SERVERS)]
    try:
        start_all(servers)
        yield Market(servers)
    finally:
        for server in servers:
            server.end()


def table(rows: Mapping[str, Mapping[str, races.Figures]]) -> str:
    """Return the figures as Markdown: a row each, a column for each database."""
    databases = list(rows)
    lines = [
        f"| | | {' | '.join(databases)} |",
        f"|---|---|{'---:|' * len(databases)}",
    ]
    measured = {name: None for figures in rows.values() for name in figures}
    for trial in measured:
        names = {name: None for figures in rows.values() for name in figures.get(trial, {})}
        for name in names:
            cells = [_cell(rows[one].get(trial, {}).get(name)) for one in databases]
            lines.append(f"| {trial} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items()))
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


@click.command()
@click.option("--kills", default=100, show_default=True, help="Kills of a server.")
@click.option("--database-stops", default=5, show_default=True, help="Crashes of PostgreSQL.")
@click.option("--races", "closes", default=1000, show_default=True, help="Races to close.")
@click.option("--seconds", default=60, show_default=True, help="Length of the bank trial.")
@click.option("--failovers", default=5, show_default=True, help="Primaries killed.")
@click.option("--changes", default=4, show_default=True, help="Changes of a Patroni cluster.")
@click.option("--databases", default=",".join(DIALECTS), show_default=True)
def main(
    kills: int,
    database_stops: int,
    closes: int,
    seconds: int,
    failovers: int,
    changes: int,
    databases: str,
) -> None:
    """Run every trial on each database; end with an error at the first that does not hold."""
    rows: dict[str, dict[str, races.Figures]] = {}
    for database in databases.split(","):
        rows[database] = {}
        postgres = PostgresServer(durable=True) if database == "postgresql" else None
        try:
            numbers = {"kills": kills, "stops": database_stops, "closes": closes}
            for name, trial in trials(postgres, **numbers, seconds=seconds).items():
                begun = time.monotonic()
                with site(postgres) as at:
                    rows[database][name] = trial(at) | {"R1 to R12": "hold"}
                click.echo(f"{database}: {name}: {time.monotonic() - begun:.0f} s", err=True)
        finally:
            if postgres is not None:
                postgres.destroy()
    if "postgresql" in rows:
        with tempfile.TemporaryDirectory(prefix="agenthub-") as folder:
            for name, figures in on_clusters(failovers, changes, Path(folder)):
                rows["postgresql"][name] = figures | {"R1 to R12": "hold"}
                click.echo(f"postgresql: {name}", err=True)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
