"""Asking where names lead, within a deadline that holds whatever the resolver does.

The system's resolver takes as long as the servers of a name make it take, and cannot be called
back. So it is asked in a thread of its own. A lookup that is given up goes on counting until the
resolver lets go of it: who names names that nobody answers for soon has no further lookup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from app.notification.addresses import AddressRefused, Target, is_numeric, resolve

DEADLINE_SECONDS = 3.0
# How old the lookups in the way of a further one may be while it waits for them.
PATIENCE_SECONDS = 0.25


class LookupsBusy(Exception):
    """As many names are being looked up as may be."""


def lookups_of_requests(threads: int) -> Lookups:
    """Return what looks up names that requests hold: no more than half of the threads wait."""
    return Lookups(per_owner=2, total=32, waiting=max(1, threads // 2))


class Lookups:
    """Looks names up, so many at once for one owner, so many for all, of which some are waited for.

    ``waiting`` is how many callers may wait at a time, None for all.
    """

    def __init__(self, *, per_owner: int, total: int, waiting: int | None = None) -> None:
        self._per_owner = per_owner
        self._total = total
        self._waiting = waiting
        self._changed = threading.Condition()
        # Of every lookup the resolver is at: whose it is, and when it began.
        self._running: dict[object, tuple[str, float]] = {}
        self._waited_for: set[object] = set()

    def resolve(self, owner_id: str, target: Target, *, allow_private: bool) -> list[str]:
        """Return the addresses of a target's host that an owner has named.

        Raises ``AddressRefused`` also where there is no answer in time, and ``LookupsBusy``.
        """
        if is_numeric(target.host):
            return resolve(target, allow_private=allow_private)
        answers: SimpleQueue[list[str] | AddressRefused] = SimpleQueue()
        with self._admitted(owner_id) as lookup:
            arguments = (lookup, target, allow_private, answers)
            # A daemon, so that a silent resolver does not keep the process from ending.
            threading.Thread(target=self._look, args=arguments, daemon=True).start()
            try:
                found = answers.get(timeout=DEADLINE_SECONDS)
            except Empty:
                raise AddressRefused(allow_private=allow_private) from None
        if isinstance(found, AddressRefused):
            raise found
        return found

    @contextmanager
    def _admitted(self, owner_id: str) -> Iterator[object]:
        lookup = object()
        with self._changed:
            begun = [begin for _, begin in self._running.values()]
            patience = min(begun, default=0.0) + PATIENCE_SECONDS - time.monotonic()
            if not self._changed.wait_for(lambda: self._has_room(owner_id), max(0.0, patience)):
                raise LookupsBusy
            self._running[lookup] = (owner_id, time.monotonic())
            self._waited_for.add(lookup)
        try:
            yield lookup
        except RuntimeError:
            # No thread could be started for it.
            self._end(lookup)
            raise
        finally:
            with self._changed:
                self._waited_for.discard(lookup)
                self._changed.notify_all()

    def _has_room(self, owner_id: str) -> bool:
        owns = sum(owner == owner_id for owner, _ in self._running.values())
        if self._waiting is not None and len(self._waited_for) >= self._waiting:
            return False
        return owns < self._per_owner and len(self._running) < self._total

    def _look(
        self,
        lookup: object,
        target: Target,
        allow_private: bool,
        answers: SimpleQueue[list[str] | AddressRefused],
    ) -> None:
        try:
            answers.put(resolve(target, allow_private=allow_private))
        except AddressRefused as error:
            answers.put(error)
        finally:
            self._end(lookup)

    def _end(self, lookup: object) -> None:
        with self._changed:
            self._running.pop(lookup, None)
            self._changed.notify_all()
