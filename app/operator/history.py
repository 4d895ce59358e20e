"""Figures over all of history, counted once.

How often delegations ended in which way, and what was paid, cannot be asked of a million rows at
every view. The ledger's transactions are numbered and never change, so each process reads each of
them once: those up to the newest seal, below which no number can appear any more, are added to sums
that are kept in memory, and the few after it are read anew at every view. So the figures are exact
at each view, are the same in every process, and need no table and no write.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app import clock
from app.delegation.queries import (
    count_live_alerts,
    sum_alerts,
    sum_closings,
    sum_unsettled,
)
from app.ledger.queries import newest_seq, sum_flows
from app.ledger.seals import read_digest
from app.ledger.service import WORLD

# Transactions read at a time, some hundredths of a second. A view that is further behind than that
# leaves it to the background.
CHUNK = 20_000
# What is kept by the hour, for charts.
HOURS_KEPT = 31 * 24
log = structlog.get_logger("agenthub.console")


@dataclass
class Tally:
    """What ended, and what it paid, in micro-USD.

    ``alerts`` counts what the breaker did, whether or not the delegation ended: each threshold by
    its per cent, pauses, new authorizations. ``spent`` and ``refunded`` are the requesters',
    ``earned`` is the delegates'.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)
    spent: int = 0
    earned: int = 0
    refunded: int = 0

    @property
    def closed(self) -> int:
        """How many delegations ended."""
        return self.statuses.total()

    def add(self, row: Any, *, paid: bool, received: bool) -> None:
        """Add a row of ``sum_closings``, as the side that paid, the one that received, or both."""
        self.statuses[row.status] += row.number
        if paid:
            self.spent += row.charged_micros
            self.refunded += row.refunded_micros
        if received:
            self.earned += row.charged_micros

    def merge(self, other: Tally) -> None:
        """Add all of another tally."""
        self.statuses.update(other.statuses)
        self.alerts.update(other.alerts)
        self.spent += other.spent
        self.earned += other.earned
        self.refunded += other.refunded


@dataclass
class Sums:
    """Tallies over all time and by the hour since 1970."""

    total: Tally = field(default_factory=Tally)
    hours: defaultdict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def add(self, row: Any, *, paid: bool = True, received: bool = True) -> None:
        """Add a row of ``sum_closings``."""
        for tally in (self.total, self.hours[row.hour]):
            tally.add(row, paid=paid, received=received)

    def add_alerts(self, row: Any) -> None:
        """Add a row of ``sum_alerts``."""
        for tally in (self.total, self.hours[row.hour]):
            tally.alerts[row.alert] += row.number

    def merge(self, other: Sums) -> None:
        """Add all of other sums."""
        self.total.merge(other.total)
        for hour, tally in other.hours.items():
            self.hours[hour].merge(tally)

    def between(self, first: int, last: int) -> Tally:
        """Return the tally of the hours from ``first`` to ``last``."""
        found = Tally()
        for hour in range(first, last + 1):
            if hour in self.hours:
                found.merge(self.hours[hour])
        return found


@dataclass
class _Read:
    """What was read of a range of the ledger. ``everybody`` is also the service as a whole."""

    everybody: Sums = field(default_factory=Sums)
    owners: dict[str, Sums] = field(default_factory=dict)
    brought_in: int = 0
    paid_out: int = 0

    def add(self, rows: Iterable[Any]) -> None:
        """Add rows of ``sum_closings`` to everybody's sums and to those of both owners."""
        for row in rows:
            self.everybody.add(row)
            requester, delegate = row.requester_owner_id, row.delegate_owner_id
            own = requester == delegate
            self._of(requester).add(row, received=own)
            if not own:
                self._of(delegate).add(row, paid=False)

    def add_alerts(self, rows: Iterable[Any]) -> None:
        """Add rows of ``sum_alerts`` to everybody's sums and to those of both owners."""
        for row in rows:
            self.everybody.add_alerts(row)
            for owner_id in {row.requester_owner_id, row.delegate_owner_id}:
                self._of(owner_id).add_alerts(row)

    def _of(self, owner_id: str) -> Sums:
        return self.owners.setdefault(owner_id, Sums())

    def forget_before(self, hour: int) -> None:
        """Drop the hours that no chart shows."""
        for sums in (self.everybody, *self.owners.values()):
            for old in [one for one in sums.hours if one < hour]:
                del sums.hours[old]


