"""Whose request goes on waiting where too many do, and what a look at the database wakes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import pytest

from app import changes
from app.db import Database
from app.http import waiting
from app.http.pool import Pool
from app.http.waiting import Waiter, Waiters, Watch


class Inline:
    """A pool that runs calls at once, and a database that is not read."""

    async def run(self, _: str, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def read(self) -> Any:
        return nullcontext()


TASKS: dict[str, int] = {}


def look(_: Any, known: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    return {key: [None] * TASKS.get(key, 0) for key in known}


class Room:
    """The requests that wait in one process."""

    def __init__(self, limit: int) -> None:
        inline = Inline()
        self.all = Waiters(cast(Pool, inline), cast(Database, inline), limit)

    def enter(self, party: str, key: str = "reader") -> tuple[Waiter, asyncio.Task[None]]:
        waiter = Waiter()
        waiter.watch = Watch(f"offers {key}", look, key)
        return waiter, asyncio.ensure_future(self.all.wait(party, waiter, 20, asyncio.Event()))


async def the_greediest_makes_room() -> None:
    room = Room(limit=3)
    greedy = [room.enter("greedy") for _ in range(2)]
    modest = room.enter("modest")
    await asyncio.sleep(0.01)
    late = room.enter("late")
    more = room.enter("greedy")
    await asyncio.sleep(0.05)
    assert [one.done() for _, one in (*greedy, modest, late, more)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert greedy[0][0].ends_early
    room.all.stop()
    await asyncio.gather(modest[1], late[1], more[1])
    assert modest[0].ends_early
    # Nobody begins to wait any more.
    await asyncio.wait_for(room.enter("later")[1], 5)


async def as_many_are_woken_as_find_something() -> None:
    room = Room(limit=10)
    waiters = [room.enter("one") for _ in range(3)]
    other = room.enter("one", "writer")
    await asyncio.sleep(0.05)
    TASKS["reader"] = 2
    changes.tell(["offers writer"])
    await asyncio.gather(waiters[0][1], waiters[1][1])
    await asyncio.sleep(0.05)
    assert [one.done() for _, one in (*waiters, other)] == [True, True, False, False]
    assert not waiters[0][0].ends_early
    room.all.stop()
    await asyncio.gather(waiters[2][1], other[1])


@pytest.mark.parametrize(
    "scenario", [the_greediest_makes_room, as_many_are_woken_as_find_something]
)
def test_waiting(scenario: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    TASKS.clear()
    monkeypatch.setattr(waiting, "PAUSE_SECONDS", 0.5)
    asyncio.run(scenario())
