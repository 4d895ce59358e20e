"""Several servers on a PostgreSQL of more than one machine, as far as one machine can show it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from app import ids
from app.access.models import Owner
from app.clock import now
from app.db import Database
from app.ops.tracks import upgrade_all
from tests.conftest import settings_for
from tests.postgres import PostgresServer, free_port
from tests.reliability import cluster, patroni, races
from tests.reliability.market import Market
from tests.reliability.server import Server, start_all, wait_for


def test_the_loss_of_the_primary_loses_nothing(tmp_path: Path) -> None:
    with cluster.pair() as both:
        servers = [Server(both.url, tmp_path) for _ in range(2)]
        try:
            start_all(servers)
            cluster.failovers(Market(servers), both, count=1)
        finally:
            for server in servers:
                server.end()


@pytest.mark.skipif(bool(patroni.missing()), reason=f"not installed: {patroni.missing()}")
def test_the_documented_cluster(tmp_path: Path) -> None:
    with patroni.cluster() as cluster_:
        servers = [Server(cluster_.url, tmp_path) for _ in range(2)]
        try:
            start_all(servers)
            patroni.changes_of_primary(Market(servers), cluster_, count=2)
        finally:
            for server in servers:
                server.end()


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a migrated database: at PostgreSQL itself, and at a pooler before it."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    postgres = PostgresServer(durable=True)
    database, port = postgres.create_database(), free_port()
    upgrade_all(settings_for(postgres.url(database), tmp_path))
    configuration = postgres.folder / "pgbouncer.ini"
    # Fewer connections than the servers hold, so that their transactions change connections.
    configuration.write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={postgres.port} user=agenthub\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n"
    )
    with (postgres.folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(configuration)], user=postgres.user, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _listens(port))
        yield postgres.url(database), f"postgresql://agenthub@127.0.0.1:{port}/{database}"
    finally:
        process.kill()
        process.wait()
        postgres.destroy()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_pooler_in_transaction_mode(pooler: tuple[str, str], tmp_path: Path) -> None:
    direct, url = pooler
    settings = {"TRANSACTION_POOLER": "true", "THREADS": 4}
    servers = [
        Server(url, tmp_path, command="serve", direct_url=direct, **settings) for _ in range(2)
    ]
    try:
        start_all(servers)
        races.bank(Market(servers), seconds=3)
        assert all("Traceback" not in server.log for server in servers)
    finally:
        for server in servers:
            server.end()
    with pytest.raises(CommandError, match="AGENTHUB_TRANSACTION_POOLER"):
        upgrade_all(settings_for(url, tmp_path, transaction_pooler=True))


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[tuple[PostgresServer, Database]]:
    """A primary whose synchronous standby is nowhere, and a database on it."""
    postgres = PostgresServer(durable=True)
    settings = settings_for(
        postgres.url(postgres.create_database()), tmp_path, statement_timeout_ms=200
    )
    upgrade_all(settings)
    postgres.administer(
        "ALTER SYSTEM SET synchronous_standby_names TO 'standby'", "SELECT pg_reload_conf()"
    )
    database = Database(settings)
    yield postgres, database
    database.dispose()
    postgres.destroy()


def test_nothing_is_acknowledged_before_the_standby_has_it(
    lonely: tuple[PostgresServer, Database],
) -> None:
    postgres, database = lonely
    outcomes: list[str] = []

    def write() -> None:
        try:
            with database.transaction() as session:
                session.add(Owner(id=ids.new_id(), name="acme", created_at=now()))
            outcomes.append("acknowledged")
        except OperationalError as error:
            outcomes.append(str(error.orig))

    thread = threading.Thread(target=write)
    thread.start()
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_for(lambda: len(postgres.administer(waiting)) == 1)
    # The limit of a statement's time does not end the wait, and nobody sees the row meanwhile.
    thread.join(1)
    assert outcomes == []
    with database.read() as connection:
        assert connection.scalar(select(Owner.name)) is None
    # An operator who cancels it keeps the row, which is no acknowledgement either.
    postgres.administer(f"SELECT pg_cancel_backend(pid) FROM ({waiting}) AS waiting")
    thread.join(10)
    assert outcomes == ["no synchronous standby confirmed the transaction"]
    with database.read() as connection:
        assert connection.scalar(select(Owner.name)) == "acme"
    postgres.administer("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM access_owners")) == 1
