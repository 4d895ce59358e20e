"""What is evidence of a delegate and what is not, over HTTP, with attackers at work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from app.delegation.models import Delegation, OwnerTurnover
from app.delegation.queries import count_outcomes
from app.delegation.settlement import turnovers, verdict
from app.http.context import Services
from app.operator.evidence import compare
from tests.client import Api, Contract
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    Clock,
    accept,
    offer,
    problem,
    top_up,
)
from tests.registry.manifests import build_manifest

TRUST = f"/v1/agents/{READER}/trust"
UNRATED = {"score": 0, "tier": "unrated", "badge": "none"}


def trust(api: Api, agent_id: str = READER) -> dict[str, Any]:
    document: dict[str, Any] = api.get(f"/v1/agents/{agent_id}/trust").get_json()
    return document


def shown(api: Api, agent_id: str = READER) -> dict[str, Any]:
    """Return what the agent's own document shows of its trust."""
    found: dict[str, Any] = api.get(f"/v1/agents/{agent_id}").get_json()["trust"]
    return found


def counted(api: Api, agent_id: str = READER) -> dict[str, int]:
    """Return what the agent's trust shows of its delegations."""
    found: dict[str, int] = trust(api, agent_id)["breakdown"][0]["evidence"]
    return found


class Market:
    """Owners with one agent each, who order from each other."""

    def __init__(self, caller: Callable[..., Api], operator: Api, time: Clock) -> None:
        self.caller, self.operator, self.time = caller, operator, time
        self.owners: dict[str, Api] = {}

    def join(self, name: str, usd: float = 0, slug: str = "agent", **runtime: Any) -> str:
        """Register an owner's agent, bring in its money, and return the agent's id."""
        api = self.owners.setdefault(name, self.caller(name))
        manifest = build_manifest(slug=slug)
        manifest["runtime"] |= runtime
        body = {"namespace": f"@{name}", "manifest": manifest}
        assert api.post("/v1/agents", body).status_code == 200
        agent_id = f"@{name}:{slug}"
        if usd:
            top_up(self.operator, agent_id, usd)
        return agent_id

    def of(self, agent_id: str) -> Api:
        """Return the owner of an agent."""
        return self.owners[agent_id[1:].partition(":")[0]]

    def offer(self, payer: str, payee: str, usd: float, **terms: Any) -> str:
        """Offer remote work that will cost exactly ``usd``; return the delegation's id."""
        body = {
            "requester_agent_id": payer,
            "delegate_agent_id": payee,
            "task_spec": "Read the invoices",
            "execution": "remote",
            "estimated_cost_usd": usd,
            "max_budget_usd": usd * 2,
        } | terms
        response = self.of(payer).post(DELEGATIONS, body)
        assert response.status_code == 200, response.get_json()
        delegation_id: str = response.get_json()["delegation_id"]
        return delegation_id

    def buy(self, payer: str, payee: str, usd: float, cost: float | None = None) -> str:
        """Have remote work done, delivered, accepted and paid."""
        delegation_id = self.offer(payer, payee, usd)
        worker = accept(self.of(payee), delegation_id)
        if cost != 0:
            assert worker.meter(usd if cost is None else cost).status_code == 200
        assert worker.send("deliver", output={}).status_code == 200
        path = f"{DELEGATIONS}/{delegation_id}/accept-result"
        assert self.of(payer).post(path, {}).get_json()["status"] == "completed"
        return delegation_id

    def disappoint(self, payer: str, payee: str, usd: float = 1, **terms: Any) -> str:
        """Have remote work given up; everything goes back."""
        delegation_id = self.offer(payer, payee, usd, **terms)
        worker = accept(self.of(payee), delegation_id)
        failed = worker.send("fail", reason="cannot").get_json()
        assert failed["status"] == "failed"
        return delegation_id


@pytest.fixture
def market(caller: Callable[..., Api], operator: Api, time: Clock) -> Market:
    return Market(caller, operator, time)


@pytest.fixture
def seller(market: Market) -> str:
    """An agent of a publisher who came half a year ago."""
    agent_id = market.join("seller")
    market.time.advance(days=180)
    return agent_id


