"""A clock that was set back hides nothing, and one that jumps far is not written by."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import uuid_utils

from app import clock, ids
from app.clock import ClockImplausible, ClockWatch
from app.http.context import Services
from app.ops.maintenance import Sweeper, sweep
from app.ops.timekeeping import LISTED_BY_ID, continue_ids
from tests.client import Api
from tests.delegation.conftest import DELEGATIONS, agents, offer, operator, problem

__all__ = ["agents", "operator"]
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOLERANCE = timedelta(minutes=10)
YEAR = timedelta(days=400)


class Clocks:
    """A wall clock that can be set, and a steady one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 5000.0

    def pass_by(self, time: timedelta) -> None:
        self.wall += time
        self.steady += time.total_seconds()


@pytest.fixture
def clocks() -> Clocks:
    """Both clocks, at noon."""
    return Clocks()


@pytest.fixture
def watch(clocks: Clocks) -> ClockWatch:
    """What holds one to the other."""
    return ClockWatch(TOLERANCE, lambda: clocks.wall, lambda: clocks.steady)


def test_time_that_passes_is_believed(clocks: Clocks, watch: ClockWatch) -> None:
    clocks.pass_by(YEAR)
    watch.require()


@pytest.mark.parametrize("step", [TOLERANCE, -TOLERANCE, timedelta(seconds=-1)])
def test_a_clock_may_be_set_a_little(clocks: Clocks, watch: ClockWatch, step: timedelta) -> None:
    clocks.wall += step
    assert watch.fault() is None


@pytest.mark.parametrize(
    ("step", "where"), [(YEAR, "576,000 minutes ahead of"), (-YEAR, "576,000 minutes behind")]
)
def test_a_clock_that_jumps_is_not(
    clocks: Clocks, watch: ClockWatch, step: timedelta, where: str
) -> None:
    clocks.wall += step
    with pytest.raises(ClockImplausible, match=f"it is {where} where it was"):
        watch.require()
    clocks.pass_by(timedelta(days=1))
    assert watch.fault() is not None
    clocks.wall -= step
    assert watch.fault() is None


def test_a_clock_behind_what_is_stored_is_not(clocks: Clocks, watch: ClockWatch) -> None:
    watch.learn(NOON + TOLERANCE)
    assert watch.fault() is None
    watch.learn(NOON + TOLERANCE + timedelta(seconds=1))
    assert watch.fault() == "it is 10 minutes behind the time that was stored last"
    clocks.pass_by(timedelta(seconds=1))
    assert watch.fault() is None


@pytest.mark.parametrize("apart", [YEAR, -YEAR])
def test_a_clock_apart_from_the_servers_is_not(
    clocks: Clocks, watch: ClockWatch, apart: timedelta
) -> None:
    watch.learn(None, NOON + apart)
    assert "the clock of the database server" in str(watch.fault())


def test_a_clock_that_agrees_with_the_servers_may_have_been_set(
    clocks: Clocks, watch: ClockWatch
) -> None:
    clocks.wall += YEAR
    assert watch.fault() is not None
    watch.learn(None, clocks.wall)
    assert watch.fault() is None


def test_without_a_tolerance_any_clock_is_believed(clocks: Clocks) -> None:
    watch = ClockWatch(timedelta(0), lambda: clocks.wall, lambda: clocks.steady)
    clocks.wall += YEAR
    watch.learn(NOON + 2 * YEAR)
    watch.require()


@pytest.fixture
def jumped(services: Services, clocks: Clocks, agents: None) -> Iterator[Clocks]:
    """The service, whose clock is 400 days ahead of where it should be."""
    kept = services.database.clock_watch
    clocks.wall = datetime.now(UTC)
    watch = ClockWatch(TOLERANCE, lambda: clocks.wall, lambda: clocks.steady)
    services.database.clock_watch = watch
    clocks.wall += YEAR
    yield clocks
    services.database.clock_watch = kept


