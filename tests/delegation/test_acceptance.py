"""Acceptance rules: what a delegate's owner takes from others, and how they are told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event

from app.http.context import Services
from tests.client import Api, Contract
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    Clock,
    accept,
    balance,
    offer,
    problem,
    request,
    top_up,
)
from tests.registry.manifests import build_manifest

pytestmark = pytest.mark.usefixtures("agents")
RULES = f"/v1/agents/{READER}/acceptance-rules"
DEFAULTS = {
    "takes_inline": True,
    "smallest_estimate_usd": 0.000001,
    "shortest_deadline_seconds": None,
    "shortest_lease_seconds": None,
    "most_live_offers": 1000,
}


def put(api: Api, **rules: Any) -> dict[str, Any]:
    response = api.put(RULES, rules)
    assert response.status_code == 200, response.get_json()
    document: dict[str, Any] = response.get_json()
    return document


def refusal(response: Any) -> dict[str, Any]:
    """Return what a refusal says of the rule."""
    assert problem(response) == (403, "acceptance_rule_broken"), response.get_json()
    document = response.get_json()
    return {
        name: document.get(name)
        for name in ("rule", "field", "expected", "observed")
        if name in document
    }


class TestTheRules:
    @pytest.mark.parametrize(
        ("rules", "changes", "told"),
        [
            (
                {"smallest_estimate_usd": 10.000001},
                {},
                {
                    "rule": "smallest_estimate",
                    "field": "estimated_cost_usd",
                    "expected": "at least 10.000001",
                    "observed": 10,
                },
            ),
            (
                {"shortest_deadline_seconds": 60},
                {"deadline_seconds": 59},
                {
                    "rule": "shortest_deadline",
                    "field": "deadline_seconds",
                    "expected": "at least 60",
                    "observed": 59,
                },
            ),
            (
                {"shortest_lease_seconds": 30},
                {"lease_seconds": 1},
                {
                    "rule": "shortest_lease",
                    "field": "lease_seconds",
                    "expected": "at least 30",
                    "observed": 1,
                },
            ),
            ({"denied_owners": ["acme"]}, {}, {"rule": "owners"}),
            ({"denied_owners": ["@acme"]}, {}, {"rule": "owners"}),
            ({"allowed_owners": []}, {}, {"rule": "owners"}),
            ({"allowed_owners": ["globex"]}, {}, {"rule": "owners"}),
            ({"allowed_owners": ["acme"], "denied_owners": ["@acme"]}, {}, {"rule": "owners"}),
        ],
    )
    def test_an_offer_that_breaks_one_is_refused_with_its_name(
        self, acme: Api, globex: Api, rules: Any, changes: Any, told: Any
    ) -> None:
        put(globex, **rules)
        body = request(execution="remote", **changes)
        refused = acme.post(DELEGATIONS, body, idempotency_key="once")
        assert refusal(refused) == told
        assert balance(acme, CLERK) == 100
        globex.delete(RULES)
        # It is an outcome: the same key replays it, whatever the rules are by now.
        assert acme.post(DELEGATIONS, body, idempotency_key="once").data == refused.data
        assert acme.post(DELEGATIONS, body).status_code == 200

    def test_what_keeps_them_is_taken(self, acme: Api, globex: Api) -> None:
        put(
            globex,
            allowed_owners=["@acme"],
            denied_owners=[],
            takes_inline=False,
            smallest_estimate_usd=10,
            shortest_deadline_seconds=60,
            shortest_lease_seconds=30,
            most_live_offers=1,
        )
        assert offer(acme, deadline_seconds=60, lease_seconds=30)["status"] == "offered"

    def test_inline_work(self, acme: Api, globex: Api) -> None:
        # A deadline and a lease are for those who wait.
        put(globex, shortest_deadline_seconds=7200, shortest_lease_seconds=7200)
        assert acme.post(DELEGATIONS, request()).status_code == 200
        put(globex, takes_inline=False)
        assert refusal(acme.post(DELEGATIONS, request())) == {
            "rule": "inline",
            "field": "execution",
            "expected": "remote",
            "observed": "inline",
        }
        assert offer(acme)["status"] == "offered"
        put(globex, smallest_estimate_usd=11)
        assert refusal(acme.post(DELEGATIONS, request()))["rule"] == "smallest_estimate"
        put(globex, denied_owners=["acme"])
        assert refusal(acme.post(DELEGATIONS, request())) == {"rule": "owners"}

    def test_a_batch_item_by_item(self, acme: Api, globex: Api) -> None:
        other = {"namespace": "@globex", "manifest": build_manifest(slug="other")}
        assert globex.post("/v1/agents", other).status_code == 200
        put(globex, smallest_estimate_usd=5)
        items = [
            request(),
            request(estimated_cost_usd=1),
            request(estimated_cost_usd=1, delegate_agent_id="@globex:other"),
        ]
        results = acme.post(f"{DELEGATIONS}/batch", {"delegations": items}).get_json()["results"]
        assert [entry["succeeded"] for entry in results] == [True, False, True]
        alone = acme.post(DELEGATIONS, items[1]).get_json()
        told = results[1]["problem"]
        assert told["rule"] == "smallest_estimate"
        assert {**told, "request_id": 0} == {**alone, "request_id": 0}

    def test_a_batch_costs_no_statement_for_an_item(
        self, acme: Api, globex: Api, services: Services
    ) -> None:
        put(globex, smallest_estimate_usd=0.1)
        counted: list[str] = []

        def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
            counted.append(statement)

        numbers = []
        event.listen(services.database.writer, "before_cursor_execute", note)
        for size in (2, 60):
            counted.clear()
            items = [request(estimated_cost_usd=0.1, max_budget_usd=1) for _ in range(size)]
            items[0]["estimated_cost_usd"] = 0.01
            answer = acme.post(f"{DELEGATIONS}/batch", {"delegations": items}).get_json()
            assert answer["succeeded"] == size - 1
            numbers.append(len(counted))
        event.remove(services.database.writer, "before_cursor_execute", note)
        assert numbers[0] == numbers[1]

    def test_an_owner_is_not_bound_by_its_own_rules(self, globex: Api, operator: Api) -> None:
        payer = {"namespace": "@globex", "manifest": build_manifest(slug="payer")}
        assert globex.post("/v1/agents", payer).status_code == 200
        top_up(operator, "@globex:payer", 100)
        put(
            globex,
            allowed_owners=[],
            takes_inline=False,
            smallest_estimate_usd=50,
            shortest_deadline_seconds=7200,
            shortest_lease_seconds=7200,
            most_live_offers=0,
        )
        own = {"requester_agent_id": "@globex:payer"}
        assert globex.post(DELEGATIONS, request(**own)).status_code == 200
        assert offer(globex, **own)["status"] == "offered"

    def test_the_terms_that_poison_trust_can_be_refused(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        put(globex, shortest_deadline_seconds=60, shortest_lease_seconds=10)
        hasty = request(execution="remote", deadline_seconds=1, lease_seconds=1)
        assert refusal(acme.post(DELEGATIONS, hasty))["rule"] == "shortest_deadline"
        empty = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER})
        assert problem(empty) == (404, "no_task_offered")

    def test_rules_bind_what_comes_and_not_what_is_there(self, acme: Api, globex: Api) -> None:
        delegation = offer(acme)
        put(globex, denied_owners=["acme"], smallest_estimate_usd=1000)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(4)
        assert worker.send("deliver", output=1).get_json()["status"] == "delivered"

    def test_who_may_not_act_for_the_requester_is_told_so_first(
        self, acme: Api, globex: Api, caller: Callable[..., Api]
    ) -> None:
        put(globex, allowed_owners=[])
        response = caller("initech").post(DELEGATIONS, request())
        assert problem(response) == (403, "not_your_agent")


class TestLiveOffers:
    def test_so_many_wait_and_no_more(self, acme: Api, globex: Api, caller: Any) -> None:
        put(globex, most_live_offers=2)
        first = offer(acme)
        offer(acme)
        body = request(execution="remote")
        assert refusal(acme.post(DELEGATIONS, body)) == {
            "rule": "most_live_offers",
            "expected": "fewer than 2 offers that wait",
            "observed": 2,
        }
        # Inline work does not wait.
        assert acme.post(DELEGATIONS, request()).status_code == 200
        accept(globex, first["delegation_id"])
        offer(acme)
        assert refusal(acme.post(DELEGATIONS, body))["rule"] == "most_live_offers"

    def test_all_agents_of_an_owner_count_and_those_of_others_do_not(
        self, acme: Api, globex: Api, operator: Api, caller: Callable[..., Api]
    ) -> None:
        initech = caller("initech")
        for api, namespace, slug in ((acme, "@acme", "second"), (initech, "@initech", "clerk")):
            body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
            assert api.post("/v1/agents", body).status_code == 200
            top_up(operator, f"{namespace}:{slug}", 100)
        put(globex, most_live_offers=1)
        offer(acme)
        second = request(execution="remote", requester_agent_id="@acme:second")
        assert refusal(acme.post(DELEGATIONS, second))["rule"] == "most_live_offers"
        offer(initech, requester_agent_id="@initech:clerk")

    def test_what_has_expired_does_not_count_though_nobody_swept(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        put(globex, most_live_offers=1)
        offer(acme, accept_within_seconds=60)
        time.advance(seconds=59)
        assert refusal(acme.post(DELEGATIONS, request(execution="remote")))
        time.advance(seconds=1)
        offer(acme)

    def test_none_at_all(self, acme: Api, globex: Api) -> None:
        put(globex, most_live_offers=0)
        refused = refusal(acme.post(DELEGATIONS, request(execution="remote")))
        assert (refused["rule"], refused["observed"]) == ("most_live_offers", 0)
        assert acme.post(DELEGATIONS, request()).status_code == 200

    def test_many_at_once_cannot_all_be_the_last(
        self,
        app: Flask,
        contract: Contract,
        acme: Api,
        globex: Api,
        operator: Api,
    ) -> None:
        agents = [f"@acme:payer{number}" for number in range(8)]
        for agent in agents:
            body = {"namespace": "@acme", "manifest": build_manifest(slug=agent[6:])}
            assert acme.post("/v1/agents", body).status_code == 200
            top_up(operator, agent, 100)
        put(globex, most_live_offers=3)

        def send(agent: str) -> int:
            # An account for each, so that no lock on money keeps them apart.
            one = Api(app.test_client(), contract, acme.key)
            body = request(execution="remote", requester_agent_id=agent, estimated_cost_usd=1)
            return int(one.post(DELEGATIONS, body).status_code)

        with ThreadPoolExecutor(8) as pool:
            found = sorted(pool.map(send, agents))
        assert found == [200] * 3 + [403] * 5
        waiting = globex.get(f"{DELEGATIONS}?role=delegate&status=offered").get_json()["data"]
        assert len(waiting) == 3


class TestShowing:
    def test_an_agent_without_rules_has_the_defaults(
        self, acme: Api, globex: Api, operator: Api, anyone: Api
    ) -> None:
        limits = {"agent_id": READER, "takes_your_offers": True, **DEFAULTS}
        limits["min_deadline_seconds"] = 30
        everything = {**limits, "allowed_owners": None, "denied_owners": []}
        assert acme.get(RULES).get_json() == limits
        assert globex.get(RULES).get_json() == everything
        assert operator.get(RULES).get_json() == everything
        assert anyone.get(RULES).status_code == 401

    def test_others_see_what_to_comply_with_and_not_who_is_let_in(
        self, acme: Api, globex: Api, caller: Callable[..., Api]
    ) -> None:
        shown = put(globex, denied_owners=["acme"], allowed_owners=None, takes_inline=False)
        assert shown["denied_owners"] == ["acme"]
        assert globex.get(RULES).get_json() == shown
        for api, let_in in ((acme, False), (caller("initech", role="viewer"), True)):
            found = api.get(RULES).get_json()
            assert found["takes_your_offers"] is let_in
            assert not {"denied_owners", "allowed_owners"} & found.keys()
            assert found["takes_inline"] is False
        # Whether an owner was denied, or is not among those allowed, looks alike.
        denied = acme.get(RULES)
        put(globex, allowed_owners=["initech"], takes_inline=False)
        assert acme.get(RULES).data == denied.data
        assert acme.get(RULES).headers["ETag"] == denied.headers["ETag"]

    def test_the_deadline_that_a_delegate_can_be_held_to(self, acme: Api, globex: Api) -> None:
        for timeout, told in ((60, 60), (3600, 3600), (86_400, 3600)):
            manifest = build_manifest(slug="reader", version=f"2.{timeout}.0")
            manifest["runtime"]["timeout_seconds"] = timeout
            assert globex.put(f"/v1/agents/{READER}", {"manifest": manifest}).status_code == 200
            assert acme.get(RULES).get_json()["min_deadline_seconds"] == told
        assert put(globex, shortest_deadline_seconds=7200)["min_deadline_seconds"] == 7200

    def test_an_agent_that_does_not_exist(self, acme: Api) -> None:
        path = "/v1/agents/@acme:nobody/acceptance-rules"
        assert problem(acme.get(path)) == (404, "agent_not_found")
        assert problem(acme.put(path, {})) == (404, "agent_not_found")
        assert problem(acme.delete(path)) == (404, "agent_not_found")
        assert problem(acme.get("/v1/agents/nonsense/acceptance-rules")) == (404, "path_not_found")


class TestSetting:
    def test_only_the_owner_sets_them(
        self, acme: Api, globex: Api, operator: Api, caller: Callable[..., Api]
    ) -> None:
        for api in (acme, operator):
            assert problem(api.put(RULES, {})) == (403, "not_your_agent")
            assert problem(api.delete(RULES)) == (403, "not_your_agent")
            # What others may not do is not a way to find out who is there.
            unknown = api.put(RULES, {"denied_owners": ["nobody"]})
            assert problem(unknown) == (403, "not_your_agent")
        viewer = caller("globex", role="viewer")
        assert problem(viewer.put(RULES, {})) == (403, "role_required")

    def test_a_put_replaces_all_and_a_delete_goes_back(self, globex: Api) -> None:
        put(globex, smallest_estimate_usd=5, most_live_offers=7, denied_owners=["acme"])
        shown = put(globex, shortest_lease_seconds=5)
        changed = {**DEFAULTS, "shortest_lease_seconds": 5}
        assert {name: shown[name] for name in DEFAULTS} == changed
        assert shown["denied_owners"] == []
        for _ in range(2):
            back = globex.delete(RULES)
            assert back.status_code == 200
            assert {name: back.get_json()[name] for name in DEFAULTS} == DEFAULTS
        assert globex.get(RULES).get_json() == back.get_json()

    def test_owners_are_shown_as_they_were_named(self, acme: Api, globex: Api) -> None:
        shown = put(globex, denied_owners=["@acme"], allowed_owners=["globex", "acme"])
        assert shown["denied_owners"] == ["@acme"]
        assert shown["allowed_owners"] == ["globex", "acme"]

    def test_a_repeated_put_replays(self, globex: Api) -> None:
        first = globex.put(RULES, {"most_live_offers": 5}, idempotency_key="once")
        put(globex, most_live_offers=6)
        again = globex.put(RULES, {"most_live_offers": 5}, idempotency_key="once")
        assert again.data == first.data
        assert again.headers["Idempotent-Replayed"] == "true"
        assert globex.get(RULES).get_json()["most_live_offers"] == 6

    def test_entity_tags(self, globex: Api) -> None:
        before = globex.get(RULES).headers["ETag"]
        assert globex.get(RULES, headers={"If-None-Match": before}).status_code == 304
        changed = globex.put(RULES, {"most_live_offers": 5}, headers={"If-Match": before})
        assert changed.status_code == 200
        after = changed.headers["ETag"]
        assert after == globex.get(RULES).headers["ETag"] != before
        for method in (globex.put, globex.delete):
            arguments = () if method == globex.delete else ({},)
            stale = method(RULES, *arguments, headers={"If-Match": before})
            assert problem(stale) == (412, "acceptance_rules_changed")
        assert globex.get(RULES).headers["ETag"] == after
        assert globex.delete(RULES, headers={"If-Match": after}).status_code == 200
        assert globex.get(RULES).headers["ETag"] == before
        assert globex.put(RULES, {}, headers={"If-Match": "*"}).status_code == 200

    @pytest.mark.parametrize(
        ("rules", "pointer"),
        [
            ({"denied_owners": ["acme", "nobody"]}, "/denied_owners/1"),
            ({"allowed_owners": ["@nobody"]}, "/allowed_owners/0"),
            ({"allowed_owners": ["acme", "acme"]}, "/allowed_owners/1"),
            ({"denied_owners": [""]}, "/denied_owners/0"),
            ({"denied_owners": ["a b"]}, "/denied_owners/0"),
            ({"denied_owners": ["\u202eacme"]}, "/denied_owners/0"),
            ({"denied_owners": ["acme\n"]}, "/denied_owners/0"),
            ({"denied_owners": [f"o{n}" for n in range(101)]}, "/denied_owners"),
            ({"denied_owners": None}, "/denied_owners"),
            ({"denied_owners": "acme"}, "/denied_owners"),
            ({"takes_inline": 1}, "/takes_inline"),
            ({"takes_inline": None}, "/takes_inline"),
            ({"smallest_estimate_usd": 0}, "/smallest_estimate_usd"),
            ({"smallest_estimate_usd": -1}, "/smallest_estimate_usd"),
            ({"smallest_estimate_usd": 0.0000001}, "/smallest_estimate_usd"),
            ({"smallest_estimate_usd": 1e308}, "/smallest_estimate_usd"),
            ({"smallest_estimate_usd": "5"}, "/smallest_estimate_usd"),
            ({"shortest_deadline_seconds": 0}, "/shortest_deadline_seconds"),
            ({"shortest_deadline_seconds": 90 * 86_400 + 1}, "/shortest_deadline_seconds"),
            ({"shortest_deadline_seconds": 1.5}, "/shortest_deadline_seconds"),
            ({"shortest_lease_seconds": 0}, "/shortest_lease_seconds"),
            ({"shortest_lease_seconds": 86_401}, "/shortest_lease_seconds"),
            ({"most_live_offers": -1}, "/most_live_offers"),
            ({"most_live_offers": 10_001}, "/most_live_offers"),
            ({"most_live_offers": True}, "/most_live_offers"),
            ({"most_live_offers": 2**63}, "/most_live_offers"),
            ({"unknown": 1}, "/unknown"),
        ],
    )
    def test_rules_that_are_none(self, globex: Api, rules: Any, pointer: str, acme: Api) -> None:
        before = globex.get(RULES).data
        response = globex.put(RULES, rules)
        assert response.status_code == 422
        assert response.get_json()["errors"][0]["pointer"] == pointer
        assert globex.get(RULES).data == before

    def test_two_who_set_them_at_once(self, app: Flask, contract: Contract, globex: Api) -> None:
        def send(number: int) -> int:
            one = Api(app.test_client(), contract, globex.key)
            return int(one.put(RULES, {"most_live_offers": number}).status_code)

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(send, range(6))) == {200}
        assert globex.get(RULES).get_json()["most_live_offers"] in range(6)