def assert_recounts(services: Services) -> None:
    """What is kept is what history tells."""
    with services.database.snapshot() as connection:
        assert compare(connection).found == []


class TestWhatSaysNothing:
    @pytest.mark.usefixtures("agents")
    def test_three_hundred_forged_failures(self, acme: Api, globex: Api) -> None:
        junk = {
            "requester_agent_id": CLERK,
            "delegate_agent_id": READER,
            "task_spec": "xxx",
            "estimated_cost_usd": 0.000001,
            "max_budget_usd": 0.000001,
            "simulated_actual_cost_usd": 0.000002,
            "auto_reauthorize": False,
        }
        before = trust(globex)
        for _ in range(3):
            answer = acme.post(f"{DELEGATIONS}/batch", {"delegations": [junk | {
                "max_budget_usd": 0.000002, "auto_reauthorize": True,
            }] * 100})  # fmt: skip
            assert answer.status_code == 200
        ended = answer.get_json()["results"][0]["delegation"]
        assert ended["status"] == "failed_hard_stop"
        assert ended["lifecycle"][-1]["details"]["counts_as_evidence"] is False
        assert trust(globex) == before
        assert shown(globex) == UNRATED

    @pytest.mark.usefixtures("agents")
    def test_gold_in_one_batch(self, acme: Api, globex: Api) -> None:
        free = {
            "requester_agent_id": CLERK,
            "delegate_agent_id": READER,
            "task_spec": "praise",
            "estimated_cost_usd": 0.000001,
            "max_budget_usd": 1,
        }
        for costs in ([], [{"cost_usd": 0.000001}], None):
            batch = {"delegations": [free | {"metering_events": costs}] * 100}
            assert acme.post(f"{DELEGATIONS}/batch", batch).status_code == 200
        usage = acme.post(f"{TRUST}/usage", {"outcome": "success", "count": 100}).get_json()
        assert usage["counted"] == {"succeeded": 0, "failed": 0}
        assert usage["trust"] == UNRATED
        praise = {"suite": "own", "metrics": {"x": 1}, "cases": {"passed": 10**9, "total": 10**9}}
        globex.post(f"/v1/agents/{READER}/versions/1.0.0/evals", praise)
        document = trust(globex)
        assert shown(globex) == UNRATED
        assert {
            "no_delegations",
            "no_independent_usage",
            "self_reported_evaluations",
            "self_reported_only",
            "unpaid_usage_not_counted",
            "new_publisher",
        } <= set(document["flags"])
        assert document["breakdown"][2]["evidence"]["not_counted_unpaid"] == 100
        demanded = free | {"min_delegate_trust_score": 0.01, "metering_events": []}
        refused = acme.post(DELEGATIONS, demanded)
        assert problem(refused) == (403, "policy_forbidden")
        violated = refused.get_json()["policy_decision"]["violated_constraints"]
        assert violated == ["trust.delegate_score_missing"]

    @pytest.mark.usefixtures("agents")
    def test_impossible_offers(self, acme: Api, globex: Api, time: Clock) -> None:
        before = trust(globex)
        for _ in range(5):
            offer(acme, deadline_seconds=1, lease_seconds=1)
            claimed = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER})
            time.advance(seconds=5)
            late = globex.post(
                f"{DELEGATIONS}/{claimed.get_json()['delegation_id']}/heartbeat",
                {"lease_token": claimed.get_json()["lease_token"]},
            )
            assert problem(late) == (409, "delegation_overdue")
        assert trust(globex)["breakdown"] == before["breakdown"]
        assert shown(globex) == UNRATED

    def test_work_between_agents_of_one_owner(self, market: Market, services: Services) -> None:
        one, other = market.join("solo", 100), market.join("solo", slug="other")
        market.buy(one, other, 20)
        market.disappoint(one, other)
        assert counted(market.operator, other)["completed"] == 0
        assert shown(market.operator, other) == UNRATED
        assert_recounts(services)

    def test_work_that_cost_nothing(self, market: Market, seller: str) -> None:
        buyer = market.join("buyer", 100)
        for _ in range(3):
            market.buy(buyer, seller, 1, cost=0)
        assert counted(market.operator, seller)["completed"] == 0
        assert shown(market.operator, seller) == UNRATED

    def test_an_operator_takes_the_whole_price_away(self, market: Market, seller: str) -> None:
        buyer = market.join("buyer", 100)
        market.buy(buyer, seller, 10)
        delegation_id = market.offer(buyer, seller, 5)
        worker = accept(market.of(seller), delegation_id)
        worker.meter(5)
        worker.send("deliver", output={})
        path = f"{DELEGATIONS}/{delegation_id}"
        assert market.of(buyer).post(f"{path}/dispute", {"reason": "empty"}).status_code == 200
        decision = {"charge_usd": 0, "reason": "nothing was delivered"}
        assert market.operator.post(f"{path}/resolve", decision).status_code == 200
        found = counted(market.operator, seller)
        assert (found["completed"], found["failed"]) == (1, 1)


