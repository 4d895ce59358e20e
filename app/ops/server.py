"""The production server: several processes, each an event loop before a few threads.

uvicorn speaks HTTP, ``app.http.front`` keeps slow clients away from threads, and what is here
starts the processes, replaces those that die, and stops them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from app.config import Settings, SettingsError
from app.files import serve_only
from app.ops.tracks import OutdatedSchema

if TYPE_CHECKING:
    import uvicorn

    from app.http.front import Front

# Seconds that a request under way has to finish after a stop was asked for.
GRACE_SECONDS = 30
_COUNTS = "agenthub-counts-"
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGTERM, signal.SIGINT)
# Connections that the kernel holds for a process that is busy.
BACKLOG = 1024
# Files of a process besides its connections.
OTHER_FILES = 256
# Between a worker that died and the one in its place, once the one before was short-lived, too.
PAUSE_SECONDS = 1.0
# Beyond the grace period a worker stores what it gathered.
STOP_SECONDS = 10
# Exit code of a worker for which there is no point in trying again.
CANNOT_SERVE = 3
# Libraries that every worker needs, and that start no thread when they are loaded.
_SHARED = (
    "flask_smorest",
    "flask_cors",
    "jsonschema_rs",
    "uvicorn",
    "httptools",
    "uvloop",
    "zstandard",
)
_FORK = multiprocessing.get_context("fork")


class AddressUnavailable(Exception):
    """The server cannot listen where it was told to."""


def require_address(settings: Settings) -> None:
    """Raise ``AddressUnavailable`` unless the address and port can be listened on.

    The server's own sockets share a port with whoever allows it, so a second server would silently
    take half of the first one's requests; this asks without sharing.
    """
    try:
        family, address = _resolve(settings.host)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, settings.port))
    except OSError as error:
        raise AddressUnavailable(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        ) from None


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    """Return the numeric address of a host name, IPv4 first."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, str(address[0])


@contextmanager
def shared_counts() -> Iterator[str]:
    """Make the folder that the processes of this server count in; it ends with the server.

    A worker that dies leaves its counts, which stay part of the sums; a server that was killed
    leaves its folder, which the next one removes.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_COUNTS}*"):
        owner = folder.name.removeprefix(_COUNTS).partition("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{_COUNTS}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder_of_this:
        yield folder_of_this


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class StartFailed(Exception):
    """A worker ended before it served, twice in a row."""


@dataclass
class _Worker:
    """A server process; ``ready`` is readable once it serves, or has ended."""

    process: BaseProcess
    ready: Connection
    served: bool = False

    def look(self) -> None:
        """Note whether the worker has begun to serve."""
        if not self.served and self.ready.poll():
            with suppress(EOFError, OSError):
                self.served = bool(self.ready.recv_bytes())


class Supervisor:
    """Starts the server's processes, replaces those that die, and stops them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[_Worker] = []
        self._stopping = False
        self._failures = 0

    def run(self) -> None:
        """Serve until a signal to stop; raises ``StartFailed``."""
        for number in _STOPS:
            signal.signal(number, self._ask_to_stop)
        # A signal ends a wait by way of this pipe, whenever it comes.
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            for _ in range(self._settings.workers):
                self._start_worker()
            while not self._stopping:
                wait([reading, *(worker.process.sentinel for worker in self._workers)])
                with suppress(BlockingIOError):
                    os.read(reading, 1024)
                self._replace_dead()
        finally:
            signal.set_wakeup_fd(-1)
            self._stop()
            os.close(reading)
            os.close(writing)

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _start_worker(self) -> None:
        reading, writing = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_work, args=(self._settings, writing))
        # A stop that comes between the fork and the worker's own handlers waits for those.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        writing.close()
        self._workers.append(_Worker(process, reading))

    def _replace_dead(self) -> None:
        for worker in [one for one in self._workers if not one.process.is_alive()]:
            worker.look()
            worker.ready.close()
            worker.process.join()
            self._workers.remove(worker)
            if self._stopping:
                return
            self._failures = 0 if worker.served else self._failures + 1
            if worker.process.exitcode == CANNOT_SERVE or self._failures > 1:
                raise StartFailed("a worker cannot serve; see above")
            if not worker.served:
                time.sleep(PAUSE_SECONDS)
            self._start_worker()

    def _stop(self) -> None:
        """Have every worker finish what is under way; kill what does not."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + GRACE_SECONDS + STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    A worker that dies is replaced; raises ``StartFailed`` when one cannot serve at all.
    """
    if settings.is_sqlite:
        serve_only(settings.url)
    # Loaded once, before the workers are copied from this process.
    for name in _SHARED:
        import_module(name)
    Supervisor(settings).run()


def _work(settings: Settings, ready: Connection) -> None:
    """Serve, as a worker process."""
    # A worker begins as a copy of its server. While it loads, it has taken no request, and a stop
    # may end it at once.
    signal.set_wakeup_fd(-1)
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    _end_with_parent()
    _allow_files(settings.max_connections + OTHER_FILES)
    try:
        server, front = load(settings)
    except (OutdatedSchema, SettingsError) as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        sys.exit(CANNOT_SERVE)

    def stop(*_: object) -> None:
        server.should_exit = True
        front.stop()

    for number in _STOPS:
        signal.signal(number, stop)
    with _listen(settings) as listener:
        ready.send_bytes(b"served")
        server.run([listener])


def load(settings: Settings) -> tuple[uvicorn.Server, Front]:
    """Build the server of a worker process, and the application in front of it."""
    # Loaded here: counters are set up when they are imported, in the folder of this server.
    from functools import partial

    import uvicorn

    from app.http.connections import Connection, Connections, Server
    from app.http.front import Front
    from app.wsgi import application

    front = Front(application(), settings)
    config = uvicorn.Config(
        front,
        http=partial(Connection, Connections(settings)),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config), front


def _listen(settings: Settings) -> socket.socket:
    """Return a socket of this process on the server's port.

    Each worker has one of its own, between which the kernel spreads connections: with one socket
    for all, whichever process is idle first takes all that came.
    """
    family, address = _resolve(settings.host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, settings.port))
    return listener


def _allow_files(number: int) -> None:
    """Let this process have so many files, as far as the system allows it to say so itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _end_with_parent() -> None:
    """Have the kernel stop this worker when its server dies, so that none is left on the port."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            sys.exit("the server of this worker has ended")
