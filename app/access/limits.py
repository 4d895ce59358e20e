"""How many requests a key may make in a minute, counted over any number of servers.

Each process counts for itself and, once a second, adds what it counted to the database and learns
what the others did. So a request costs no statement, and a key gets past its limit by no more than
what all processes together admit in a second, plus a hundredth of the limit for each of them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import BigInteger, text
from sqlalchemy.orm import Session

from app import clock
from app.access.errors import RateLimited
from app.statements import Statement

WINDOW_SECONDS = 60


@dataclass
class _Count:
    """One key's requests of one minute: counted here, and those of all that the database knows."""

    minute: int
    here: int = 0
    shared: int = 0
    everywhere: int = 0

    @property
    def total(self) -> int:
        return self.everywhere + self.here - self.shared


_add = Statement(
    text(
        """
        INSERT INTO access_request_counts AS counted (key_id, minute, requests)
        VALUES (:key_id, :minute, :requests)
        ON CONFLICT (key_id) DO UPDATE
        SET requests = excluded.requests
                + CASE WHEN counted.minute = excluded.minute THEN counted.requests ELSE 0 END,
            minute = excluded.minute
        WHERE counted.minute <= excluded.minute
        RETURNING requests
        """
    ).columns(requests=BigInteger)
)


class RateLimiter:
    """Admits ``limit`` requests of a key in each minute of the clock; 0 admits all.

    What is limited need not be a key: ``subject`` names it in refusals. ``capacity`` bounds how
    many are remembered, where anybody can make up more; then the first to come is forgotten.
    """

    def __init__(
        self, limit: int, subject: str = "this API key", capacity: int | None = None
    ) -> None:
        self._limit = limit
        self._subject = subject
        self._capacity = capacity
        # A key that comes now and then is not worth a write.
        self._worth_sharing = max(1, limit // 100)
        self._lock = threading.Lock()
        self._counts: dict[str, _Count] = {}

    def admit(self, key_id: str) -> None:
        """Count a request. Raises ``RateLimited``, which says when the next minute begins."""
        if not self._limit:
            return
        minute, second = divmod(int(clock.now().timestamp()), WINDOW_SECONDS)
        with self._lock:
            count = self._counts.get(key_id)
            if count is None or count.minute != minute:
                self._counts.pop(key_id, None)
                if self._capacity is not None and len(self._counts) >= self._capacity:
                    del self._counts[next(iter(self._counts))]
                count = self._counts[key_id] = _Count(minute)
            if count.total >= self._limit:
                raise RateLimited(
                    f"{self._subject} may make {self._limit} requests a minute",
                    retry_after=WINDOW_SECONDS - second,
                )
            count.here += 1

    def forget_past(self) -> None:
        """Drop the counts of earlier minutes, of keys that may never come again."""
        minute = int(clock.now().timestamp()) // WINDOW_SECONDS
        with self._lock:
            for key_id in [key for key, count in self._counts.items() if count.minute != minute]:
                del self._counts[key_id]

    def pending(self) -> dict[str, _Count]:
        """Return the counts that the other servers have to know."""
        self.forget_past()
        with self._lock:
            return {
                key_id: count
                for key_id, count in self._counts.items()
                if count.here - count.shared >= self._worth_sharing
            }

    def share(self, session: Session) -> None:
        """Add what was counted here, and learn what was counted elsewhere.

        Should the transaction fail, requests counted in it are told to nobody.
        """
        # One order for every server, so that two of them cannot wait for each other.
        for key_id, count in sorted(self.pending().items()):
            here = count.here
            added = {"key_id": key_id, "minute": count.minute, "requests": here - count.shared}
            found = _add.first(session, added)
            if found is not None:
                count.shared, count.everywhere = here, found.requests
