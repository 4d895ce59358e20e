"""Random histories of delegations against a simple model, with every rule checked after each step.

The machine speaks HTTP like any client. It moves the clock, repeats requests, loses a transaction
just before its commit, and reopens the database in between.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app import clock, create_app
from app.access.limits import RateLimiter
from app.access.service import create_key
from app.db import Database
from app.delegation.reconciliation import RULES
from app.http.context import EXTENSION, Services
from app.idempotency import service as idempotency
from app.ledger.reconciliation import reconcile
from app.ledger.seals import seal_pending
from app.money import to_micros, to_usd
from app.ops.maintenance import sweep
from tests.conftest import PEPPER, settings_for
from tests.delegation.conftest import CLERK, DELEGATIONS, READER
from tests.delegation.model import Model, Task
from tests.registry.manifests import build_manifest

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "30"))
STEPS = int(os.environ.get("MACHINE_STEPS", "50"))
USD = 1_000_000
amounts = st.integers(1, 40 * USD)
shares = st.integers(0, 130)


class Crash(BaseException):
    """The process ends before the commit."""


class World:
    """A migrated database that begins afresh for every example, behind one application."""

    def __init__(self, app: Flask, renew: Any) -> None:
        self.app = app
        self.renew = renew

    def services(self) -> Services:
        found: Services = self.app.extensions[EXTENSION]
        return found

    def reopen(self) -> None:
        """Drop every connection and begin with new ones, as a restarted server does."""
        old = self.services()
        old.database.dispose()
        self.app.extensions[EXTENSION] = replace(old, database=Database(old.settings))


WORLD: World


class DelegationMachine(RuleBasedStateMachine):
    """Every command of both sides and of an operator, in any state, at any time."""

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.world = WORLD
        self.cleanup = ExitStack()
        self.cleanup.enter_context(self.world.renew(self.world))
        self.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
        self.cleanup.enter_context(clock.frozen(lambda: self.now))
        self.model = Model(self.now)
        self.client: FlaskClient = self.world.app.test_client()
        self.tokens: dict[str, str] = {}
        self.sent: list[tuple[str, str, dict[str, Any], str, bytes, int]] = []
        self.keys: dict[str, str] = {}
        with self.world.services().database.transaction() as session:
            for owner, role in (
                ("acme", "developer"),
                ("globex", "developer"),
                ("operator", "admin"),
            ):
                self.keys[owner] = create_key(session, PEPPER.encode(), owner, role).secret

    def teardown(self) -> None:
        self.cleanup.close()

    def send(self, who: str, path: str, body: dict[str, Any], key: str | None = None) -> Any:
        """Make a write as one of the three owners and return the response."""
        key = key or uuid.uuid4().hex
        headers = {"X-API-Key": self.keys[who], "Idempotency-Key": key}
        response = self.client.post(path, json=body, headers=headers)
        assert response.status_code < 500, response.get_json()
        if response.status_code in (200, 400, 409):
            self.sent.append((who, path, body, key, response.data, response.status_code))
        return response

    def command(self, who: str, task: str, command: str, **body: Any) -> Any:
        return self.send(who, f"{DELEGATIONS}/{task}/{command}", body)

    def work(self, task: str, command: str, **body: Any) -> Any:
        """Give a command as the worker, with the token it has."""
        token = self.tokens.get(task, "none")
        return self.command("globex", task, command, lease_token=token, **body)

    def expect(self, response: Any, task_id: str, allowed: bool) -> Task | None:
        """Hold a command's outcome to the model's clock and states; the task if it went through."""
        task = self.model.tasks[task_id]
        if self.model.lapse(task):
            assert (response.status_code, response.get_json()["code"]) == (
                409,
                "delegation_overdue",
            )
            return None
        if not allowed:
            assert response.status_code == 409, response.get_json()
            return None
        assert response.status_code == 200, response.get_json()
        return task

    @initialize(funds=st.integers(0, 100 * USD))
    def begin(self, funds: int) -> None:
        for owner, namespace, slug in (("acme", "@acme", "clerk"), ("globex", "@globex", "reader")):
            body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
            assert self.send(owner, "/v1/agents", body).status_code == 200
        self.top_up(funds)

    @rule(amount=st.integers(0, 60 * USD))
    def top_up(self, amount: int) -> None:
        if amount:
            body = {"agent_id": CLERK, "amount_usd": to_usd(amount)}
            assert self.send("operator", "/v1/ledger/topups", body).status_code == 200
            self.model.payer += amount

    def request(self, estimate: int, more: int, auto: bool, **members: Any) -> dict[str, Any]:
        return {
            "requester_agent_id": CLERK,
            "delegate_agent_id": READER,
            "task_spec": "Read it",
            "estimated_cost_usd": to_usd(estimate),
            "max_budget_usd": to_usd(estimate + more),
            "auto_reauthorize": auto,
            **members,
        }

    def is_dead_end(self, response: Any, more: int, auto: bool) -> bool:
        """Hold the refusal of work that could only stop at its end to what was asked for."""
        refused: bool = response.get_json().get("code") == "policy_denied"
        assert refused == (not more and not auto)
        return refused

    def is_used_up(self, task: str) -> bool:
        """Tell whether a task waits for an authorization that nobody can give."""
        model = self.model.tasks[task]
        return model.status == "pending_reauthorization" and model.metered >= model.maximum

    @rule(
        target=tasks,
        estimate=amounts,
        more=st.integers(0, 10 * USD),
        auto=st.booleans(),
        review=st.sampled_from([0, 100, 86400]),
    )
    def offer(self, estimate: int, more: int, auto: bool, review: int) -> Any:
        body = self.request(
            estimate,
            more,
            auto,
            execution="remote",
            review_within_seconds=review,
            deadline_seconds=600,
        )
        response = self.send("acme", DELEGATIONS, body)
        if self.is_dead_end(response, more, auto):
            return multiple()
        if estimate > self.model.payer:
            assert (response.status_code, response.get_json()["code"]) == (
                400,
                "insufficient_funds",
            )
            return multiple()
        assert response.status_code == 200, response.get_json()
        self.model.payer -= estimate
        task_id: str = response.get_json()["delegation_id"]
        due = self.now + timedelta(minutes=15)
        period = timedelta(seconds=review)
        task = Task(False, estimate, estimate + more, auto, period, due, held=estimate)
        self.model.tasks[task_id] = task
        return task_id

    @rule(
        target=tasks,
        estimate=amounts,
        more=st.integers(0, 10 * USD),
        auto=st.booleans(),
        cost_shares=st.lists(shares, min_size=1, max_size=4),
    )
    def inline(self, estimate: int, more: int, auto: bool, cost_shares: list[int]) -> Any:
        costs = [estimate * share // 200 for share in cost_shares]
        events = [{"cost_usd": to_usd(cost)} for cost in costs]
        response = self.send(
            "acme", DELEGATIONS, self.request(estimate, more, auto, metering_events=events)
        )
        if self.is_dead_end(response, more, auto):
            return multiple()
        if estimate > self.model.payer:
            assert response.status_code == 400
            return multiple()
        assert response.status_code == 200, response.get_json()
        self.model.payer -= estimate
        task_id: str = response.get_json()["delegation_id"]
        due = self.now + timedelta(hours=1)
        task = Task(True, estimate, estimate + more, auto, timedelta(0), due, held=estimate)
        task.status = "in_progress"
        self.model.tasks[task_id] = task
        ends = [self.model.add_cost(task, cost) for cost in costs]
        stopped = "stop" in ends
        if stopped or task.status != "pending_reauthorization":
            status = "failed_hard_stop" if stopped else "completed"
            self.model.close(task, status, task.charge)
        return task_id

    @rule(task=tasks)
    def accept(self, task: str) -> None:
        model = self.model.tasks[task]
        free = model.status == "offered" or (
            model.status == "in_progress"
            and model.lease_end is not None
            and self.now >= model.lease_end
        )
        response = self.command("globex", task, "accept")
        if self.expect(response, task, free):
            model.silent_takeovers += model.status == "in_progress"
            model.status = "in_progress"
            model.deadline = model.deadline or self.now + timedelta(seconds=600)
            model.lease_end = self.now + timedelta(seconds=60)
            self.tokens[task] = response.get_json()["lease_token"]

    @rule(task=tasks)
    def decline(self, task: str) -> None:
        allowed = self.model.tasks[task].status == "offered"
        if model := self.expect(self.command("globex", task, "decline"), task, allowed):
            self.model.end(model, "declined")

    def under_way(self, task: str, *states: str) -> bool:
        model = self.model.tasks[task]
        return not model.inline and model.status in states

    @rule(task=tasks)
    def heartbeat(self, task: str) -> None:
        states = ("in_progress", "pending_reauthorization", "input_required")
        allowed = self.under_way(task, *states)
        model = self.expect(self.work(task, "heartbeat"), task, allowed)
        if model:
            model.silent_takeovers = 0
            if model.status == "in_progress":
                model.lease_end = self.now + timedelta(seconds=60)

    @rule(
        task=tasks,
        reports=st.lists(st.tuples(st.integers(0, 9), shares), min_size=1, max_size=4),
    )
    def meter(self, task: str, reports: list[tuple[int, int]]) -> None:
        model = self.model.tasks[task]
        # The number of an event settles its cost, so that a repetition is a true one.
        costs = {f"e{number}-{share}": model.authorized * share // 300 for number, share in reports}
        events = [
            {"event_id": name, "cost_usd": to_usd(cost), "operation": "call"}
            for name, cost in costs.items()
        ]
        allowed = self.under_way(task, "in_progress", "pending_reauthorization")
        payer, fresh = self.model.payer, [name for name in costs if name not in model.seen]
        reused = (
            [
                name
                for name in costs
                if name in model.seen and self.costs_of[task][name] != costs[name]
            ]
            if task in self.costs_of
            else []
        )
        response = self.work(task, "meter", events=events)
        if reused and allowed and not self.is_late(task):
            assert response.get_json()["code"] == "metering_event_reused"
            return
        if not self.expect(response, task, allowed):
            return
        model.silent_takeovers = 0
        paused, end, results = model.status == "pending_reauthorization", "go", {}
        for name in fresh:
            if end == "stop":
                results[name] = "refused"
                continue
            end = self.model.add_cost(model, costs[name])
            paused = paused or model.status == "pending_reauthorization"
            model.seen.add(name)
            self.costs_of.setdefault(task, {})[name] = costs[name]
            results[name] = "accepted"
        if end == "stop":
            self.model.end(model, "failed_hard_stop")
        elif paused:
            assert model.deadline is not None
            model.due = model.deadline
        else:
            model.lease_end = self.now + timedelta(seconds=60)
        answered = {event["event_id"]: event["result"] for event in response.get_json()["events"]}
        assert answered == {name: results.get(name, "duplicate") for name in costs}
        assert self.model.payer <= payer or end == "stop"

    @property
    def costs_of(self) -> dict[str, dict[str, int]]:
        if not hasattr(self, "_costs"):
            self._costs: dict[str, dict[str, int]] = {}
        return self._costs

    def is_late(self, task: str) -> bool:
        model = self.model.tasks[task]
        return model.is_open and self.now >= self.model.due(model)

    @rule(task=tasks)
    def deliver(self, task: str) -> None:
        allowed = self.under_way(task, "in_progress") or (
            self.is_used_up(task) and not self.model.tasks[task].inline
        )
        if model := self.expect(self.work(task, "deliver", output={"done": True}), task, allowed):
            model.cancel_at = None
            model.status, model.due = "delivered", self.now + model.review
            model.settlement = "in_review"
            if not model.review:
                self.model.close(model, "completed", model.charge)

    @rule(task=tasks)
    def fail(self, task: str) -> None:
        states = ("in_progress", "pending_reauthorization", "input_required")
        allowed = self.under_way(task, *states)
        if model := self.expect(self.work(task, "fail", reason="broken"), task, allowed):
            self.model.end(model, "failed")

    @rule(task=tasks)
    def ask(self, task: str) -> None:
        allowed = self.under_way(task, "in_progress")
        if model := self.expect(self.work(task, "ask", question="Which?"), task, allowed):
            assert model.deadline is not None
            model.silent_takeovers = 0
            model.status, model.due = "input_required", model.deadline

    @rule(task=tasks)
    def answer(self, task: str) -> None:
        allowed = self.model.tasks[task].status == "input_required"
        response = self.command("acme", task, "answer", answer="This")
        if model := self.expect(response, task, allowed):
            model.status = "in_progress"
            model.lease_end = self.now + timedelta(seconds=60)

    @rule(task=tasks, estimate=amounts)
    def reauthorize(self, task: str, estimate: int) -> None:
        before = self.model.tasks[task]
        estimate = min(estimate + before.metered, before.maximum)
        allowed = before.status == "pending_reauthorization" and not self.is_used_up(task)
        response = self.command("acme", task, "reauthorize", new_estimate_usd=to_usd(estimate))
        if allowed and not self.is_late(task):
            too_little = estimate <= before.metered
            if too_little or max(0, estimate - before.held) > self.model.payer:
                assert response.status_code == 400, response.get_json()
                return
        if model := self.expect(response, task, allowed):
            self.model.payer -= max(0, estimate - model.held)
            model.held, model.authorized = max(model.held, estimate), estimate
            model.status = "in_progress"
            model.lease_end = self.now + timedelta(seconds=60)
            if model.inline:
                self.model.close(model, "completed", model.charge)

    @rule(task=tasks)
    def accept_result(self, task: str) -> None:
        before = self.model.tasks[task]
        used_up = self.is_used_up(task) and before.inline
        more = before.maximum - before.held if used_up else 0
        response = self.command("acme", task, "accept-result")
        if more > self.model.payer and not self.is_late(task):
            assert response.get_json()["code"] == "insufficient_funds"
            return
        allowed = before.settlement == "in_review" or used_up
        if model := self.expect(response, task, allowed):
            self.model.payer -= more
            model.held += more
            self.model.close(model, "completed" if model.is_open else model.status, model.charge)

    @rule(task=tasks)
    def dispute(self, task: str) -> None:
        allowed = self.model.tasks[task].settlement == "in_review"
        response = self.command("acme", task, "dispute", reason="wrong")
        if model := self.expect(response, task, allowed):
            if model.is_open:
                model.status = "disputed"
            model.settlement, model.due = "disputed", self.now + timedelta(days=7)

    @rule(task=tasks, share=st.integers(0, 100))
    def resolve(self, task: str, share: int) -> None:
        before = self.model.tasks[task]
        charge = before.charge * share // 100
        response = self.command(
            "operator", task, "resolve", charge_usd=to_usd(charge), reason="decided"
        )
        if model := self.expect(response, task, before.settlement == "disputed"):
            self.model.close(model, "completed" if model.is_open else model.status, charge)

    @rule(task=tasks)
    def cancel(self, task: str) -> None:
        before = self.model.tasks[task]
        states = ("offered", "in_progress", "pending_reauthorization", "input_required")
        response = self.command("acme", task, "cancel")
        if model := self.expect(response, task, before.status in states):
            if model.status == "in_progress":
                model.cancel_at = model.cancel_at or self.now + timedelta(seconds=30)
            else:
                self.model.end(model, "cancelled")

    @rule(task=tasks)
    def confirm_cancel(self, task: str) -> None:
        before = self.model.tasks[task]
        states = ("in_progress", "pending_reauthorization", "input_required")
        allowed = self.under_way(task, *states) and before.cancel_at is not None
        if model := self.expect(self.work(task, "cancel"), task, allowed):
            self.model.end(model, "cancelled")

    @rule(seconds=st.sampled_from([1, 29, 31, 59, 61, 121, 599, 3601, 86400, 604800]))
    def advance(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.model.now = self.now

    @rule()
    def sweep(self) -> None:
        closed = sweep(self.world.services().database)
        late = [
            name for name, task in self.model.tasks.items() if self.model.lapse(task, sweeping=True)
        ]
        assert sorted(closed) == sorted(late)

    @rule(back=st.integers(1, 20))
    def replay(self, back: int) -> None:
        """An old request sent again gives the same bytes and does nothing."""
        if back > len(self.sent):
            return
        who, path, body, key, data, status = self.sent[-back]
        headers = {"X-API-Key": self.keys[who], "Idempotency-Key": key}
        response = self.client.post(path, json=body, headers=headers)
        if response.get_json().get("code") == "idempotency_response_expired":
            return
        assert (response.status_code, response.data) == (status, data)
        assert response.headers["Idempotent-Replayed"] == "true"

    @rule(estimate=amounts)
    def crash(self, estimate: int) -> None:
        """A process that ends before its commit leaves nothing behind, not even the key."""
        patch = pytest.MonkeyPatch()
        with patch.context() as patched:

            def end(*_: Any) -> None:
                raise Crash

            patched.setattr(idempotency, "store_answer", end)
            with pytest.raises(Crash):
                self.send("acme", DELEGATIONS, self.request(estimate, 0, True), "crashed")
        self.world.reopen()

    @rule()
    def seal(self) -> None:
        with self.world.services().database.transaction() as session:
            seal_pending(session)

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        if not self.sent:
            return
        for who, agent, expected in (
            ("acme", CLERK, self.model.payer),
            ("globex", READER, self.model.worker),
        ):
            # What is overdue and not yet swept is still held.
            account = self.client.get(
                f"/v1/ledger/accounts/agent:{agent}", headers={"X-API-Key": self.keys[who]}
            )
            assert to_micros(account.get_json()["balance_usd"]) == expected

    @invariant()
    def every_rule_holds(self) -> None:
        with self.world.services().database.snapshot() as connection:
            broken = [one for one in reconcile(connection, RULES) if one.findings]
        assert not broken


@pytest.fixture
def world(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The application, and how its database begins afresh."""
    if dialect == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")

        @contextmanager
        def renew(world: World) -> Iterator[None]:
            path = tmp_path / f"{uuid.uuid4().hex}.db"
            shutil.copy(template, path)
            _open(world, settings_for(f"sqlite:///{path}", tmp_path))
            yield
            world.services().database.dispose()
            path.unlink()
    else:
        server = request.getfixturevalue("postgres")
        name = request.getfixturevalue("postgresql_template")

        @contextmanager
        def renew(world: World) -> Iterator[None]:
            database = server.create_database(name)
            _open(world, settings_for(server.url(database), tmp_path))
            yield
            world.services().database.dispose()
            server.drop_database(database)

    first = tmp_path / "first.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), first)
    app = create_app(settings_for(f"sqlite:///{first}", tmp_path))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return World(app, renew)


def _open(world: World, chosen: Any) -> None:
    world.app.extensions[EXTENSION] = Services(
        chosen, Database(chosen), PEPPER.encode(), RateLimiter(0)
    )


def test_random_histories(world: World) -> None:
    global WORLD
    WORLD = world
    run_state_machine_as_test(
        DelegationMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
