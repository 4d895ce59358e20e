"""Endings of one delegation that race, and what becomes of its money then: delivery or cancelling,
settling or disputing, lazy expiry and the sweeper.

The rivals are threads of this process with connections of their own, because each of them needs a
time of its own: some act while the delegation may go on and some when it is overdue.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from sqlalchemy import func, select

from app import clock, create_app
from app.access.service import create_key
from app.config import Settings
from app.db import Database
from app.delegation.lifecycle import TERMINAL
from app.delegation.models import Delegation, DelegationEvent
from app.delegation.transitions import close_overdue
from app.http.context import EXTENSION, Services
from app.ledger.models import Account, Transaction
from app.ledger.service import agent_account, escrow_account
from tests.conftest import PEPPER
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import assert_consistent
from tests.reliability.market import DELEGATIONS, OPERATOR, USD, task
from tests.reliability.races import Figures, at_once

PAYER, PAYEE = "@acme:clerk", "@globex:reader"
FUNDS = 1_000_000 * USD
LATE = timedelta(hours=25)
# A review that is not over by then.
LONG_REVIEW = 30 * 3600
# How far apart the rivals may begin, so that each of them comes first now and then.
STAGGER_SECONDS = 0.03

# Each rival, by the way it would end the delegation; it tells whether it did.
Rivals = dict[str, Callable[[], bool]]


class Office:
    """The application in this process, its callers, and a clock that may differ by thread."""

    def __init__(self, settings: Settings) -> None:
        self.app: Flask = create_app(replace(settings, threads=8))
        services: Services = self.app.extensions[EXTENSION]
        self.database: Database = services.database
        self._local = threading.local()
        roles = {"acme": "developer", "globex": "developer", OPERATOR: "admin"}
        with self.database.transaction() as session:
            self.keys = {
                owner: create_key(session, PEPPER.encode(), owner, role).secret
                for owner, role in roles.items()
            }
        for owner, agent in (("acme", PAYER), ("globex", PAYEE)):
            namespace, _, slug = agent.partition(":")
            body = {"namespace": namespace, "manifest": build_manifest(slug)}
            assert self.send(owner, "/v1/agents", body).status_code == 200
        body = {"agent_id": PAYER, "amount_usd": FUNDS // USD}
        assert self.send(OPERATOR, "/v1/ledger/topups", body).status_code == 200

    def now(self) -> datetime:
        """Return the time as the present thread sees it."""
        moment: datetime = datetime.now(UTC) + getattr(self._local, "ahead", timedelta(0))
        return moment

    def later(self, act: Callable[[], Any]) -> Any:
        """Do something at a time when every delegation is overdue."""
        self._local.ahead = LATE
        try:
            return act()
        finally:
            self._local.ahead = timedelta(0)

    def send(self, owner: str, path: str, body: Any) -> Any:
        """Make a write."""
        headers = {"X-API-Key": self.keys[owner], "Idempotency-Key": uuid.uuid4().hex}
        response = self.app.test_client().post(path, json=body, headers=headers)
        assert response.status_code < 500, response.text
        return response

    def make(self, **members: Any) -> dict[str, Any]:
        """Make a delegation that costs three of the ten that are held."""
        response = self.send("acme", DELEGATIONS, task(PAYER, PAYEE, 10 * USD, **members))
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.get_json()
        return document

    def command(self, owner: str, delegation_id: str, command: str, **members: Any) -> Any:
        """Give a command to a delegation."""
        return self.send(owner, f"{DELEGATIONS}/{delegation_id}/{command}", members)

    def closes(self, owner: str, delegation_id: str, command: str, **members: Any) -> bool:
        """Give a command in time and tell whether it closed the delegation."""
        response = self.command(owner, delegation_id, command, **members)
        if response.status_code == 200:
            return response.get_json()["status"] in TERMINAL
        assert response.get_json()["code"] == "command_not_allowed", response.text
        return False

    def gives(self, owner: str, delegation_id: str, command: str, **members: Any) -> bool:
        """Give a command in time and tell whether it was in time."""
        response = self.command(owner, delegation_id, command, **members)
        if response.status_code == 200:
            return True
        assert response.get_json()["code"] == "command_not_allowed", response.text
        return False

    def expires(self, owner: str, delegation_id: str, command: str, **members: Any) -> bool:
        """Give a command too late and tell whether that let the clock close the delegation."""
        response = self.later(lambda: self.command(owner, delegation_id, command, **members))
        code = response.get_json()["code"]
        assert code in ("delegation_overdue", "command_not_allowed"), response.text
        return bool(code == "delegation_overdue")

    def sweeps(self, delegation_id: str) -> bool:
        """Sweep a delegation that is overdue and tell whether that closed it."""

        def sweep() -> bool:
            with self.database.transaction() as session:
                return close_overdue(session, delegation_id)

        return bool(self.later(sweep))

    def _worked_on(self, **members: Any) -> tuple[str, dict[str, Any]]:
        """Offer a task, take it on and report some use; return its id and proof of the lease."""
        delegation_id = self.make(execution="remote", **members)["delegation_id"]
        accepted = self.command("globex", delegation_id, "accept")
        lease = {"lease_token": accepted.get_json()["lease_token"]}
        events = [{"event_id": "call-1", "cost_usd": 3}]
        metered = self.command("globex", delegation_id, "meter", events=events, **lease)
        assert metered.status_code == 200, metered.text
        return delegation_id, lease

    def called_off(self) -> tuple[str, Rivals]:
        """A task that is called off while its worker is about to deliver."""
        one, lease = self._worked_on(review_within_seconds=LONG_REVIEW)
        assert self.command("acme", one, "cancel").status_code == 200
        return one, {
            "deliver": lambda: self.gives("globex", one, "deliver", output=1, **lease),
            "cancel": lambda: self.closes("globex", one, "cancel", **lease),
            "lazy expiry": lambda: self.expires("globex", one, "heartbeat", **lease),
            "sweeper": lambda: self.sweeps(one),
        }

    def given_up(self) -> tuple[str, Rivals]:
        """A task that one thread of its worker delivers and another gives up."""
        one, lease = self._worked_on(review_within_seconds=LONG_REVIEW)
        return one, {
            "deliver": lambda: self.gives("globex", one, "deliver", output=1, **lease),
            "fail": lambda: self.closes("globex", one, "fail", reason="broken", **lease),
            "lazy expiry": lambda: self.expires("acme", one, "cancel"),
            "sweeper": lambda: self.sweeps(one),
        }

    def delivered(self) -> tuple[str, Rivals]:
        """A result that is accepted twice when its review period ends."""
        one, lease = self._worked_on()
        assert self.command("globex", one, "deliver", output=1, **lease).status_code == 200
        return one, {
            "settle": lambda: self.closes("acme", one, "accept-result"),
            "settle again": lambda: self.closes("acme", one, "accept-result"),
            "lazy expiry": lambda: self.expires("acme", one, "dispute", reason="late"),
            "sweeper": lambda: self.sweeps(one),
        }

    def failed(self) -> tuple[str, Rivals]:
        """A charge for work that failed, contested or accepted when its review period ends."""
        one, lease = self._worked_on()
        assert self.command("globex", one, "fail", reason="broken", **lease).status_code == 200
        return one, {
            "settle": lambda: self.gives("acme", one, "accept-result"),
            "dispute": lambda: self.gives("acme", one, "dispute", reason="nothing came of it"),
            "lazy expiry": lambda: self.expires("acme", one, "dispute", reason="late"),
            "sweeper": lambda: self.sweeps(one),
        }

    def settles(self, delegation_id: str) -> None:
        """Have what a race left in review, or disputed, settled for all that is claimed."""
        row = _row(self.database, delegation_id)
        if row.settlement == "in_review":
            assert self.gives("acme", delegation_id, "accept-result")
        elif row.settlement == "disputed":
            decision = {"charge_usd": 3, "reason": "decided"}
            assert self.gives(OPERATOR, delegation_id, "resolve", **decision)

    def paused(self) -> tuple[str, Rivals]:
        """Inline work that is done and waits for the requester's authorization."""
        terms = {"auto_reauthorize": False, "estimated_cost_usd": 3, "max_budget_usd": 4}
        one = self.make(simulated_actual_cost_usd=3, **terms)["delegation_id"]
        more = {"new_estimate_usd": 4}
        return one, {
            "settle": lambda: self.closes("acme", one, "reauthorize", **more),
            "cancel": lambda: self.closes("acme", one, "cancel"),
            "lazy expiry": lambda: self.expires("acme", one, "reauthorize", **more),
            "sweeper": lambda: self.sweeps(one),
        }


