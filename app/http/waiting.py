"""Requests that wait for a change without a thread, and streams that go on with each change.

A view that finds nothing yet calls ``wait_for``, and one that streams calls ``goes_on``. Then the
front holds the request in the event loop and runs it again once something has changed. All requests
of a process that wait have one look at the database in common, twice a second, and at once when a
write of the same process says that it changed what one of them waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flask import request
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app import changes
from app.db import Database
from app.http.pool import Pool, ServerBusy

# Where the front keeps what it knows of a request that may wait.
WAITER = "agenthub.waiter"
MAX_WAIT_SECONDS = 30
LOOK_SECONDS = 0.5
# Between two looks, however much is written.
PAUSE_SECONDS = 0.1
# A stream says at least as often that it is there, and whether its reader may still read.
KEEP_ALIVE_SECONDS = 15.0


@dataclass(frozen=True)
class Watch:
    """What a request waits for.

    ``look(connection, {key: [known, ...]})`` returns, by key, which of the values that requests
    know are no longer so; a value that it returns twice wakes two requests. ``topic`` is told by
    writes that may have changed it.
    """

    topic: str
    look: Callable[[Connection, Mapping[str, Sequence[Any]]], Mapping[str, Sequence[Any]]]
    key: str
    known: Any = None


@dataclass
class Waiter:
    """One request that may wait: when it came, and what its view said when it ran last.

    ``runs`` counts how often the view ran before. ``memory`` is the view's own, from run to run.
    """

    begun: float = field(default_factory=time.monotonic)
    runs: int = 0
    watch: Watch | None = None
    until: float = 0.0
    streams: bool = False
    ends_early: bool = False
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def is_held(self) -> bool:
        """Whether what the view answered is not sent: the request waits, or its stream goes on."""
        return self.watch is not None if not self.streams else self.runs > 0


def waiter() -> Waiter | None:
    """Return what the front knows of the current request; None where nothing can wait."""
    found: Waiter | None = request.environ.get(WAITER)
    return found


def runs_again() -> bool:
    """Tell whether the current request was run before, and has waited since."""
    own = waiter()
    return own is not None and own.runs > 0


def wait_for(watch: Watch, seconds: int | None) -> bool:
    """Have the current request run again when ``watch`` sees a change.

    False once it has waited ``seconds``, or where it cannot wait; then the view answers for good.
    """
    own = waiter()
    if own is None or not seconds or own.ends_early:
        return False
    own.until = own.begun + seconds
    if time.monotonic() >= own.until:
        return False
    own.watch = watch
    return True


def goes_on(watch: Watch) -> None:
    """Have the current request's answer go on: its view runs again when ``watch`` sees a change."""
    own = waiter()
    # What asks for the header alone has all of it.
    if own is not None and request.method == "GET":
        own.watch, own.streams = watch, True


@dataclass
class _Waiting:
    party: str
    waiter: Waiter
    watch: Watch
    woken: asyncio.Event


class Waiters:
    """The requests of a process that wait, in the order in which they came.

    At most ``limit`` wait at once. Beyond that the one that has waited longest of the party that
    has most of them is answered with what there is.
    """

    def __init__(self, pool: Pool, database: Database, limit: int) -> None:
        self._pool = pool
        self._database = database
        self._limit = limit
        self._waiting: dict[int, _Waiting] = {}
        self._topics: Counter[str] = Counter()
        self._told = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def stop(self) -> None:
        """Answer everybody who waits, and whoever would, with what there is. For any thread."""
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    async def wait(self, party: str, waiter: Waiter, seconds: float, woken: asyncio.Event) -> None:
        """Return once a waiter's watch has seen a change, ``woken`` is set or the time is over.

        Sets ``ends_early`` of a waiter that gets no longer to wait.
        """
        watch = waiter.watch
        assert watch is not None  # noqa: S101 (whoever waits said for what)
        own = _Waiting(party, waiter, watch, woken)
        self._add(own)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await own.woken.wait()
        finally:
            self._discard(own)
        if self._stopped:
            waiter.ends_early = True

    def _add(self, own: _Waiting) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            changes.listen(self._tell)
        waiting = [one for one in self._waiting.values() if not one.woken.is_set()]
        if len(waiting) >= self._limit:
            _make_room(waiting)
        self._waiting[id(own)] = own
        self._topics[own.watch.topic] += 1
        if self._stopped:
            own.woken.set()
        elif self._looking is None:
            self._looking = self._loop.create_task(self._look_on())

    def _discard(self, own: _Waiting) -> None:
        self._waiting.pop(id(own), None)
        self._topics[own.watch.topic] -= 1
        if not self._topics[own.watch.topic]:
            del self._topics[own.watch.topic]

    def _wake_all(self) -> None:
        for one in self._waiting.values():
            one.woken.set()

    def _tell(self, topics: Collection[str]) -> None:
        """Note what a write changed, in the thread that made it."""
        loop = self._loop
        if loop is None or loop.is_closed() or not self._topics:
            return
        # Read beside the loop, which may miss one who has just come; the next look sees it.
        if any(topic in self._topics for topic in topics):
            loop.call_soon_threadsafe(self._told.set)

    async def _look_on(self) -> None:
        """Look as long as anybody waits."""
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._told.wait()
                self._told.clear()
                await self._look()
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._looking = None

    async def _look(self) -> None:
        groups: defaultdict[Any, defaultdict[str, list[_Waiting]]]
        groups = defaultdict(lambda: defaultdict(list))
        # In the order in which requests came, also those that have waited before.
        for one in sorted(self._waiting.values(), key=lambda one: one.waiter.begun):
            if not one.woken.is_set():
                groups[one.watch.look][one.watch.key].append(one)
        asked = {
            look: {key: [one.watch.known for one in waiting] for key, waiting in keys.items()}
            for look, keys in groups.items()
        }
        # Where the database is away, whoever waits is told at the end of the time.
        with suppress(SQLAlchemyError, ServerBusy):
            found = await self._pool.run("those who wait", self._ask, asked)
            for look, changed in found.items():
                for key, outdated in changed.items():
                    _wake(groups[look][key], list(outdated))

    def _ask(self, asked: Mapping[Any, Mapping[str, Sequence[Any]]]) -> dict[Any, Any]:
        """Look into the database, in a thread."""
        with self._database.read() as connection:
            return {look: look(connection, keys) for look, keys in asked.items()}


def _make_room(waiting: Sequence[_Waiting]) -> None:
    """Answer the request that has waited longest of the party that has most of them."""
    most, _ = Counter(one.party for one in waiting).most_common(1)[0]
    oldest = next(one for one in waiting if one.party == most)
    oldest.waiter.ends_early = True
    oldest.woken.set()


def _wake(waiting: Sequence[_Waiting], outdated: list[Any]) -> None:
    for one in waiting:
        if one.watch.known in outdated:
            outdated.remove(one.watch.known)
            one.woken.set()
