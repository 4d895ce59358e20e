"""The sweeper: closes what is overdue, whoever else is at it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app import clock
from app.delegation import transitions
from app.delegation.queries import list_overdue
from app.errors import Conflict
from app.http.context import Services
from app.ops import maintenance
from app.ops.maintenance import Sweeper, sweep
from tests.cli.test_commands import Shell
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, Clock, accept, balance, offer

pytestmark = pytest.mark.usefixtures("agents")


def status(api: Api, delegation_id: str) -> str:
    found: str = api.get(f"{DELEGATIONS}/{delegation_id}").get_json()["status"]
    return found


def test_it_closes_what_is_overdue_and_nothing_else(
    acme: Api, globex: Api, services: Services, time: Clock
) -> None:
    unanswered = offer(acme)["delegation_id"]
    silent = offer(acme)["delegation_id"]
    delivered = offer(acme)["delegation_id"]
    accept(globex, silent).meter(2)
    worker = accept(globex, delivered)
    worker.meter(3)
    worker.send("deliver", output=1)
    time.advance(minutes=10)
    assert sweep(services.database) == [silent]
    time.advance(minutes=5)
    assert sweep(services.database) == [unanswered]
    assert (balance(acme, CLERK), balance(globex, READER)) == (88, 0)
    time.advance(hours=24)
    assert sorted(sweep(services.database)) == sorted([silent, delivered])
    assert sweep(services.database) == []
    assert [status(acme, one) for one in (unanswered, silent, delivered)] == [
        "expired",
        "failed",
        "completed",
    ]
    assert (balance(acme, CLERK), balance(globex, READER)) == (95, 5)


def test_many_are_closed_in_one_round(acme: Api, services: Services, time: Clock) -> None:
    made = [offer(acme, estimated_cost_usd=0.1)["delegation_id"] for _ in range(7)]
    time.advance(minutes=15)
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(maintenance, "SWEEP_BATCH", 3)
        Sweeper(services.database).run_once()
    with services.database.read() as connection:
        assert list_overdue(connection, clock.now(), limit=9) == []
    assert {status(acme, one) for one in made} == {"expired"}


def test_one_that_cannot_be_closed_holds_up_no_other(
    acme: Api, services: Services, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = (offer(acme)["delegation_id"] for _ in range(2))
    time.advance(minutes=15)
    real = transitions.lapse

    class Broken(Conflict):
        code = "broken"

    def lapse(session: Any, delegation: Any, *more: Any) -> None:
        if delegation.id == broken:
            raise Broken("its escrow is not what it says")
        real(session, delegation, *more)

    monkeypatch.setattr(transitions, "lapse", lapse)
    assert sweep(services.database) == [sound]


def test_the_command(acme: Api, services: Services, time: Clock, tmp_path: Path) -> None:
    delegation_id = offer(acme)["delegation_id"]
    # The command's own clock does not stand still, and the offer is of a day gone by.
    time.now = datetime.now(UTC) - timedelta(days=1)
    late = offer(acme)["delegation_id"]
    shell = Shell(services.settings, tmp_path)
    closed = shell.json("sweep")["closed"]
    assert late in closed
    assert set(closed) <= {delegation_id, late}
    assert shell.run("sweep").stdout == "0 overdue delegations closed.\n"
