"""Real servers in processes of their own, and requests to them over real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import make_url

from app.access.service import create_key
from app.config import Settings
from app.db import Database
from tests.conftest import PEPPER, settings_for
from tests.postgres import free_port

SECONDS_TO_START = 60
API_KEY = re.compile(r"ah_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def is_replay(self) -> bool:
        """Whether a stored answer was given again."""
        return self.headers.get("idempotent-replayed") == "true"


@dataclass(frozen=True)
class Client:
    """A caller with an API key; every request has a connection of its own."""

    port: int
    api_key: str = ""

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = None,
        timeout: float = 30,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request and read its answer; raises ``OSError`` or ``HTTPException``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {"X-API-Key": self.api_key, "Idempotency-Key": key or uuid.uuid4().hex}
        sent |= headers or {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            # A server that refuses a body may answer before it has read all of it.
            with suppress(BrokenPipeError):
                connection.request(method, path, data, sent)
            response = connection.getresponse()
            content = response.read()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, content)
        finally:
            connection.close()


class Server:
    """One ``agenthub`` server: a process group that can be killed, stopped and started again."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        command: str = "up",
        direct_url: str | None = None,
        **settings: object,
    ) -> None:
        self.url = url
        # Where the tests themselves look into the database.
        self.direct_url = direct_url or url
        self.folder = folder
        self.command = command
        self.port = free_port()
        self.settings = {
            "WORKERS": 2,
            "LOG_LEVEL": "warning",
            "RATE_LIMIT_PER_MINUTE": 0,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def log(self) -> str:
        """Everything that the server printed since it was last started."""
        return (self.folder / f"server-{self.port}-{self.starts}.log").read_text()

    def spawn(self) -> None:
        """Start the server without waiting for it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTHUB_", "COV_"))}
        own: dict[str, object] = {
            "DATA_DIR": self.folder,
            "DATABASE_URL": self.url,
            "KEY_PEPPER": PEPPER,
            **self.settings,
        }
        self.starts += 1
        with (self.folder / f"server-{self.port}-{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", self.command, "--port", str(self.port)],
                env=kept | {f"AGENTHUB_{k}": str(v) for k, v in own.items() if v is not None},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> Server:
        """Start the server and wait until it is ready."""
        self.spawn()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until ``/readyz`` says so; fails when the server ends instead."""
        assert self.process is not None

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log}")
            try:
                return Client(self.port).request("GET", "/readyz", timeout=5).status == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_for(ready, SECONDS_TO_START)

    def pids(self) -> list[int]:
        """Return the main process and its workers."""
        assert self.process is not None
        return [self.process.pid, *self.workers()]

    def workers(self) -> list[int]:
        """Return the worker processes."""
        assert self.process is not None
        try:
            return [child.pid for child in psutil.Process(self.process.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill every process of the server at once, as a power failure would."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_for(lambda: not group(self.process), 10)

    def end(self) -> None:
        """Kill whatever is left of the server."""
        if self.process is not None and group(self.process):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def terminate(self) -> None:
        """Ask the server to stop."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 40) -> int:
        """Wait for the server's end and return its exit code."""
        assert self.process is not None
        return self.process.wait(timeout)

    def client(self, api_key: str = "") -> Client:
        """Return a caller of this server."""
        return Client(self.port, api_key)


@contextmanager
def running(template: Path, folder: Path, **settings: object) -> Iterator[Server]:
    """Give a server on a copy of a migrated SQLite file, whose agents begin with money."""
    shutil.copy(template, folder / "agenthub.db")
    url = f"sqlite:///{folder / 'agenthub.db'}"
    one = Server(url, folder, OPENING_CREDIT_USD=10, **settings).start()
    try:
        yield one
    finally:
        one.end()


def group(process: subprocess.Popen[bytes] | None) -> list[int]:
    """Return the live processes of the group that ``process`` leads, zombies left out."""
    assert process is not None
    return group_of(process.pid)


def group_of(leader: int) -> list[int]:
    """Return the live processes of a group by the id of its leader, zombies left out."""
    found = []
    for other in psutil.process_iter(["status"]):
        try:
            if os.getpgid(other.pid) == leader and other.info["status"] != "zombie":
                found.append(other.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def url_of(settings: Settings) -> str:
    """Return the database URL for a server's environment."""
    return make_url(settings.url).render_as_string(hide_password=False)


def start_all(servers: Sequence[Server]) -> None:
    """Start servers beside each other and wait until all are ready."""
    for server in servers:
        server.spawn()
    for server in servers:
        server.wait_until_ready()


def make_client(server: Server, owner: str = "acme", role: str = "developer") -> Client:
    """Return a caller of ``server`` with a new key of ``owner``."""
    database = Database(settings_for(server.direct_url, server.folder))
    try:
        with database.transaction() as session:
            return server.client(create_key(session, PEPPER.encode(), owner, role).secret)
    finally:
        database.dispose()


@contextmanager
def opened(server: Server, **settings: object) -> Iterator[Database]:
    """Give a server's database to look at."""
    database = Database(settings_for(server.direct_url, server.folder, **settings))
    try:
        yield database
    finally:
        database.dispose()
