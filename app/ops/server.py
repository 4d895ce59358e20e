"""The production server: granian, several processes of a few threads each."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from app.config import Settings

# Seconds that a request under way has to finish after a stop was asked for.
GRACE_SECONDS = 30
_PR_SET_PDEATHSIG = 1


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Worker processes read their settings from the environment, so the caller puts there what it
    changed. A worker that dies is replaced.
    """
    Granian(
        "app.ops.server:load",
        factory=True,
        address=settings.host,
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


def load() -> object:
    """Build the application in a worker process."""
    _end_with_parent()
    from app.wsgi import application

    return application()


def _end_with_parent() -> None:
    """Have the kernel stop this worker when its server dies, so that none is left on the port."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
