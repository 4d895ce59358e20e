"""Housekeeping of a running server, away from every request."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app import clock
from app.access.limits import RateLimiter
from app.access.service import KeyUsage
from app.access.sessions import forget_over
from app.clock import ClockImplausible
from app.db import Database
from app.delegation.queries import list_overdue
from app.delegation.transitions import close_overdue
from app.errors import DomainError
from app.exits import at_exit
from app.idempotency.service import drop_expired_bodies
from app.ledger.seals import seal_pending
from app.notification.deliveries import prune
from app.ops.restored import held_copy
from app.ops.timekeeping import watch_clock

MAINTENANCE_SECONDS = 30.0
SWEEP_SECONDS = 2.0
RATE_SECONDS = 1.0
SWEEP_BATCH = 200
log = structlog.get_logger("agenthub.maintenance")


class Periodic(ABC):
    """A daemon thread that does a round at every interval, and a last one when it is stopped.

    Any number of servers may do so at once; what one leaves undone the next round does.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have no further round begin."""
        self._stopped.set()

    def stop(self) -> None:
        """End after one last round."""
        self.ask_to_stop()
        self._thread.join(timeout=5)
        self.run_once()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self.run_once()

    def run_once(self) -> None:
        """Do one round; a database that is away, or a clock that is wrong, only postpones it."""
        name = type(self).__name__.lower()
        try:
            self.round()
        except SQLAlchemyError as error:
            log.warning(f"{name}.postponed", error=str(error.__cause__ or error))
        except ClockImplausible as error:
            log.warning(f"{name}.postponed", error=error.detail)

    @abstractmethod
    def round(self) -> None:
        """Do one round; raises ``SQLAlchemyError`` when the database is away."""


def keep_house(parts: Sequence[Periodic]) -> None:
    """Begin all of it; what is left when the process ends is done then.

    All are asked to stop before any is waited for, so that a stop takes as long as the slowest.
    """
    for part in parts:
        part.start()

    def stop() -> None:
        for part in parts:
            part.ask_to_stop()
        for part in parts:
            part.stop()

    at_exit(stop)


class Maintenance(Periodic):
    """Stores when keys were used, deletes expired rows, and seals the ledger."""

    def __init__(
        self, database: Database, key_usage: KeyUsage, interval: float = MAINTENANCE_SECONDS
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._key_usage = key_usage

    def round(self) -> None:
        """Do all of it once."""
        if self._key_usage.pending():
            with self._database.transaction() as session:
                self._key_usage.flush(session)
        with self._database.transaction() as session:
            dropped = drop_expired_bodies(session)
        with self._database.transaction() as session:
            seal_pending(session)
        with self._database.transaction() as session:
            prune(session)
        with self._database.transaction() as session:
            forget_over(session)
        if dropped:
            log.info("maintenance.expired_answers_dropped", count=dropped)


class RateSharing(Periodic):
    """Tells the other servers how often each busy key asked, and learns what they counted."""

    def __init__(
        self, database: Database, limiter: RateLimiter, interval: float = RATE_SECONDS
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._limiter = limiter

    def round(self) -> None:
        """Exchange once, if there is anything to tell."""
        if self._limiter.pending():
            with self._database.transaction() as session:
                self._limiter.share(session)


class Sweeper(Periodic):
    """Closes delegations whose time has run out, so that no money is held for longer.

    It only tidies: a command or a read that comes first sees the same outcome.
    """

    def __init__(self, database: Database, interval: float = SWEEP_SECONDS) -> None:
        super().__init__(interval)
        self._database = database

    def round(self) -> None:
        """Close everything that is overdue."""
        closed = sweep(self._database)
        if closed:
            log.info("sweeper.closed", count=len(closed))


def sweep(database: Database) -> list[str]:
    """Close every overdue delegation, each in a transaction of its own; return their ids.

    Asks without a lock what is overdue. One that cannot be closed is logged and holds up no other.
    In a restored copy that is held nothing is closed. Raises ``ClockImplausible``.
    """
    with database.read() as connection:
        watch_clock(database, connection)
    database.clock_watch.require()
    closed: list[str] = []
    while True:
        with database.read() as connection:
            found = list_overdue(connection, clock.now(), limit=SWEEP_BATCH)
            if found and held_copy(connection):
                return closed
        done = [delegation_id for delegation_id in found if _close_overdue(database, delegation_id)]
        closed += done
        if not done:
            return closed


def _close_overdue(database: Database, delegation_id: str) -> bool:
    try:
        with database.transaction() as session:
            return close_overdue(session, delegation_id)
    except DomainError as error:
        log.error("sweeper.failed", delegation_id=delegation_id, error=error.detail)
        return False
