"""``python -m tests.benchmarks.snapshots``: how long snapshots take, and how much memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from app.config import Settings
from app.db import Database
from app.ledger.seals import seal_pending
from app.logs import configure_logging
from tests.benchmarks.delegations import prepare
from tests.conftest import settings_for
from tests.migrations.project import environ
from tests.postgres import PostgresServer


@dataclass(frozen=True)
class Run:
    """One command: seconds, and the most memory its process had in MiB."""

    seconds: float
    mib: int


def agenthub(settings: Settings, *arguments: str) -> Run:
    """Run a command that succeeds.

    What the kernel tells of a child's memory includes that of its parent, so it is looked at
    instead, fifty times a second.
    """
    began, most = time.perf_counter(), 0
    process = psutil.Popen(
        [sys.executable, "-m", "app.cli", *arguments, "--json"],
        env=environ(settings),
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        with suppress(psutil.Error):
            most = max(most, process.memory_info().rss)
        time.sleep(0.02)
    assert process.returncode == 0, arguments
    return Run(time.perf_counter() - began, most // 2**20)


def measure(delegations: int, folder: Path, postgres: PostgresServer) -> dict[str, Run]:
    """Measure every command for a database with this many delegations."""
    folder.mkdir()
    source = settings_for(f"sqlite:///{folder / 'agenthub.db'}", folder)
    prepare(source, folder, delegations)
    database = Database(source)
    with database.transaction() as session:
        seal_pending(session)
    database.dispose()
    first, second = folder / "sqlite.snapshot", folder / "postgresql.snapshot"
    small = settings_for(f"sqlite:///{folder / 'restored.db'}", folder)
    large = settings_for(postgres.url(postgres.create_database()), folder)
    return {
        "create, SQLite": agenthub(source, "snapshot", "create", str(first)),
        "verify": agenthub(source, "snapshot", "verify", str(first)),
        "restore, SQLite to SQLite": agenthub(small, "snapshot", "restore", str(first)),
        "restore, SQLite to PostgreSQL": agenthub(large, "snapshot", "restore", str(first)),
        "create, PostgreSQL": agenthub(large, "snapshot", "create", str(second)),
    }


@click.command()
@click.option("--delegations", default=[20_000, 100_000], multiple=True, show_default=True)
def main(delegations: tuple[int, ...]) -> None:
    """Print a table in Markdown."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        configure_logging(settings_for("sqlite:///unused.db", folder))
        postgres = PostgresServer(durable=True)
        stack.callback(postgres.destroy)
        found = {n: measure(n, folder / str(n), postgres) for n in delegations}
    click.echo("| command |" + "".join(f" {n:,}: s | MiB |" for n in delegations))
    click.echo("|---|" + "---:|---:|" * len(delegations))
    for name in found[delegations[0]]:
        cells = [f" {found[n][name].seconds:.1f} | {found[n][name].mib} |" for n in delegations]
        click.echo(f"| {name} |" + "".join(cells))


if __name__ == "__main__":
    main()
