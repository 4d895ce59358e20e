"""Readers that add up all balances of one instant and verify, again and again, as others write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from app.db import Database
from app.ledger.seals import seal_pending
from tests.reliability.evidence import assert_conserved, assert_reconciled

READERS = 2
# A reader rests this many times as long as it looked: while somebody looks, the log that SQLite
# keeps of what is written since cannot begin anew, and would grow without end.
REST_FOR_A_LOOK = 4
# At every so many looks at the balances new transactions are sealed and all rules checked, too.
LOOKS_TO_RECONCILE = 8


class Watch:
    """What the readers have seen so far; ``faulty`` tells that the database may go away."""

    def __init__(self, database: Database, *, faulty: bool = False) -> None:
        self.database = database
        self.faulty = faulty
        self.views = 0
        self.reconciliations = 0
        self.blocks = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Look until the watch is stopped, and once after that; fail at the first wrong total."""
        last, seconds = False, 0.0
        while not last:
            last = self.stopped.wait(seconds * REST_FOR_A_LOOK)
            begun = time.monotonic()
            try:
                self._look()
            except OperationalError:
                if not self.faulty:
                    raise
                last = False
            seconds = max(0.01, time.monotonic() - begun)

    def _look(self) -> None:
        with self._lock:
            self.views += 1
            thorough = self.views % LOOKS_TO_RECONCILE == 0
            self.reconciliations += thorough
        if thorough:
            # A running server seals every half minute; here two sealers race, and readers verify.
            with self.database.transaction() as session:
                self.blocks += seal_pending(session)
        with self.database.snapshot() as connection:
            assert_conserved(connection)
            if thorough:
                assert_reconciled(connection)

    def wait(self, seconds: float) -> None:
        """Wait this long, or until a reader has seen what must not be."""
        self.stopped.wait(seconds)


@contextmanager
def watching(database: Database, *, faulty: bool = False) -> Iterator[Watch]:
    """Let readers look while the block runs; the block fails when they have seen a wrong total."""
    watch = Watch(database, faulty=faulty)

    def run() -> None:
        try:
            watch.run()
        finally:
            watch.stopped.set()

    with ThreadPoolExecutor(READERS) as pool:
        futures = [pool.submit(run) for _ in range(READERS)]
        try:
            yield watch
        finally:
            watch.stopped.set()
        for future in futures:
            future.result()
