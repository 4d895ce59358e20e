"""Threads for the application behind an event loop, and whose turn it is when all are busy."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from app.errors import Unavailable


class ServerBusy(Unavailable):
    """More requests wait for this server than it lets wait; nothing was changed."""

    code = "server_busy"
    retry_after = 1


class _Job:
    """A call, and what awaits its result."""

    __slots__ = ("arguments", "error", "function", "future", "party", "result")

    def __init__(
        self,
        future: asyncio.Future[Any],
        party: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        self.future = future
        self.party = party
        self.function = function
        self.arguments = arguments
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, in a thread."""
        try:
            self.result = self.function(*self.arguments)
        except BaseException as error:
            # It is raised where the result is awaited.
            self.error = error

    def settle(self) -> None:
        """Hand over what came of it, in the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Pool:
    """Runs calls in ``threads`` threads; further ones wait, at most ``waiting`` of them.

    Those that wait are taken in turn over their parties, and no party has all threads: whoever
    sends many requests, or slow ones, leaves one thread to others. To be used in one event loop.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        # A thread that is done finds its next call at hand instead of waiting for the loop.
        self._free = 2 * threads
        self._share = max(1, threads - 1)
        self._running: dict[str, int] = {}
        self._limit = waiting
        self._waiting: dict[str, deque[_Job]] = {}
        self._number_waiting = 0
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        for number in range(threads):
            threading.Thread(target=self._work, name=f"request-{number}", daemon=True).start()

    def run(self, party: str, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Return the future result of a call made for ``party``.

        The future, or this, raises ``ServerBusy`` when too many wait: it meets the party that waits
        for most.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        job = _Job(loop.create_future(), party, function, arguments)
        if self._free and self._running.get(party, 0) < self._share:
            self._start(job)
        else:
            self._enqueue(party, job)
        return job.future

    def _start(self, job: _Job) -> None:
        self._free -= 1
        self._running[job.party] = self._running.get(job.party, 0) + 1
        self._jobs.put(job)

    def _enqueue(self, party: str, job: _Job) -> None:
        own = self._waiting.get(party)
        if self._number_waiting >= self._limit:
            self._make_room(len(own) if own else 0)
        if own is None:
            own = self._waiting[party] = deque()
        own.append(job)
        self._number_waiting += 1

    def _make_room(self, own: int) -> None:
        """Refuse the last call of the party that waits for most, or raise ``ServerBusy``."""
        refusal = ServerBusy("too many requests wait for this server; nothing was changed")
        longest = max(self._waiting.values(), key=len)
        if len(longest) <= own + 1:
            raise refusal
        last = longest.pop()
        self._number_waiting -= 1
        if not last.future.done():
            last.future.set_exception(refusal)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            job.run()
            loop = self._loop
            assert loop is not None  # noqa: S101 (set before the first job)
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(self._finished, job)

    def _finished(self, job: _Job) -> None:
        job.settle()
        self._free += 1
        self._running[job.party] -= 1
        if not self._running[job.party]:
            del self._running[job.party]
        entitled = (one for one in self._waiting if self._running.get(one, 0) < self._share)
        party = next(entitled, None)
        if party is None:
            return
        self._number_waiting -= 1
        jobs = self._waiting.pop(party)
        following = jobs.popleft()
        if jobs:
            # Behind all others.
            self._waiting[party] = jobs
        self._start(following)