class TestFailuresThatTheRequesterCauses:
    """Failures of a customer with its full say count, but not those that its own terms cause."""

    @pytest.fixture
    def buyer(self, market: Market, seller: str) -> str:
        buyer = market.join("buyer", 100)
        market.buy(buyer, seller, 10)
        return buyer

    def failures(self, market: Market, seller: str) -> int:
        return counted(market.operator, seller)["failed"]

    def test_one_that_the_delegate_gives_up(self, market: Market, seller: str, buyer: str) -> None:
        delegation_id = market.disappoint(buyer, seller)
        assert self.failures(market, seller) == 1
        ended = market.of(buyer).get(f"{DELEGATIONS}/{delegation_id}").get_json()
        assert ended["lifecycle"][-1]["details"]["counts_as_evidence"] is True

    @pytest.mark.parametrize(("seconds", "failures"), [(29, 0), (30, 1)])
    def test_a_deadline_shorter_than_the_delegates_own(
        self, market: Market, seller: str, buyer: str, seconds: int, failures: int
    ) -> None:
        patient = market.join("seller", slug="patient", timeout_seconds=30)
        market.disappoint(buyer, patient, deadline_seconds=seconds)
        assert self.failures(market, patient) == failures

    def test_a_rule_says_more_than_the_manifest(
        self, market: Market, seller: str, buyer: str
    ) -> None:
        quick = market.join("seller", slug="quick", timeout_seconds=30)
        rules = {"shortest_deadline_seconds": 5}
        path = f"/v1/agents/{quick}/acceptance-rules"
        assert market.of(quick).put(path, rules).status_code == 200
        market.disappoint(buyer, quick, deadline_seconds=5)
        assert self.failures(market, quick) == 1

    def test_nobody_names_so_long_a_time_that_it_cannot_fail(
        self, market: Market, seller: str, buyer: str
    ) -> None:
        endless = market.join("seller", slug="endless", timeout_seconds=10**9)
        market.disappoint(buyer, endless)
        assert self.failures(market, endless) == 1

    def test_a_lease_too_short_to_renew(self, market: Market, seller: str, buyer: str) -> None:
        for lease in (9, 10):
            accept(market.of(seller), market.offer(buyer, seller, 1, lease_seconds=lease))
            market.time.advance(seconds=3 * lease)
            delegation_id = market.owners["buyer"].get(f"{DELEGATIONS}?limit=1").get_json()
            path = f"{DELEGATIONS}/{delegation_id['data'][0]['delegation_id']}/cancel"
            assert problem(market.of(buyer).post(path, {})) == (409, "delegation_overdue")
        assert self.failures(market, seller) == 1

    def test_work_given_up_after_it_was_called_off(
        self, market: Market, seller: str, buyer: str
    ) -> None:
        delegation_id = market.offer(buyer, seller, 1)
        worker = accept(market.of(seller), delegation_id)
        market.of(buyer).post(f"{DELEGATIONS}/{delegation_id}/cancel", {})
        assert worker.send("fail", reason="as you wish").get_json()["status"] == "failed"
        assert self.failures(market, seller) == 0

    def test_work_given_up_while_the_requester_is_awaited(
        self, market: Market, seller: str, buyer: str
    ) -> None:
        asked = accept(market.of(seller), market.offer(buyer, seller, 1))
        asked.send("ask", question="Which currency?")
        paused = accept(market.of(seller), market.offer(buyer, seller, 1, auto_reauthorize=False))
        assert paused.meter(1.1).get_json()["status"] == "pending_reauthorization"
        for worker in (asked, paused):
            assert worker.send("fail", reason="no answer").get_json()["status"] == "failed"
        assert self.failures(market, seller) == 0

    def test_a_stranger_who_never_paid(self, market: Market, seller: str, buyer: str) -> None:
        before, stranger = shown(market.operator, seller), market.join("stranger", 100)
        for _ in range(30):
            market.disappoint(stranger, seller)
        found = counted(market.operator, seller)
        assert (found["failed"], found["counted_failed"], found["not_counted_unpaid"]) == (
            30,
            0,
            30,
        )
        document = trust(market.operator, seller)
        assert "unpaid_delegations_not_counted" in document["flags"]
        assert shown(market.operator, seller) == before


