"""The few processes in which a server process has schemas judged and values held to them.

A check may be hostile, and its request waits for it in a thread. So one request has one budget of
computing time for all of its checks; one owner has one process at a time, however many there are;
and whoever cannot be served soon is refused instead of waiting.
"""

from __future__ import annotations

import hashlib
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from app.config import Settings
from app.errors import TooManyRequests
from app.exits import at_exit
from app.json_schema.process import COMPILED, MEMORY_BYTES

# An owner's request waits for this owner's own check no longer than this after it began.
PATIENCE_SECONDS = 0.1
# Computing time passes more slowly than the clock while the machine is busy; but a thread waits for
# a check, so that even then it has an end.
WALL_FACTOR = 3
LEAST_SECONDS = 0.001
LEAST_SHARE = 0.5
"""A check that took less of its request's budget is not to blame for its end."""

MAX_WAITING = 8
"""At most this many requests of one owner wait for a process."""

REMEMBERED_SECONDS = 600
MAX_REMEMBERED = 1000


class ChecksBusy(TooManyRequests):
    """Other checks of schemas are under way, yours or others'; ask again after ``Retry-After``."""

    code = "checks_busy"


@dataclass(frozen=True)
class Stopped:
    """A check that has reached its limit; ``detail`` says which."""

    detail: str


@dataclass(frozen=True)
class Check:
    """A schema (JSON text) and a value to hold to it."""

    schema: str
    value: Any

    @property
    def size(self) -> int:
        """The length of the value as JSON."""
        return len(orjson.dumps(self.value))


@dataclass(eq=False)
class _Ticket:
    """A request that waits for its turn."""

    owner_id: str


# What a check found: violations or faults; None for a schema that cannot be applied.
Found = list[list[str]] | None


class _Process:
    """One process, which is asked one thing at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.json_schema.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdout is not None  # noqa: S101 (it is a pipe)
        self._process.stdout.readline()
        self.is_fresh = True
        self.compiled = False
        self.is_late = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_out_of_time(self) -> bool:
        """Whether the process has ended at its limit of computing time."""
        return self._process.wait() == -signal.SIGPROF

    def ask(self, request: dict[str, Any], until: float) -> dict[str, Any] | None:
        """Return the reply, None if the process ended instead or did not answer in time."""
        self.compiled = False
        reads, writes = self._process.stdout, self._process.stdin
        assert reads is not None  # noqa: S101 (both are pipes)
        assert writes is not None  # noqa: S101
        received = b""
        try:
            # Without a buffer, a write may take a part.
            line = memoryview(orjson.dumps(request) + b"\n")
            while line:
                line = line[writes.write(line) :]
            while not received.removeprefix(COMPILED).endswith(b"\n"):
                left = until - time.monotonic()
                if left <= 0 or not select.select([reads], [], [], left)[0]:
                    self.is_late = True
                    return None
                part = os.read(reads.fileno(), 1 << 20)
                if not part:
                    return None
                received += part
                self.compiled = received.startswith(COMPILED)
        except BrokenPipeError:
            return None
        self.is_fresh = False
        reply: dict[str, Any] = orjson.loads(received)
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Pool:
    """Up to ``size`` processes; each is started when it is needed and replaced when it ends.

    ``seconds`` of computing time is what one request has for its checks, and ``queue`` is how many
    requests may wait for a process.
    """

    def __init__(self, size: int, seconds: float, queue: int) -> None:
        self.seconds = seconds
        self._size, self._queue = size, queue
        self._changed = threading.Condition()
        self._idle: list[_Process] = []
        # Whose requests have a process, since when; and whose wait for one, in their order.
        self._running: dict[str, float] = {}
        self._waiting: list[_Ticket] = []
        self._costly: OrderedDict[tuple[str, bytes], tuple[int, float]] = OrderedDict()
        megabytes = MEMORY_BYTES // 2**20
        self.too_much = Stopped(f"more than {seconds:g} seconds in one request, or {megabytes} MiB")
        at_exit(self.stop)

    @property
    def idle_pids(self) -> list[int]:
        """The processes that wait to be asked."""
        return [process.pid for process in self._idle]

    def stop(self) -> None:
        """End the idle processes; another check would start new ones."""
        with self._changed:
            while self._idle:
                self._idle.pop().end()

    def run(self, owner_id: str, checks: Sequence[Check]) -> list[Found | Stopped]:
        """Return what each check found, all of them within the budget of one request.

        Raises ``ChecksBusy``.
        """
        found: list[Found | Stopped] = [
            self.too_much if self.is_costly(owner_id, check) else None for check in checks
        ]
        if all(found):
            return found
        with self._turn(owner_id) as turn:
            return [
                turn.check(check) if known is None else known
                for check, known in zip(checks, found, strict=True)
            ]

    def judge(self, owner_id: str, schemas: Sequence[str]) -> list[list[list[str]]]:
        """Return the faults of schemas' forms (pointer, detail). Raises ``ChecksBusy``."""
        if not schemas:
            return []
        with self._turn(owner_id) as turn:
            found = [turn.ask({"schema": schema}) for schema in schemas]
        return [
            [["", f"Must not take {faults.detail}, to be judged with the others."]]
            if isinstance(faults, Stopped)
            else faults or []
            for faults in found
        ]

    @contextmanager
    def _turn(self, owner_id: str) -> Iterator[_Turn]:
        with self._changed:
            self._await(owner_id)
            process = self._idle.pop() if self._idle else None
            self._running[owner_id] = time.monotonic() if process else math.inf
        turn = _Turn(self, owner_id, process)
        try:
            yield turn
        except BaseException:
            # Whatever it was, the process may be in the middle of an answer.
            turn.end_process()
            raise
        finally:
            with self._changed:
                del self._running[owner_id]
                if turn.process is not None:
                    self._idle.append(turn.process)
                self._changed.notify_all()

    def _await(self, owner_id: str) -> None:
        """Wait until it is this request's turn. Raises ``ChecksBusy``."""
        own = sum(other.owner_id == owner_id for other in self._waiting)
        is_full = len(self._waiting) >= self._queue or own >= MAX_WAITING
        ticket = _Ticket(owner_id)
        until = time.monotonic() + self.seconds
        self._waiting.append(ticket)
        try:
            while not self._is_next(ticket):
                since = self._running.get(owner_id)
                limit = until if since is None else min(until, since + PATIENCE_SECONDS)
                left = limit - time.monotonic()
                if left <= 0 or is_full:
                    whose = "other owners'" if since is None else "your own"
                    raise ChecksBusy(f"{whose} checks of schemas are under way", retry_after=1)
                self._changed.wait(left)
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()

    def _is_next(self, ticket: _Ticket) -> bool:
        """Tell whether a process is free and no other owner, who has none, has waited longer."""
        if len(self._running) >= self._size:
            return False
        able = (other for other in self._waiting if other.owner_id not in self._running)
        return next(able, None) is ticket

    def begin(self, owner_id: str) -> None:
        """Have what an owner asks begin now: its process has just started."""
        with self._changed:
            self._running[owner_id] = time.monotonic()

    def is_costly(self, owner_id: str, check: Check) -> bool:
        """Tell whether a check like this one has lately been too much, for the same owner."""
        size, until = self._costly.get((owner_id, _digest(check.schema)), (0, 0.0))
        return time.monotonic() < until and check.size * 2 > size

    def remember(self, owner_id: str, check: Check, *, whatever_value: bool) -> None:
        """Remember that a schema costs too much: for values like this one, or for any."""
        size = 0 if whatever_value else check.size
        with self._changed:
            key = owner_id, _digest(check.schema)
            self._costly[key] = size, time.monotonic() + REMEMBERED_SECONDS
            self._costly.move_to_end(key)
            while len(self._costly) > MAX_REMEMBERED:
                self._costly.popitem(last=False)