def test_nothing_is_written_by_a_clock_that_jumped(
    acme: Api, anyone: Api, services: Services, jumped: Clocks, dialect: str
) -> None:
    body = {
        "requester_agent_id": "@acme:clerk",
        "delegate_agent_id": "@globex:reader",
        "task_spec": "Read it",
        "estimated_cost_usd": 1,
        "max_budget_usd": 2,
    }
    refused = acme.post(DELEGATIONS, body, idempotency_key="jumped")
    assert problem(refused) == (503, "clock_implausible")
    assert refused.headers["Retry-After"] == "30"
    assert acme.get(DELEGATIONS).get_json()["data"] == []
    unready = anyone.get("/readyz")
    assert (unready.status_code, unready.get_json()["status"]) == (503, "unavailable")
    assert unready.get_json()["fault"] == "clock_implausible"
    assert "minutes ahead of" in unready.get_json()["clock_fault"]
    with pytest.raises(ClockImplausible):
        sweep(services.database)
    Sweeper(services.database).run_once()

    jumped.wall -= YEAR
    assert anyone.get("/readyz").get_json()["clock_fault"] is None
    # The key was left unused, so that the same write succeeds now.
    assert acme.post(DELEGATIONS, body, idempotency_key="jumped").status_code == 200


def test_the_order_of_delegations_is_that_of_their_creation(acme: Api, agents: None) -> None:
    moments = iter([NOON, NOON, NOON - timedelta(hours=1), NOON - YEAR, NOON + timedelta(hours=1)])
    made = []
    for moment in moments:
        with clock.frozen(lambda moment=moment: moment):  # type: ignore[misc]
            document = offer(acme, accept_within_seconds=60)
            due = moment + timedelta(seconds=60)
            assert document["due_at"] == clock.isoformat(due)
            made.append(document["delegation_id"])
            page = acme.get(f"{DELEGATIONS}?limit=1").get_json()["data"]
            assert [one["delegation_id"] for one in page] == [made[-1]]
    seen: list[str] = []
    url = f"{DELEGATIONS}?limit=2"
    while url:
        answer = acme.get(url).get_json()
        seen += [one["delegation_id"] for one in answer["data"]]
        cursor = answer["pagination"]["next_cursor"]
        url = f"{DELEGATIONS}?limit=2&cursor={cursor}" if cursor else ""
    assert seen == made[::-1]
    times = [one["created_at"] for one in acme.get(DELEGATIONS).get_json()["data"]]
    assert times == sorted(times, reverse=True)


def uuid7_of(seconds: int) -> uuid_utils.UUID:
    """Return a UUIDv7 of a moment: its milliseconds, version 7, the variant, random bits."""
    return uuid_utils.UUID(int=seconds * 1000 << 80 | 7 << 76 | 2 << 62 | secrets.randbits(62))


@pytest.fixture
def restore_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ids of other tests be of the present."""
    monkeypatch.setattr(ids, "_last", 0)


def test_ids_grow_though_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch, restore_ids: None
) -> None:
    seconds = iter([2000, 2000, 1000, 1000, 3000])
    monkeypatch.setattr(uuid_utils, "uuid7", lambda: uuid7_of(next(seconds)))
    made = [ids.new_id() for _ in range(5)]
    assert made == sorted(made)
    assert len(set(made)) == 5
    assert {uuid_utils.UUID(one).version for one in made} == {7}
    assert {str(uuid_utils.UUID(one).variant) for one in made} == {"specified in RFC 4122"}


def test_ids_go_on_after_those_that_are_stored(
    services: Services, restore_ids: None, acme: Api, agents: None
) -> None:
    with ids.frozen(lambda: str(uuid7_of(4_000_000_000))):
        later = offer(acme)["delegation_id"]
    assert ids.new_id() < later
    with services.database.read() as connection:
        continue_ids(connection)
    assert ids.new_id() > later
    assert "delegation_delegations" in LISTED_BY_ID
