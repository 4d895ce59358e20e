"""``python -m tests.benchmarks.delegations``: how many delegations a second, against raw baselines.

On PostgreSQL the baseline is pgbench's TPC-B-like transaction on the same server in the same round;
on SQLite it is a loop over the statements that inline delegations sent, without the service.
"""

from __future__ import annotations

import hashlib
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import psycopg
from sqlalchemy import event, select, update

from app import create_app, engines, statements
from app.access.models import Owner
from app.access.service import create_key
from app.config import Settings
from app.db import Database
from app.delegation import creation, schemas
from app.delegation.payloads import Verdicts
from app.delegation.transitions import Actor
from app.http.context import EXTENSION, Services
from app.ledger import service as ledger
from app.logs import configure_logging
from app.registry.models import Namespace
from tests.benchmarks import data, report
from tests.benchmarks.load import CONNECTIONS, Sample, Unusable, burst, require_wrk
from tests.benchmarks.server import Server
from tests.conftest import settings_for
from tests.postgres import PostgresServer

SCRIPT = Path(__file__).with_name("delegations.lua")
AGENTS = 1_000
HALF = AGENTS // 2
FUNDS_MICROS = 10**14
METERED = 64
LOOPED = 300
PGBENCH_SCALE = 10
PER_REQUEST = {"inline": 1, "hot": 1, "remote": 1, "batch": 100, "meter": 100}
NAMES = {
    "inline": "inline delegations, 500 requesters",
    "hot": "inline delegations, one requester",
    "remote": "remote delegations: offer, accept, deliver and settle",
    "batch": "inline delegations in batches of 100",
    "meter": "metering events in batches of 100",
}


@dataclass
class Site:
    """A database with agents of two owners and money, and a server on it."""

    settings: Settings
    home: Path
    keys: tuple[str, str]
    server: Server
    processes: tuple[int, ...]

    def send(self, kind: str, seconds: int) -> Sample:
        """Return a burst of requests of one kind."""
        files = {"hot": "hot.pairs", "meter": "leases.pairs"}
        arguments = (
            "inline" if kind == "hot" else kind,
            uuid.uuid4().hex,
            str(self.home / "keys"),
            str(self.home / files.get(kind, "spread.pairs")),
        )
        environ = {"WRK_REMOTE": "1"} if kind == "remote" else {}
        return burst(
            self.server.url, seconds, self.processes, *arguments, script=SCRIPT, environ=environ
        )


def request_body(number: int, **members: Any) -> dict[str, Any]:
    """Return a loaded request from one of the first half of all agents to one of the second."""
    loaded: dict[str, Any] = schemas.CreateDelegation().load(
        {
            "requester_agent_id": data.agent_id(number % HALF),
            "delegate_agent_id": data.agent_id(HALF + number % HALF),
            "task_spec": "Read the invoice",
            "estimated_cost_usd": 0.5,
            "max_budget_usd": 1,
            **members,
        }
    )
    return loaded


def prepare(settings: Settings, home: Path, delegations: int) -> tuple[str, str]:
    """Fill a database and return the API keys of the requesters' and the delegates' owner."""
    first = data.load(settings, AGENTS)
    database = Database(settings)
    assert settings.key_pepper is not None
    with database.transaction() as session:
        second = create_key(session, settings.key_pepper.encode(), "delegates", "developer").secret
        owners = dict(session.execute(select(Owner.name, Owner.id)).all())
        later = data.agent_id(HALF).partition(":")[0]
        session.execute(
            update(Namespace).where(Namespace.name >= later).values(owner_id=owners["delegates"])
        )
        funded = [
            ledger.Movement(
                "topup",
                f"topup:benchmark:{number}",
                [
                    ledger.Leg(
                        ledger.WORLD, ledger.agent_account(data.agent_id(number)), FUNDS_MICROS
                    )
                ],
            )
            for number in range(AGENTS)
        ]
        ledger.book(session, funded, "benchmark")
    actor = Actor(owners[data.OWNER], "benchmark", is_operator=False)
    for begin in range(0, delegations, 100):
        with database.transaction() as session:
            bodies = [request_body(number) for number in range(begin, begin + 100)]
            creation.create(session, actor, bodies, Verdicts())
    database.dispose()
    (home / "keys").write_text(f"{first}\n{second}\n")
    pairs = [f"{data.agent_id(n)} {data.agent_id(HALF + n)}\n" for n in range(HALF)]
    (home / "spread.pairs").write_text("".join(pairs))
    hot = [f"{data.agent_id(0)} {data.agent_id(HALF + n)}\n" for n in range(HALF)]
    (home / "hot.pairs").write_text("".join(hot))
    return first, second


