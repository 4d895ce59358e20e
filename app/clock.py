"""The one clock: every time the service records or compares comes from ``now``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from app.errors import Unavailable

# Counts on while a machine sleeps, where the system has such a clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ClockImplausible(Unavailable):
    """The service's clock cannot be right, so nothing is written that would depend on it."""

    code = "clock_implausible"
    retry_after = 30


def _system_time() -> datetime:
    return datetime.now(UTC)


_source: Callable[[], datetime] = _system_time


def now() -> datetime:
    """Return the current time, timezone-aware, in UTC, to the microsecond."""
    return _source()


def isoformat(moment: datetime) -> str:
    """Return ``moment`` as an RFC 3339 timestamp in UTC with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@contextmanager
def frozen(source: Callable[[], datetime]) -> Iterator[None]:
    """Let ``now`` answer ``source()`` inside the block, in every thread of this process."""
    global _source
    previous, _source = _source, source
    try:
        yield
    finally:
        _source = previous


class ClockWatch:
    """Whether the clock of this process can be believed.

    It is held to a steady clock, which nobody sets, to the time that was stored last, and to the
    database server's clock where there is one. ``tolerance`` is how far they may be apart; zero
    trusts the clock whatever it says. A frozen clock is trusted, too.
    """

    def __init__(
        self,
        tolerance: timedelta,
        wall: Callable[[], datetime] | None = None,
        steady: Callable[[], float] = lambda: time.clock_gettime(_STEADY),
    ) -> None:
        self._tolerance = tolerance
        self._given, self._steady = wall, steady
        self._stored: datetime | None = None
        self._apart = timedelta(0)
        self._began = (self._wall(), steady())

    def _wall(self) -> datetime:
        return self._given() if self._given else _system_time()

    def learn(self, stored: datetime | None, server: datetime | None = None) -> None:
        """Take note of the time stored last, and of what the database server's clock says now.

        A clock that agrees with the server's is right, though it may have been set since.
        """
        self._stored = stored
        if server is not None:
            now = self._wall()
            self._apart = now - server
            if abs(self._apart) <= self._tolerance:
                self._began = (now, self._steady())

    def fault(self) -> str | None:
        """Return what is wrong with the clock, None if nothing is."""
        if not self._tolerance or (self._given is None and _source is not _system_time):
            return None
        now = self._wall()
        began, steady = self._began
        jumped = now - began - timedelta(seconds=self._steady() - steady)
        if abs(self._apart) > self._tolerance:
            return f"it is {_minutes(self._apart)} the clock of the database server"
        if abs(jumped) > self._tolerance:
            return f"it is {_minutes(jumped)} where it was when the service started"
        if self._stored is not None and self._stored - now > self._tolerance:
            return f"it is {_minutes(now - self._stored)} the time that was stored last"
        return None

    def require(self) -> None:
        """Raise ``ClockImplausible`` unless the clock can be right."""
        fault = self.fault()
        if fault is not None:
            raise ClockImplausible(f"the clock cannot be right: {fault}; nothing was changed")


def _minutes(apart: timedelta) -> str:
    minutes = int(abs(apart).total_seconds() // 60)
    return f"{minutes:,} minutes {'ahead of' if apart > timedelta(0) else 'behind'}"