@dataclass(frozen=True)
class Figures:
    """History as one view shows it; money in micro-USD.

    ``brought_in`` and ``paid_out`` crossed the border to the world outside. ``missing`` is how many
    transactions are not read yet, which is so for some seconds after a server has started on a
    large database; until then the figures are of what is read.
    """

    sums: Sums
    brought_in: int
    paid_out: int
    missing: int
    transactions: int
    sealed_at: str | None


class History:
    """The sums of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = _Read()
        self._upto = 0
        self._catching_up = False

    def read(self, connection: Connection, owner_id: str | None) -> Figures:
        """Return the figures of an owner's agents, or of all, at this moment."""
        digest = read_digest(connection)
        if digest["last_seq"] - self._upto <= CHUNK:
            self._advance(connection, digest["last_seq"])
        with self._lock:
            upto, kept = self._upto, Sums()
            mine = self._kept.everybody if owner_id is None else self._kept.owners.get(owner_id)
            kept.merge(mine or Sums())
            brought_in, paid_out = self._kept.brought_in, self._kept.paid_out
        newest = newest_seq(connection)
        recent = _Read()
        since = clock.now() - timedelta(hours=HOURS_KEPT)
        recent.add_alerts(count_live_alerts(connection, since))
        # What has ended and is in review is closed in the ledger only when it is settled.
        recent.add(sum_unsettled(connection))
        # A row of sealed numbers that is not read yet is missing, and so are those after it.
        if upto >= digest["last_seq"] and newest - upto <= CHUNK:
            _add_range(recent, connection, upto + 1, newest)
            upto = newest
        kept.merge(recent.everybody if owner_id is None else recent.owners.get(owner_id, Sums()))
        return Figures(
            kept,
            brought_in + recent.brought_in,
            paid_out + recent.paid_out,
            newest - upto,
            newest,
            digest["sealed_at"],
        )

    def _advance(self, connection: Connection, last: int) -> None:
        """Read on to the number ``last``."""
        while (done := self._upto) < last:
            upto = min(last, done + CHUNK)
            # Read without the lock, which views wait for. Should two threads read the same range,
            # only the first one's counts.
            read = _Read()
            _add_range(read, connection, done + 1, upto)
            with self._lock:
                if self._upto == done:
                    self._keep(read)
                    self._upto = upto

    def _keep(self, read: _Read) -> None:
        kept = self._kept
        kept.everybody.merge(read.everybody)
        for owner_id, sums in read.owners.items():
            kept.owners.setdefault(owner_id, Sums()).merge(sums)
        kept.brought_in += read.brought_in
        kept.paid_out += read.paid_out
        newest = max(kept.everybody.hours, default=0)
        kept.forget_before(newest - HOURS_KEPT)

    def catch_up(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        """Read the rest in the background, on a connection of its own, unless that is under way."""
        with self._lock:
            if self._catching_up:
                return
            self._catching_up = True
        threading.Thread(target=self._catch_up, args=(read,), name="History", daemon=True).start()

    def _catch_up(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        try:
            with read() as connection:
                self._advance(connection, read_digest(connection)["last_seq"])
        except SQLAlchemyError as error:
            # The next view begins again where this ended.
            log.warning("console.history_postponed", error=str(error.__cause__ or error))
        finally:
            self._catching_up = False


def _add_range(read: _Read, connection: Connection, first: int, last: int) -> None:
    if first > last:
        return
    read.add(sum_closings(connection, first, last))
    read.add_alerts(sum_alerts(connection, first, last))
    out_of_world, into_world = sum_flows(connection, WORLD, first, last)
    read.brought_in += out_of_world
    read.paid_out += into_world
