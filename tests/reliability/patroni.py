"""The cluster that docs/cluster/ describes, of two nodes on loopback: etcd, Patroni and HAProxy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

from tests.postgres import find_binaries, free_port, unprivileged_user
from tests.reliability.faults import SECONDS_OF_LOAD, under_load
from tests.reliability.market import Market
from tests.reliability.races import Figures
from tests.reliability.server import wait_for
from tests.reliability.watch import Watch

DOCUMENTED = Path(__file__).parents[2] / "docs" / "cluster"
PROGRAMS = ("etcd", "patroni", "patronictl", "haproxy")
PASSWORD = "AGENTHUB_PASSWORD"
SECONDS_TO_FAIL_OVER = 90


def missing() -> list[str]:
    """Return the programs that are not installed."""
    path = "/usr/local/bin:/usr/bin:/usr/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


class Node:
    """A machine of the cluster: Patroni and the PostgreSQL that it runs."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.api, self.port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """Where the node's PostgreSQL has its data."""
        return self.cluster.folder / self.name

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        self.process = self.cluster.spawn("patroni", str(self._configure()), name=self.name)

    def _configure(self) -> Path:
        """Write the documented configuration with the addresses and folders of the trial."""
        text = (DOCUMENTED / "patroni.yml").read_text()
        hosts = r"10\.0\.0\.1\d:2379(,10\.0\.0\.1\d:2379)*"
        for pattern, value in (
            ("name: node1", f"name: {self.name}"),
            (r"10\.0\.0\.11:8008", f"127.0.0.1:{self.api}"),
            (r"10\.0\.0\.11:5432", f"127.0.0.1:{self.port}"),
            (hosts, f"127.0.0.1:{self.cluster.etcd}"),
            (r"10\.0\.0\.0/24", "127.0.0.1/32"),
            ("bin_dir: .*", f"bin_dir: {find_binaries()}"),
            ("data_dir: .*", f"data_dir: {self.data}"),
            ("      parameters:\n", "      parameters:\n        unix_socket_directories: ''\n"),
        ):
            text, changed = re.subn(pattern, value, text)
            assert changed, pattern
        path = self.cluster.folder / f"{self.name}.yml"
        path.write_text(text)
        return path

    def kill(self) -> None:
        """Kill Patroni and PostgreSQL at once, as the loss of the machine would."""
        assert self.process is not None
        processes = [psutil.Process(self.process.pid)]
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
            processes += [postmaster, *postmaster.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self.process.wait()


class Cluster:
    """etcd, two nodes, and HAProxy before them."""

    def __init__(self) -> None:
        self.user = unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="agenthub-cluster-"))
        if self.user:
            shutil.chown(self.folder, self.user)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.etcd, self.proxy = free_port(), free_port()
        self.nodes = [Node(self, "node1"), Node(self, "node2")]

    @property
    def url(self) -> str:
        """The database's URL, at HAProxy."""
        return f"postgresql://agenthub:{PASSWORD}@127.0.0.1:{self.proxy}/agenthub"

    def spawn(self, program: str, *arguments: str, name: str) -> subprocess.Popen[bytes]:
        """Start a program as the user that PostgreSQL may run as."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [program, *arguments],
                user=self.user,
                cwd=self.folder,
                env={"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin", "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def start(self) -> None:
        """Start everything, wait for the standby, and make the database."""
        peers = f"http://127.0.0.1:{free_port()}"
        clients = f"http://127.0.0.1:{self.etcd}"
        self.spawn(
            "etcd", "--data-dir", str(self.folder / "etcd"), "--name", "etcd",
            "--listen-client-urls", clients, "--advertise-client-urls", clients,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"etcd={peers}", name="etcd",
        )  # fmt: skip
        for node in self.nodes:
            node.start()
        configuration = (DOCUMENTED / "haproxy.cfg").read_text()
        configuration = configuration.replace("127.0.0.1:5000", f"127.0.0.1:{self.proxy}")
        for number, node in enumerate(self.nodes, start=1):
            documented = f"10.0.0.1{number}:5432 check port 8008"
            assert documented in configuration
            configuration = configuration.replace(
                documented, f"127.0.0.1:{node.port} check port {node.api}"
            )
        (self.folder / "haproxy.cfg").write_text(configuration)
        self.spawn("haproxy", "-db", "-f", str(self.folder / "haproxy.cfg"), name="haproxy")
        wait_for(self.is_synchronous, SECONDS_TO_FAIL_OVER)
        wait_for(self._makes_database, SECONDS_TO_FAIL_OVER)

    def _makes_database(self) -> bool:
        maintenance = self.url.removesuffix("agenthub") + "postgres"
        try:
            with psycopg.connect(maintenance, autocommit=True) as connection:
                connection.execute("CREATE DATABASE agenthub")
        except psycopg.OperationalError:
            return False
        return True

    def roles(self) -> dict[str, str]:
        """Return what each node that answers says it is."""
        found = {}
        for node in self.nodes:
            try:
                address = f"http://127.0.0.1:{node.api}/cluster"
                with urllib.request.urlopen(address, timeout=2) as answer:
                    members = json.load(answer)["members"]
            except (OSError, ValueError):
                continue
            found |= {member["name"]: member["role"] for member in members}
        return found

    def is_synchronous(self) -> bool:
        """Tell whether there is a primary, and a standby that its commits wait for."""
        return sorted(self.roles().values()) == ["leader", "sync_standby"]

    def leader(self) -> Node:
        """Return the node that is the primary now."""
        roles = self.roles()
        return next(node for node in self.nodes if roles.get(node.name) == "leader")

    def switch_over(self) -> None:
        """Have the nodes change places, as before maintenance, and wait until they have."""
        old = self.leader()
        command = ["patronictl", "-c", str(self.folder / "node1.yml"), "switchover", "agenthub",
                   "--master", old.name, "--force"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        wait_for(lambda: self.is_synchronous() and self.leader() is not old, SECONDS_TO_FAIL_OVER)

    def lose_leader(self) -> None:
        """Kill the primary's node, wait for the other to take its place, and start it again."""
        lost = self.leader()
        lost.kill()
        (other,) = (node for node in self.nodes if node is not lost)
        wait_for(lambda: self.roles().get(other.name) == "leader", SECONDS_TO_FAIL_OVER)
        lost.start()
        wait_for(self.is_synchronous, SECONDS_TO_FAIL_OVER)

    def destroy(self) -> None:
        """Kill everything and remove its files."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Give a running cluster."""
    found = Cluster()
    try:
        found.start()
        yield found
    finally:
        found.destroy()


def changes_of_primary(market: Market, of: Cluster, count: int) -> Figures:
    """Change the primary under load, in turn by a switchover and by the loss of its node."""
    recoveries: list[float] = []

    def change(number: int, watch: Watch) -> int:
        watch.wait(SECONDS_OF_LOAD * 2)
        begun = time.monotonic()
        of.switch_over() if number % 2 == 0 else of.lose_leader()
        written = len(market.journal)
        wait_for(lambda: len(market.journal) > written + 20, SECONDS_TO_FAIL_OVER)
        recoveries.append(time.monotonic() - begun)
        return 1

    figures = under_load(market, count, change)
    return {
        "switchovers and lost nodes": figures.pop("faults"),
        **figures,
        "longest until the cluster was whole again": f"{max(recoveries):.1f} s",
    }
