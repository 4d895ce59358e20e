"""``python -m tests.benchmarks``: measure the running service and print tables."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from app.config import Settings
from app.http.pagination import list_tag, pack_cursor
from tests.benchmarks import data, report
from tests.benchmarks.load import Sample, Unusable, burst, require_wrk
from tests.benchmarks.server import Server
from tests.benchmarks.statements import count_statements
from tests.conftest import settings_for
from tests.postgres import PostgresServer

TRIVIAL = "trivial"
PUBLISH = "publish"
READS = {
    TRIVIAL: "GET problem code (trivial)",
    "agent": "GET agent",
    "first page": "GET first 20 agents, with total",
    "page": "GET 20 agents after a random one",
    "version": "GET exact version",
}
WRITES = {PUBLISH: "PUT: publish version"}
PAGE = 20
# Requests of a run are drawn from this many different agents.
PATHS = 20_000


@dataclass
class Bench:
    """A loaded database with a server of its own."""

    agents: int
    server: Server
    key: str
    files: dict[str, Path]
    statements: dict[str, int]
    processes: tuple[int, ...]

    def send(self, route: str, seconds: int, run: str) -> Sample:
        """Return a burst of requests of one route; ``run`` names fresh versions of agents."""
        arguments = [str(self.files[route])]
        if route == PUBLISH:
            arguments += [self.key, run, str(self.files["body"])]
        return burst(self.server.url, seconds, self.processes, *arguments)


def paths_of(agents: int) -> dict[str, list[str]]:
    """Return the paths that each route is asked for, drawn at random from all agents."""
    source = random.Random(agents)
    numbers = [source.randrange(agents) for _ in range(PATHS)]
    single = [f"/v1/agents/{data.agent_id(number)}" for number in numbers]
    # Every page asked for is full, and none is the last.
    ordered = sorted(data.agent_id(number) for number in range(agents))[: -PAGE - 1]
    tag = list_tag("/v1/agents", {}, {})
    cursors = [pack_cursor(tag, last) for last in source.choices(ordered, k=PATHS)]
    return {
        TRIVIAL: ["/problems/not_found"],
        "agent": single,
        "first page": [f"/v1/agents?limit={PAGE}"],
        "page": [f"/v1/agents?limit={PAGE}&cursor={cursor}" for cursor in cursors],
        "version": [f"{path}/versions/{data.VERSION}" for path in single],
        PUBLISH: single,
    }


@contextmanager
def benches(database: str, sizes: Sequence[int], folder: Path) -> Iterator[list[Bench]]:
    """Give a loaded database and a running server for each size."""
    with ExitStack() as stack:
        postgres = PostgresServer(durable=True) if database == "postgresql" else None
        if postgres is not None:
            stack.callback(postgres.destroy)
        made = []
        for agents in sizes:
            home = folder / f"{database}-{agents}"
            home.mkdir()
            url = postgres.url(postgres.create_database()) if postgres else ""
            settings = settings_for(url or f"sqlite:///{home / 'agenthub.db'}", home)
            bench = _prepare(settings, agents, home, postgres)
            stack.callback(bench.server.stop)
            made.append(bench)
        yield made


def _prepare(settings: Settings, agents: int, home: Path, postgres: PostgresServer | None) -> Bench:
    started = time.monotonic()
    key = data.load(settings, agents)
    _say(f"{home.name}: loaded in {time.monotonic() - started:.1f} s")
    paths = paths_of(agents)
    files = {name: home / f"{name}.paths" for name in paths} | {"body": home / "body.json"}
    for name, lines in paths.items():
        files[name].write_text("\n".join(lines) + "\n")
    files["body"].write_text(f'{{"manifest": {data.template(0)}}}')
    examples = {name: paths[name][0] for name in READS}
    statements = count_statements(settings, examples, key)
    server = Server(settings, home)
    processes = [server.process.pid]
    if postgres is not None:
        processes.append(int((postgres.data / "postmaster.pid").read_text().split()[0]))
    return Bench(agents, server, key, files, statements, tuple(processes))


def measure(
    found: Sequence[Bench], routes: Sequence[str], rounds: int, seconds: int
) -> dict[int, dict[str, list[tuple[Sample, Sample]]]]:
    """Return each route's samples, each with one of the trivial route of the same server before it.

    Rounds take turns through all routes and sizes, so that whatever else the machine does meets
    all of them alike. A round before the first warms up and is not counted.
    """
    samples: dict[int, dict[str, list[tuple[Sample, Sample]]]] = {
        bench.agents: {route: [] for route in routes} for bench in found
    }
    for round_ in range(rounds + 1):
        duration = seconds if round_ else 1
        for route in routes:
            for bench in found:
                sample = trivial = bench.send(TRIVIAL, duration, "")
                if route != TRIVIAL:
                    sample = bench.send(route, duration, f"2.{round_}")
                if round_:
                    samples[bench.agents][route].append((sample, trivial))
        _say(f"round {round_} of {rounds}: {', '.join(routes)}")
    return samples


def _say(text: str) -> None:
    click.echo(text, err=True)


def _run(database: str, sizes: Sequence[int], rounds: int, seconds: int, folder: Path) -> None:
    with benches(database, sizes, folder) as found:
        reads = measure(found, list(READS), rounds, seconds)
        # Last, since every publish lengthens what reads of its agent answer.
        writes = measure(found, list(WRITES), rounds, seconds)
        statements = found[-1].statements
    samples = {agents: {**reads[agents], **writes[agents]} for agents in reads}
    routes: Mapping[str, str] = READS | WRITES
    click.echo(f"\n### {database}\n")
    for line in report.table(samples, statements, routes):
        click.echo(line)
    if len(sizes) > 1:
        click.echo()
        measured = {name: text for name, text in routes.items() if name != TRIVIAL}
        for line in report.growth(samples, measured):
            click.echo(line)


@click.command()
@click.option("--agents", default="100,10000,100000", show_default=True, help="Database sizes.")
@click.option("--databases", default="sqlite,postgresql", show_default=True)
@click.option("--seconds", default=2, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each route.")
def main(agents: str, databases: str, seconds: int, rounds: int) -> None:
    """Measure `agenthub serve` with 8 connections of wrk and print tables in Markdown."""
    sizes = sorted({int(size) for size in agents.split(",")})
    if sizes[0] <= PAGE + 1:
        raise click.UsageError(f"a database needs more than {PAGE + 1} agents")
    # Terminated like interrupted: the servers it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        require_wrk()
        click.echo(report.machine())
        for database in databases.split(","):
            with tempfile.TemporaryDirectory(prefix="agenthub-bench-") as folder:
                _run(database, sizes, rounds, seconds, Path(folder))
    except Unusable as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