class TestMoney:
    def test_a_customer_counts_as_far_as_it_has_paid(
        self, market: Market, seller: str, services: Services
    ) -> None:
        buyer = market.join("buyer", 100)
        says = []
        for usd in (0.03, 0.97, 4, 5, 50):
            market.buy(buyer, seller, usd)
            says.append(counted(market.operator, seller)["full_says_thousandths"])
        # A quarter of the full say until it has come back over a month.
        assert says == [0, 25, 125, 250, 250]
        market.time.advance(days=15)
        market.buy(buyer, seller, 0.01)
        assert counted(market.operator, seller)["full_says_thousandths"] == 625
        market.time.advance(days=60)
        market.buy(buyer, seller, 0.01)
        assert counted(market.operator, seller)["full_says_thousandths"] == 1000
        assert_recounts(services)

    def test_many_small_payments_are_worth_their_sum(self, market: Market, seller: str) -> None:
        buyer = market.join("buyer", 1)
        for _ in range(40):
            market.buy(buyer, seller, 0.005)
        found = counted(market.operator, seller)
        assert found["completed"] == 40
        assert found["full_says_thousandths"] == 5
        assert found["counted_completed"] == 0
        assert shown(market.operator, seller)["tier"] == "low"

    def test_one_whale_stays_low(self, market: Market, seller: str) -> None:
        whale = market.join("whale", 100_000)
        for _ in range(15):
            market.buy(whale, seller, 1000)
            market.time.advance(days=30)
        document = trust(market.operator, seller)
        assert document["tier"] == "low"
        assert document["limits"] == [{"reason": "few_paying_owners", "score_at_most": 49}]
        assert counted(market.operator, seller)["counted_completed"] == 10

    def test_money_that_goes_to_and_fro_is_worth_one_payment(
        self, market: Market, services: Services
    ) -> None:
        one, other = market.join("one", 5), market.join("other")
        for _ in range(6):
            market.buy(one, other, 5)
            market.buy(other, one, 5)
            market.time.advance(days=30)
        assert counted(market.operator, other)["full_says_thousandths"] == 125
        # The other never brought in any money.
        assert counted(market.operator, one)["full_says_thousandths"] == 0
        assert shown(market.operator, one) == UNRATED
        assert shown(market.operator, other)["tier"] == "low"
        assert_recounts(services)

    def test_money_that_goes_in_a_circle_is_worth_one_payment(
        self, market: Market, services: Services
    ) -> None:
        first, fence = market.join("first", 10), market.join("fence")
        seller = market.join("seller")
        market.time.advance(days=180)
        others = [market.join(f"sybil-{number}") for number in range(4)]
        for sybil in (first, *others):
            market.buy(sybil, seller, 10)
            # The money comes back by inline work and over a third owner.
            inline = {
                "requester_agent_id": seller,
                "delegate_agent_id": fence,
                "task_spec": "back",
                "estimated_cost_usd": 10,
                "max_budget_usd": 10.01,
                "simulated_actual_cost_usd": 9.99,
            }
            if sybil is not others[-1]:
                following = (first, *others)[(first, *others).index(sybil) + 1]
                inline |= {"estimated_cost_usd": 10, "simulated_actual_cost_usd": 10}
                inline["max_budget_usd"] = 20
                assert market.of(seller).post(DELEGATIONS, inline).status_code == 200
                back = inline | {"requester_agent_id": fence, "delegate_agent_id": following}
                assert market.of(fence).post(DELEGATIONS, back).status_code == 200
        found = counted(market.operator, seller)
        assert (found["completed"], found["paying_owners"]) == (5, 1)
        assert found["full_says_thousandths"] == 250
        assert_recounts(services)

    def test_only_owners_who_paid_are_heard_about_usage(
        self, market: Market, seller: str, services: Services
    ) -> None:
        buyer, stranger = market.join("buyer", 100), market.join("stranger", 100)
        usage = f"/v1/agents/{seller}/trust/usage"
        for name in (buyer, stranger):
            report = {"outcome": "success", "count": 60}
            answer = market.of(name).post(usage, report).get_json()
            assert answer["counted"] == {"succeeded": 0, "failed": 0}
        # A report counts once its reporter has paid, also afterwards.
        market.buy(buyer, seller, 10)
        found = trust(market.operator, seller)["breakdown"][2]["evidence"]
        assert (found["reporters"], found["paying_reporters"]) == (2, 1)
        assert (found["succeeded"], found["failed"], found["not_counted_unpaid"]) == (2, 0, 60)
        assert found["not_counted_over_limit"] == 58
        assert_recounts(services)