def take_leases(settings: Settings, keys: tuple[str, str]) -> list[str]:
    """Offer and accept delegations to be metered; return a line of id and lease token for each."""
    app = create_app(settings)
    client, lines = app.test_client(), []
    for number in range(METERED):
        headers = {"X-API-Key": keys[0], "Idempotency-Key": uuid.uuid4().hex}
        body = {
            "execution": "remote",
            "requester_agent_id": data.agent_id(number),
            "delegate_agent_id": data.agent_id(HALF + number),
            "task_spec": "Read the invoice",
            "estimated_cost_usd": 1_000_000,
            "max_budget_usd": 1_000_000,
            "lease_seconds": 86_400,
            "deadline_seconds": 86_400,
        }
        offered = client.post("/v1/delegations", json=body, headers=headers).get_json()
        path = f"/v1/delegations/{offered['delegation_id']}/accept"
        headers = {"X-API-Key": keys[1], "Idempotency-Key": uuid.uuid4().hex}
        accepted = client.post(path, json={}, headers=headers).get_json()
        lines.append(f"{offered['delegation_id']} {accepted['lease_token']}\n")
    app.extensions[EXTENSION].database.dispose()
    return lines


@contextmanager
def site(postgres: PostgresServer | None, folder: Path, delegations: int) -> Iterator[Site]:
    """Give a site whose database holds this many delegations already."""
    home = folder / f"{'postgresql' if postgres else 'sqlite'}-{delegations}"
    home.mkdir()
    url = postgres.url(postgres.create_database()) if postgres else ""
    settings = settings_for(url or f"sqlite:///{home / 'agenthub.db'}", home)
    keys = prepare(settings, home, delegations)
    (home / "leases.pairs").write_text("".join(take_leases(settings, keys)))
    server = Server(settings, home)
    processes = [server.process.pid]
    if postgres is not None:
        processes.append(int((postgres.data / "postmaster.pid").read_text().split()[0]))
    try:
        yield Site(settings, home, keys, server, tuple(processes))
    finally:
        server.stop()


