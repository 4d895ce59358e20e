"""The one clock: every time the service records or compares comes from ``now``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


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
