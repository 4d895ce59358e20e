"""Figures that cost a scan and may be a little old."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from app import clock

T = TypeVar("T")


@dataclass(frozen=True)
class Dated(Generic[T]):
    """A figure, and when it was true."""

    value: T
    at: datetime


class Remembered(Generic[T]):
    """A figure that is asked for again once it is older than ``seconds``, by one view at a time."""

    def __init__(self, seconds: float) -> None:
        self._age = timedelta(seconds=seconds)
        self._lock = threading.Lock()
        self._last: Dated[T] | None = None

    def get(self, ask: Callable[[], T]) -> Dated[T]:
        """Return the figure; whoever comes while another asks gets the one before, if any."""
        now, last = clock.now(), self._last
        if last is not None and now - last.at < self._age:
            return last
        if not self._lock.acquire(blocking=last is None):
            return last or Dated(ask(), now)
        try:
            if self._last is last:
                self._last = Dated(ask(), now)
            return self._last or Dated(ask(), now)
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Ask again next time."""
        self._last = None
