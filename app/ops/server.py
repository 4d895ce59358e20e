"""The production server: granian, several processes of a few threads each."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from app.config import Settings

# Seconds that a request under way has to finish after a stop was asked for.
GRACE_SECONDS = 30
_COUNTS = "agenthub-counts-"
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGTERM, signal.SIGINT)


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


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Worker processes read their settings from the environment, so the caller puts there what it
    changed. A worker that dies is replaced.
    """
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS),
        after_in_child=_begin_worker,
    )
    Granian(
        "app.ops.server:load",
        factory=True,
        address=_resolve(settings.host)[1],
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads,
        backpressure=max(64, settings.threads * 16),
        respawn_failed_workers=True,
        workers_kill_timeout=GRACE_SECONDS,
        log_level=LogLevels.warning,
        process_name=None,
        websockets=False,
    ).serve()


def _begin_worker() -> None:
    """Let a stop end a worker that still loads, before it could have taken any request.

    A worker begins as a copy of its server, whose handlers would swallow the stop, and granian sets
    the worker's own only after ``load``.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def load() -> object:
    """Build the application in a worker process."""
    _end_with_parent()
    from app.wsgi import application

    return application()


def _end_with_parent() -> None:
    """Have the kernel stop this worker when its server dies, so that none is left on the port."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            sys.exit("the server of this worker has ended")