def closings(settings: Settings, races: int) -> Figures:
    """Let four endings of each delegation race; exactly one happens, and the money is whole."""
    office = Office(settings)
    winners: Counter[str] = Counter()
    chance, paid = random.Random(races), 0
    with clock.frozen(office.now):
        prepare = (
            office.called_off,
            office.given_up,
            office.delivered,
            office.failed,
            office.paused,
        )
        for number in range(races):
            delegation_id, rivals = prepare[number % len(prepare)]()
            calls = [_staggered(call, chance) for call in rivals.values()]
            ended = dict(zip(rivals, at_once(calls), strict=True))
            assert sum(ended.values()) == 1, ended
            winners.update(name for name, won in ended.items() if won)
            office.settles(delegation_id)
            paid += _assert_closed_once(office.database, delegation_id)
            assert _balance(office.database, agent_account(PAYEE)) == paid
            assert _balance(office.database, agent_account(PAYER)) == FUNDS - paid
    assert_consistent(office.database)
    office.database.dispose()
    return {"deliberate races to close": races, "closed twice or never": 0, "won by": winners}


def _staggered(call: Callable[[], bool], chance: random.Random) -> Callable[[], bool]:
    pause = chance.uniform(0, STAGGER_SECONDS)

    def run() -> bool:
        time.sleep(pause)
        return call()

    return run


def _assert_closed_once(database: Database, delegation_id: str) -> int:
    """Fail unless there is one ending with one booking; return the charge."""
    row = _row(database, delegation_id)
    with database.snapshot() as connection:
        endings = connection.scalars(
            select(DelegationEvent.status).where(
                DelegationEvent.delegation_id == delegation_id, DelegationEvent.kind == "closed"
            )
        ).all()
        booked = connection.scalar(
            select(func.count()).where(
                Transaction.delegation_id == delegation_id, Transaction.kind == "close"
            )
        )
    assert endings == [row.status]
    assert booked == 1
    assert row.charged_micros == 3 * USD
    assert _balance(database, escrow_account(delegation_id)) == 0
    return int(row.charged_micros)


def _row(database: Database, delegation_id: str) -> Any:
    with database.read() as connection:
        return connection.execute(
            select(*Delegation.__table__.c).where(Delegation.id == delegation_id)
        ).one()


def _balance(database: Database, account_id: str) -> int:
    with database.read() as connection:
        return int(
            connection.execute(
                select(Account.credits_micros - Account.debits_micros).where(
                    Account.id == account_id
                )
            ).scalar_one()
        )