def _digest(schema: str) -> bytes:
    return hashlib.sha256(schema.encode()).digest()


class _Turn:
    """One request's use of a process, with what is left of its budget."""

    def __init__(self, pool: Pool, owner_id: str, process: _Process | None) -> None:
        self._pool = pool
        self._owner_id = owner_id
        self._left = pool.seconds
        self._until = time.monotonic() + pool.seconds * WALL_FACTOR
        self._compiled = False
        self._share = 0.0
        self.process = process

    def check(self, check: Check) -> Found | Stopped:
        """Make one check."""
        # An earlier one in the same request may have been the first of its kind.
        if self._pool.is_costly(self._owner_id, check):
            return self._pool.too_much
        found = self.ask({"schema": check.schema, "value": check.value})
        # A check that others left little time is no reason to refuse its like.
        if isinstance(found, Stopped) and self._share >= LEAST_SHARE:
            self._pool.remember(self._owner_id, check, whatever_value=not self._compiled)
        return found

    def ask(self, request: dict[str, Any]) -> Found | Stopped:
        """Have a request answered within what is left of the budget."""
        self._share = 0.0
        while self._left > LEAST_SECONDS:
            process = self._get_process()
            was_fresh, began = process.is_fresh, time.monotonic()
            reply = process.ask({**request, "seconds": self._left}, self._until)
            if reply is not None:
                self._left -= reply["seconds"]
                found: Found = reply["found"]
                return found
            self._compiled = process.compiled
            self._charge(process, time.monotonic() - began)
            self.end_process()
            # What earlier checks left in a process may have been what was too much for it.
            if was_fresh:
                break
        return self._pool.too_much

    def _charge(self, process: _Process, took: float) -> None:
        """Take what a check that reached a limit used from the budget, and note its share of it."""
        if process.is_late:
            self._share = took / (self._pool.seconds * WALL_FACTOR)
            self._left = 0
        elif process.is_out_of_time:
            self._share = self._left / self._pool.seconds
            self._left = 0
        else:
            self._share = 1.0
            self._left -= took

    def _get_process(self) -> _Process:
        if self.process is not None and not self.process.is_alive:
            self.end_process()
        if self.process is None:
            self.process = _Process()
            self._pool.begin(self._owner_id)
        return self.process

    def end_process(self) -> None:
        """End the process; whatever is asked next starts another."""
        if self.process is not None:
            self.process.end()
            self.process = None


@lru_cache(maxsize=8)
def shared_pool(size: int = 2, seconds: float = 2, queue: int = 16) -> Pool:
    """Return this process's one pool of a kind; asked for when an application is built."""
    return Pool(size, seconds, queue)


def pool_of(settings: Settings) -> Pool:
    """Return the pool that an application's settings ask for."""
    return shared_pool(
        settings.schema_check_processes,
        settings.schema_check_seconds,
        settings.schema_check_queue,
    )
