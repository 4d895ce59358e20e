"""The pool of processes that hold values to schemas: limits, fairness, what it remembers."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.json_schema import pool as pool_module
from app.json_schema.pool import Check, ChecksBusy, Pool, Stopped
from tests.json_schema.schemas import EXPLOSIVE, TWICE, Schema, about, chain, nested
from tests.reliability.server import wait_for

OWNER, OTHER = "owner", "other"
MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Make pools of the test's own."""
    made: list[Pool] = []

    def make(size: int = 2, seconds: float = 1, queue: int = 16) -> Pool:
        made.append(Pool(size, seconds, queue))
        return made[-1]

    yield make
    for pool in made:
        pool.stop()


def hold(pool: Pool, schema: Schema, value: Any, owner: str = OWNER) -> Any:
    """Hold one value to a schema."""
    (found,) = pool.run(owner, [Check(json.dumps(schema), value)])
    return found


def forbid(patch: pytest.MonkeyPatch) -> None:
    """Have any process that is asked something fail the test."""

    def ask(*_: object) -> None:
        raise AssertionError("a process was asked")

    patch.setattr(pool_module._Process, "ask", ask)


class TestAProcess:
    def test_it_is_kept_and_replaced_when_it_is_gone(self, make_pool: MakePool) -> None:
        pool = make_pool()
        assert pool.idle_pids == []
        assert hold(pool, {"type": "string"}, "text") == []
        (first,) = pool.idle_pids
        assert hold(pool, {"type": "string"}, "text") == []
        assert pool.idle_pids == [first]
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert hold(pool, {"type": "string"}, 1) != []
        assert first not in pool.idle_pids
        pool.stop()
        assert pool.idle_pids == []

    def test_memory_and_time_are_limited(self, make_pool: MakePool) -> None:
        pool = make_pool()
        for schema, value in EXPLOSIVE.values():
            assert isinstance(hold(pool, schema, value), Stopped)
        assert hold(pool, {}, {"x": 1}) == []

    def test_a_value_of_any_size_gets_through(self, make_pool: MakePool) -> None:
        pool = make_pool()
        large = {"x": ["text"] * 100_000}
        assert hold(pool, about({"items": {"type": "string"}}), large) == []
        found = hold(pool, about({"items": {"type": "integer"}}), large)
        assert len(found) == 100
        assert found[0] == ["/x/0", "type", 'Must be of type "integer".']

    def test_what_others_left_in_it_is_no_fault_of_a_check(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool()
        assert hold(pool, {}, 1) == []
        (used,) = pool.idle_pids
        ask = pool_module._Process.ask

        def ends_when_used(process: Any, *arguments: Any) -> Any:
            if process.pid == used:
                os.kill(used, signal.SIGKILL)
            return ask(process, *arguments)

        monkeypatch.setattr(pool_module._Process, "ask", ends_when_used)
        assert hold(pool, {}, 2) == []
        assert used not in pool.idle_pids

    def test_one_that_does_not_answer_is_given_up(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool()
        assert hold(pool, {}, 1) == []
        (pid,) = pool.idle_pids
        monkeypatch.setattr(pool_module, "WALL_FACTOR", 0.1)
        os.kill(pid, signal.SIGSTOP)
        assert isinstance(hold(pool, {}, 1), Stopped)
        assert pool.idle_pids == []


class TestOneRequest:
    def test_its_checks_share_one_budget(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool(seconds=0.5)
        schema = json.dumps(chain(12, "anyOf"))
        checks = [Check(schema, {"x": f"text {number}"}) for number in range(200)]
        found = pool.run(OWNER, checks)
        assert not isinstance(found[0], Stopped)
        assert isinstance(found[-1], Stopped)
        # None of them was too much by itself.
        assert not isinstance(hold(pool, chain(12, "anyOf"), {"x": "text 199"}), Stopped)

    def test_no_check_takes_no_turn(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forbid(monkeypatch)
        assert make_pool().run(OWNER, []) == []
        assert make_pool().judge(OWNER, []) == []

    def test_schemas_are_judged(self, make_pool: MakePool) -> None:
        good, bad = json.dumps({}), json.dumps({"$ref": "#/none"})
        found = make_pool().judge(OWNER, [good, bad])
        assert found == [[], [["/$ref", "Must lead to a schema; there is none in this place."]]]


class TestWhatIsRemembered:
    def test_values_like_one_that_was_too_much(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool(seconds=0.2)
        assert isinstance(hold(pool, TWICE, nested(50)), Stopped)
        with monkeypatch.context() as patched:
            forbid(patched)
            assert isinstance(hold(pool, TWICE, nested(50)), Stopped)
            assert isinstance(hold(pool, TWICE, nested(30)), Stopped)
        # A far smaller one is tried, and so is whatever another owner asks.
        assert hold(pool, TWICE, nested(2)) == []
        with monkeypatch.context() as patched:
            forbid(patched)
            with pytest.raises(AssertionError):
                hold(pool, TWICE, nested(50), OTHER)

    def test_a_schema_that_is_too_much_by_itself(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool(seconds=0.2)
        alone = about({"allOf": [{"pattern": f"(?:a?){{90000}}{n}"} for n in range(60)]})
        assert isinstance(hold(pool, alone, {"x": "a" * 100}), Stopped)
        forbid(monkeypatch)
        assert isinstance(hold(pool, alone, 1), Stopped)

    def test_for_a_while(self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "REMEMBERED_SECONDS", -1)
        pool = make_pool(seconds=0.2)
        assert isinstance(hold(pool, TWICE, nested(50)), Stopped)
        forbid(monkeypatch)
        with pytest.raises(AssertionError):
            hold(pool, TWICE, nested(50))

    def test_no_more_than_so_many(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "MAX_REMEMBERED", 1)
        pool = make_pool()
        first, second = Check("{}", 1), Check("true", 1)
        pool.remember(OWNER, first, whatever_value=False)
        pool.remember(OWNER, second, whatever_value=False)
        assert (pool.is_costly(OWNER, first), pool.is_costly(OWNER, second)) == (False, True)


class TestTurns:
    def test_an_owner_has_one_process_and_leaves_the_others(self, make_pool: MakePool) -> None:
        pool = make_pool(size=2)
        with pool._turn(OWNER):
            with pytest.raises(ChecksBusy, match="your own"):
                hold(pool, {}, 1)
            assert hold(pool, {}, 1, OTHER) == []
        assert hold(pool, {}, 1) == []

    def test_an_owner_does_not_queue_behind_itself_for_long_but_briefly(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "PATIENCE_SECONDS", 60)
        pool = make_pool(size=2, seconds=60)
        found: list[Any] = []
        second = threading.Thread(target=lambda: found.append(hold(pool, {}, 1)))
        with pool._turn(OWNER):
            second.start()
            waits_for(pool, 1)
            assert found == []
        second.join()
        assert found == [[]]

    def test_others_wait_while_all_processes_are_taken(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1, seconds=60)
        found: list[Any] = []
        other = threading.Thread(target=lambda: found.append(hold(pool, {}, 1, OTHER)))
        with pool._turn(OWNER):
            other.start()
            waits_for(pool, 1)
        other.join()
        assert found == [[]]

    def test_not_for_ever(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1, seconds=0.05)
        with pool._turn(OWNER), pytest.raises(ChecksBusy, match="other owners'") as refusal:
            hold(pool, {}, 1, OTHER)
        assert refusal.value.retry_after == 1

    def test_the_queue_is_bounded(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1, seconds=60, queue=1)
        waiting = threading.Thread(target=lambda: hold(pool, {}, 1, OTHER))
        with pool._turn(OWNER):
            waiting.start()
            waits_for(pool, 1)
            with pytest.raises(ChecksBusy):
                hold(pool, {}, 1, "third")
        waiting.join()

    def test_one_owner_does_not_fill_the_queue(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1, seconds=60)
        waiting = [
            threading.Thread(target=lambda: hold(pool, {}, 1, OTHER))
            for _ in range(pool_module.MAX_WAITING)
        ]
        with pool._turn(OWNER):
            for thread in waiting:
                thread.start()
            waits_for(pool, len(waiting))
            with pytest.raises(ChecksBusy):
                hold(pool, {}, 1, OTHER)
        for thread in waiting:
            thread.join()

    def test_a_failure_gives_the_turn_back(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1)
        with pytest.raises(RuntimeError), pool._turn(OWNER):
            raise RuntimeError
        assert hold(pool, {}, 1) == []


def waits_for(pool: Pool, number: int) -> None:
    """Wait until so many requests wait for a process."""
    wait_for(lambda: len(pool._waiting) == number)