class TestTime:
    def customers(self, market: Market, number: int, seller: str) -> list[str]:
        buyers = [market.join(f"buyer-{place}", 100) for place in range(number)]
        for buyer in buyers:
            for _ in range(10):
                market.buy(buyer, seller, 1)
        return buyers

    def test_a_fresh_publisher_with_real_customers_stays_low(self, market: Market) -> None:
        fresh = market.join("fresh")
        buyers = self.customers(market, 6, fresh)
        market.time.advance(days=29)
        for buyer in buyers:
            market.buy(buyer, fresh, 1)
        document = trust(market.operator, fresh)
        assert (document["score"], document["tier"]) == (49, "low")
        assert document["limits"][0] == {"reason": "new_publisher", "score_at_most": 49}

    def test_customers_who_come_back_for_months_make_it_gold(
        self, market: Market, services: Services
    ) -> None:
        honest = market.join("honest")
        buyers = self.customers(market, 6, honest)
        scores = [shown(market.operator, honest)]
        for days in (30, 59, 91):
            market.time.advance(days=days)
            for buyer in buyers:
                market.buy(buyer, honest, 1)
                used = {"outcome": "success", "count": 10}
                market.of(buyer).post(f"/v1/agents/{honest}/trust/usage", used)
            scores.append(shown(market.operator, honest))
        assert [entry["tier"] for entry in scores] == ["low", "medium", "medium", "high"]
        assert scores[-1]["badge"] == "gold"
        tag = market.operator.get(f"/v1/agents/{honest}").headers["ETag"]
        assert tag == f'"1.{scores[-1]["score"]}"'
        assert_recounts(services)


