"""A database of an earlier release goes on under the rules of this one, and keeps what was paid."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import func, select

from app import clock
from app.config import Settings
from app.db import Database
from app.delegation.lifecycle import BEFORE_REVIEWS
from app.delegation.models import Cutover, Delegation
from app.http.context import EXTENSION
from app.ops.maintenance import sweep
from app.ops.restored import activate
from tests.client import Api
from tests.conftest import DIALECTS
from tests.delegation.conftest import DELEGATIONS, accept, offer
from tests.migrations.project import config
from tests.ops.conftest import bring_back
from tests.ops.place import Place
from tests.ops.test_snapshot import NewDatabase, broken_rules

RELEASE_1 = Path(__file__).with_name("release-1.snapshot")


@pytest.fixture(params=DIALECTS)
def upgraded(request: pytest.FixtureRequest, new_database: NewDatabase) -> Place:
    """What the release before ``delegation_0003`` left, brought to this one."""
    settings = new_database(request.param)
    bring_back(settings, RELEASE_1)
    known = json.loads(RELEASE_1.with_suffix(".json").read_text())
    answers = {
        key: (path, body, answer.encode()) for key, (path, body, answer) in known["answers"].items()
    }
    return Place(settings, known["keys"], answers)


def test_what_was_paid_stays_paid_and_counts_as_of_its_time(upgraded: Place) -> None:
    database = Database(upgraded.settings)
    with database.read() as connection:
        rows = connection.execute(select(*Delegation.__table__.c)).all()
        (until,) = connection.execute(select(Cutover.at)).scalars()
    database.dispose()
    found = Counter((row.status, row.settlement, row.settled_by) for row in rows)
    assert found == {
        ("completed", "settled", "inline"): 4,
        ("failed_hard_stop", "settled", "before_reviews"): 1,
        ("cancelled", "settled", "before_reviews"): 1,
        ("failed", "settled", "nothing_due"): 1,
        ("offered", "open", None): 1,
        ("in_progress", "open", None): 1,
        ("delivered", "in_review", None): 1,
        ("disputed", "disputed", None): 1,
    }
    paid_at_once = [row.closed_at for row in rows if row.settled_by == BEFORE_REVIEWS]
    assert until == max(paid_at_once)
    assert not broken_rules(upgraded.settings)
    with upgraded.open() as shop:
        assert shop.replayed() == len(upgraded.answers) > 3


def test_what_was_under_way_goes_on_by_the_rules_of_today(upgraded: Place) -> None:
    with upgraded.open() as shop:
        database: Database = shop.app.extensions[EXTENSION].database
        with database.transaction() as session:
            activate(session)
        with database.read() as connection:
            last = connection.execute(select(func.max(Delegation.due_at))).scalar_one()
        with clock.frozen(lambda: last):
            # The offer, the work, the delivery; and the reminder of the dispute.
            assert len(sweep(database)) == 4
            boss = shop.caller("boss")
            (failed,) = _with(boss, "settlement=in_review")
            assert (failed["status"], failed["in_review_usd"]) == ("failed", 2.5)
            (disputed,) = _with(boss, "settlement=disputed")
            path = f"{DELEGATIONS}/{disputed['delegation_id']}/resolve"
            decision = {"charge_usd": 1, "reason": "a third was usable"}
            assert boss.post(path, decision).get_json()["settled_by"] == "resolved"
            accepted = f"{DELEGATIONS}/{failed['delegation_id']}/accept-result"
            assert shop.caller("acme").post(accepted, {}).get_json()["charged_usd"] == 2.5
    assert not broken_rules(upgraded.settings)


def _with(api: Api, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"{DELEGATIONS}?{query}").get_json()["data"]
    return found


@pytest.mark.parametrize("target", DIALECTS)
def test_nothing_goes_back_while_money_is_in_review(target: str, new_database: NewDatabase) -> None:
    settings = new_database(target)
    bring_back(settings, RELEASE_1)
    known = json.loads(RELEASE_1.with_suffix(".json").read_text())
    place = Place(settings, known["keys"])
    with place.open() as shop:
        acme, globex = shop.caller("acme"), shop.caller("globex")
        worker = accept(globex, offer(acme)["delegation_id"])
        worker.meter(1)
        worker.send("fail", reason="broken")
    with pytest.raises(CommandError, match="1 delegations have ended and are not settled yet"):
        command.downgrade(_lossy(settings), "delegation@delegation_0005")
    with place.open() as shop:
        shop.caller("acme").post(f"{worker.path}/accept-result", {})
    command.downgrade(_lossy(settings), "delegation@delegation_0005")
    command.upgrade(config(settings), "heads")
    assert not broken_rules(settings)
    database = Database(settings)
    with database.read() as connection:
        grounds = Counter(connection.execute(select(Delegation.settled_by)).scalars())
    database.dispose()
    # An earlier release does not say why it paid, so all it leaves counts as of its time.
    assert grounds[BEFORE_REVIEWS] == 3


def _lossy(settings: Settings) -> Config:
    return config(settings, allow_data_loss="delegation")