def pgbench(postgres: PostgresServer, database: str, seconds: int) -> float:
    """Return the TPC-B-like transactions a second that 8 clients of pgbench come to."""
    command = [
        str(postgres.binaries / "pgbench"), "-h", "127.0.0.1", "-p", str(postgres.port),
        "-U", "agenthub", "-c", str(CONNECTIONS), "-j", "2", "-T", str(seconds), database,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([0-9.]+) \(without", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def begin_pgbench(postgres: PostgresServer) -> Callable[[int], float]:
    """Make pgbench's tables and return what measures it."""
    database = postgres.create_database()
    command = [
        str(postgres.binaries / "pgbench"), "-i", "-q", "-s", str(PGBENCH_SCALE),
        "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "agenthub", database,
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True)
    return lambda seconds: pgbench(postgres, database, seconds)


Sent = tuple[bytes, list[bytes | None], list[int]]


def begin_floor(postgres: PostgresServer, folder: Path) -> Callable[[int], float]:
    """Record what inline delegations send to PostgreSQL and return what measures it alone.

    8 clients send the very statements of recorded delegations, prepared, to a copy of the database
    as it was before, with nothing of the service in between: more than this no service can reach.
    """
    home = folder / "floor"
    home.mkdir()
    pristine = postgres.create_database()
    settings = settings_for(postgres.url(pristine), home)
    key, _ = prepare(settings, home, 0)
    recorded = settings_for(postgres.url(postgres.create_database(pristine)), home)
    transactions = [_record(recorded, key, number) for number in range(LOOPED)]

    def measure(_: int) -> float:
        name = postgres.create_database(pristine)
        shares = [transactions[number::CONNECTIONS] for number in range(CONNECTIONS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            connections = [psycopg.connect(postgres.url(name)) for _ in shares]
            list(pool.map(_prepare_all, connections, shares))
            begun = time.perf_counter()
            list(pool.map(_send_all, connections, shares))
            seconds = time.perf_counter() - begun
        for connection in connections:
            connection.close()
        postgres.drop_database(name)
        return LOOPED / seconds

    return measure


def _record(settings: Settings, key: str, number: int) -> list[Sent]:
    """Make an inline delegation and return every message that PostgreSQL was sent for it."""
    app = _recording_app(settings)
    sent: list[Sent] = []
    prepared, control = statements._OnPostgresql.run, engines._control

    def run(self: Any, connection: Any, parameters: Any) -> Any:
        given = {**self._constants, **parameters}
        pairs = [statements._to_postgresql(given[name]) for name in self._names]
        sent.append((self._sql, [value for value, _ in pairs], [kind for _, kind in pairs]))
        return prepared(self, connection, parameters)

    def command(connection: Any, text: str) -> Any:
        sent.append((text.encode(), [], []))
        return control(connection, text)

    with (
        mock.patch.object(statements._OnPostgresql, "run", run),
        mock.patch.object(engines, "_control", command),
    ):
        headers = {"X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex}
        body = inline_request(number)
        response = app.test_client().post("/v1/delegations", json=body, headers=headers)
    assert response.status_code == 200
    return sent


@cache
def _recording_app(settings: Settings) -> Any:
    return create_app(settings)


def _prepare_all(connection: Any, share: list[list[Sent]]) -> None:
    for sql in {sql for sent in share for sql, values, _ in sent if values}:
        connection.pgconn.prepare(hashlib.md5(sql).hexdigest().encode(), sql)


def _send_all(connection: Any, share: list[list[Sent]]) -> None:
    libpq = connection.pgconn
    for sent in share:
        for sql, values, formats in sent:
            if values:
                name = hashlib.md5(sql).hexdigest().encode()
                result = libpq.exec_prepared(name, values, formats)
            else:
                result = libpq.exec_(sql)
            assert not result.error_message, result.error_message


def inline_request(number: int) -> dict[str, Any]:
    """Return the body of an inline delegation."""
    return {
        "requester_agent_id": data.agent_id(number % HALF),
        "delegate_agent_id": data.agent_id(HALF + number % HALF),
        "task_spec": "Read the invoice",
        "estimated_cost_usd": 0.5,
        "max_budget_usd": 1,
    }


def begin_loop(folder: Path) -> Callable[[int], float]:
    """Record what inline delegations send to SQLite and return what measures a loop over it."""
    home = folder / "loop"
    home.mkdir()
    settings = settings_for(f"sqlite:///{home / 'agenthub.db'}", home)
    key, _ = prepare(settings, home, 0)
    pristine = (home / "agenthub.db").read_bytes()
    app = create_app(settings)
    services: Services = app.extensions[EXTENSION]
    transactions: list[list[tuple[str, Any]]] = []

    def note(_c: Any, _u: Any, sql: str, parameters: Any, *_: Any) -> None:
        transactions[-1].append((sql, parameters))

    for engine in (services.database.reader, services.database.writer):
        event.listen(engine, "before_cursor_execute", note)
    event.listen(
        services.database.writer,
        "begin",
        lambda _: transactions[-1].append(("BEGIN IMMEDIATE", ())),
    )
    client = app.test_client()
    for number in range(LOOPED):
        transactions.append([])
        body = inline_request(number)
        headers = {"X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex}
        assert client.post("/v1/delegations", json=body, headers=headers).status_code == 200
    services.database.dispose()

    def measure(_: int) -> float:
        copy = home / f"{uuid.uuid4().hex}.db"
        copy.write_bytes(pristine)
        connection = sqlite3.connect(copy, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        begun = time.perf_counter()
        for sent in transactions:
            for sql, parameters in sent:
                # A list of tuples is one execution for each.
                many = bool(parameters) and isinstance(parameters[0], tuple)
                (connection.executemany if many else connection.execute)(sql, parameters).fetchall()
            connection.execute("COMMIT")
        seconds = time.perf_counter() - begun
        connection.close()
        copy.unlink()
        return LOOPED / seconds

    return measure


def run(database: str, rounds: int, seconds: int, grown: int, folder: Path) -> None:
    """Measure one database and print its table."""
    with ExitStack() as stack:
        postgres = PostgresServer(durable=True) if database == "postgresql" else None
        if postgres is not None:
            stack.callback(postgres.destroy)
        # The service in this process, which only prepares, writes no line for each request.
        configure_logging(settings_for("sqlite:///unused.db", folder))
        baseline = begin_pgbench(postgres) if postgres else begin_loop(folder)
        alone = begin_floor(postgres, folder) if postgres else None
        here = stack.enter_context(site(postgres, folder, 0))
        there = stack.enter_context(site(postgres, folder, grown)) if grown else None
        samples: dict[str, list[tuple[Sample, float]]] = {kind: [] for kind in NAMES}
        growth: list[float] = []
        floor: list[float] = []
        for round_ in range(rounds + 1):
            duration = seconds if round_ else 1
            for kind in NAMES:
                base = baseline(duration)
                sample = here.send(kind, duration)
                if round_:
                    samples[kind].append((sample, base))
            if alone is not None:
                base = baseline(duration)
                share = alone(duration) / base
                if round_:
                    floor.append(share)
            if there is not None:
                few, many = here.send("inline", duration), there.send("inline", duration)
                if round_:
                    growth.append(many.cpu_ms / few.cpu_ms)
            click.echo(f"{database}: round {round_} of {rounds}", err=True)
    _print(database, samples, floor, growth, grown)


def _print(
    database: str,
    samples: dict[str, list[tuple[Sample, float]]],
    floor: list[float],
    growth: list[float],
    grown: int,
) -> None:
    unit = "pgbench" if database == "postgresql" else "loop"
    click.echo(f"\n### {database}\n")
    click.echo(f"| what | a second | {unit} a second | ratio | p50 ms | p99 ms | CPU ms each |")
    click.echo("|---|---:|---:|---:|---:|---:|---:|")

    def rate(kind: str, sample: Sample) -> float:
        if kind == "remote":
            return sample.finished_per_second
        return sample.per_second * PER_REQUEST[kind]

    for kind, text in NAMES.items():
        pairs = samples[kind]
        each = [sample.cpu_ms * sample.per_second / rate(kind, sample) for sample, _ in pairs]
        click.echo(
            f"| {text} | {median(rate(kind, sample) for sample, _ in pairs):,.0f}"
            f" | {median(base for _, base in pairs):,.0f}"
            f" | {median(rate(kind, sample) / base for sample, base in pairs):.2f}"
            f" | {median(sample.p50_ms for sample, _ in pairs):.1f}"
            f" | {median(sample.p99_ms for sample, _ in pairs):.1f}"
            f" | {median(each):.2f} |"
        )
    spread, hot = samples["inline"], samples["hot"]
    shares = [
        one.per_second / many.per_second for (one, _), (many, _) in zip(hot, spread, strict=True)
    ]
    click.echo(f"\n- one requester against 500: {median(shares):.2f}")
    if floor:
        click.echo(f"- PostgreSQL with the same statements and no service: {median(floor):.2f}")
    if growth:
        click.echo(f"- CPU time of an inline delegation after {grown:,}: {median(growth):.2f}")


@click.command()
@click.option("--databases", default="sqlite,postgresql", show_default=True)
@click.option("--seconds", default=3, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each kind.")
@click.option(
    "--grown", default=100_000, show_default=True, help="Delegations of a grown database."
)
def main(databases: str, seconds: int, rounds: int, grown: int) -> None:
    """Measure `agenthub serve` with 8 connections of wrk and print tables in Markdown."""
    # Terminated like interrupted: the servers it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        require_wrk()
        click.echo(report.machine())
        for database in databases.split(","):
            with tempfile.TemporaryDirectory(prefix="agenthub-bench-") as folder:
                run(database, rounds, seconds, grown, Path(folder))
    except Unusable as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
