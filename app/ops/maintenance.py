"""Housekeeping of a running server, away from every request."""

from __future__ import annotations

import atexit
import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.access.service import KeyUsage
from app.db import Database
from app.idempotency.service import drop_expired_bodies
from app.ledger.seals import seal_pending

INTERVAL_SECONDS = 30.0
log = structlog.get_logger("agenthub.maintenance")


class Maintenance:
    """A daemon thread: stores when keys were used, drops expired answers, seals the ledger.

    Any number of servers may do so at once; what one leaves undone the next round does.
    """

    def __init__(
        self, database: Database, key_usage: KeyUsage, interval: float = INTERVAL_SECONDS
    ) -> None:
        self._database = database
        self._key_usage = key_usage
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Begin; what is gathered when the process ends is stored then."""
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End after one last round."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join(timeout=5)
            self.run_once()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self.run_once()

    def run_once(self) -> None:
        """Do one round; a database that is away only postpones it."""
        try:
            if self._key_usage.pending():
                with self._database.transaction() as session:
                    self._key_usage.flush(session)
            with self._database.transaction() as session:
                dropped = drop_expired_bodies(session)
            with self._database.transaction() as session:
                seal_pending(session)
        except SQLAlchemyError as error:
            log.warning("maintenance.postponed", error=str(error.__cause__ or error))
            return
        if dropped:
            log.info("maintenance.expired_answers_dropped", count=dropped)