class TestVerdict:
    def row(self, **changes: Any) -> SimpleNamespace:
        columns = {
            "execution": "remote",
            "simulated": False,
            "requester_owner_id": "a",
            "delegate_owner_id": "b",
            "status": "completed",
            "charged_micros": 5,
            "metered_micros": 5,
            "cancel_requested_at": None,
            "deadline_seconds": 60,
            "delegate_min_deadline_seconds": 60,
            "lease_seconds": 60,
        }
        return SimpleNamespace(**columns | changes)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, 1),
            ({"execution": "inline"}, 0),
            ({"simulated": True}, 0),
            ({"delegate_owner_id": "a"}, 0),
            ({"charged_micros": 0}, -1),
            ({"charged_micros": 0, "metered_micros": 0}, 0),
            ({"status": "failed", "charged_micros": 0}, -1),
            ({"status": "failed_hard_stop"}, -1),
            ({"status": "failed_hard_stop", "execution": "inline"}, 0),
            *(({"status": status}, 0) for status in ("declined", "expired", "cancelled")),
            ({"status": "failed", "lease_seconds": 9}, 0),
            ({"status": "failed", "deadline_seconds": 59}, 0),
            (
                {
                    "status": "failed",
                    "deadline_seconds": 1,
                    "delegate_min_deadline_seconds": None,
                },
                -1,
            ),
            ({"status": "failed", "cancel_requested_at": timedelta()}, 0),
        ],
    )
    def test_examples(self, changes: dict[str, Any], expected: int) -> None:
        assert verdict(self.row(**changes)) == expected

    def test_nothing_is_held_against_it_while_the_requester_is_awaited(self) -> None:
        assert verdict(self.row(status="failed"), awaited=True) == 0

    def test_turnover_is_between_owners(self) -> None:
        rows = [
            {"requester_owner_id": payer, "delegate_owner_id": payee, "charged_micros": charge}
            for payer, payee, charge in (("a", "b", 5), ("b", "a", 2), ("a", "a", 9), ("a", "b", 0))
        ]
        assert turnovers(rows) == {"a": (2, 5), "b": (5, 2)}


def test_rows_alone_tell_what_is_kept(market: Market, seller: str, services: Services) -> None:
    buyer = market.join("buyer", 100)
    market.buy(buyer, seller, 10)
    market.disappoint(buyer, seller)
    market.buy(buyer, seller, 1, cost=0)
    with services.database.read() as connection:
        (dealings,) = count_outcomes(connection)[seller].values()
        rows = connection.execute(select(Delegation.__table__)).all()
        totals = connection.execute(select(OwnerTurnover.__table__)).all()
    said = [verdict(row) for row in rows]
    assert sorted(said) == [-1, 0, 1]
    assert [row.evidence for row in rows] == said
    assert (dealings.completed, dealings.failed, dealings.own_micros) == (1, 1, 10_000_000)
    closed = turnovers(row._asdict() for row in rows)
    assert {row.owner_id: (row.earned_micros, row.spent_micros) for row in totals} == closed
    assert_recounts(services)


def test_a_refresh_brings_back_what_was_lost(
    market: Market, seller: str, services: Services
) -> None:
    buyer = market.join("buyer", 100)
    market.buy(buyer, seller, 10)
    before = trust(market.operator, seller)
    for table in ("registry_trust_counterparties", "registry_trust_evidence"):
        with services.database.transaction() as session:
            session.execute(text(f"DELETE FROM {table}"))
        report = market.operator.post("/v1/operator/refresh").get_json()
        assert report["repaired_total"] == 1
        assert trust(market.operator, seller) == before
    assert_recounts(services)


def test_owners_who_pay_each_other_at_once_do_not_block_each_other(
    market: Market, services: Services, app: Flask, contract: Contract
) -> None:
    one, other = market.join("one", 100), market.join("other", 100)
    due: dict[str, list[str]] = {one: [], other: []}
    for payer, payee in ((one, other), (other, one)) * 6:
        delegation_id = market.offer(payer, payee, 2)
        worker = accept(market.of(payee), delegation_id)
        worker.meter(2)
        worker.send("deliver", output={})
        due[payer].append(delegation_id)

    def settle(payer: str, delegation_ids: list[str]) -> list[int]:
        api = Api(app.test_client(), contract, market.of(payer).key)
        paths = (f"{DELEGATIONS}/{delegation_id}/accept-result" for delegation_id in delegation_ids)
        return [api.post(path, {}).status_code for path in paths]

    with ThreadPoolExecutor() as pool:
        halves = [(payer, ids[start::2]) for payer, ids in due.items() for start in (0, 1)]
        answers = list(pool.map(settle, *zip(*halves, strict=True)))
    assert answers == [[200] * 3] * 4
    with services.database.read() as connection:
        rows = connection.execute(select(OwnerTurnover.__table__)).all()
    assert [(row.earned_micros, row.spent_micros) for row in rows] == [(12_000_000,) * 2] * 2
    # What was each owner's own depends on who came first; it is what the rows say.
    assert_recounts(services)
    assert sum(row.own_micros for row in rows) >= 2_000_000
