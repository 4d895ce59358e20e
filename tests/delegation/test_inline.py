"""Inline delegations: work that is done, reported and settled in one call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import Api
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    balance,
    problem,
    request,
    top_up,
)

pytestmark = pytest.mark.usefixtures("agents")
STAGES = ["discovery", "negotiation", "execution", "delivery", "settlement", "feedback"]


def create(api: Api, **changes: Any) -> dict[str, Any]:
    response = api.post(DELEGATIONS, request(**changes))
    assert response.status_code == 200, response.get_json()
    document: dict[str, Any] = response.get_json()
    return document


class TestCompleting:
    def test_a_rehearsal_costs_92_percent_in_two_parts(self, acme: Api, globex: Api) -> None:
        document = create(acme)
        assert (document["status"], document["simulated"]) == ("completed", True)
        assert document["actual_cost_usd"] == document["charged_usd"] == 9.2
        assert document["refunded_usd"] == 0.8
        assert document["budget_controls"]["state"] == "soft_alert"
        assert document["budget_controls"]["ratio"] == 0.92
        assert [stage["stage"] for stage in document["lifecycle"]] == STAGES
        assert document["contract"]["version"] == "delegation-contract-v2"
        assert document["policy_decision"]["decision"] == "allow"
        assert (balance(acme, CLERK), balance(globex, READER)) == (90.8, 9.2)

    def test_the_reported_cost_is_charged(self, acme: Api, globex: Api) -> None:
        document = create(acme, simulated_actual_cost_usd=3.25)
        assert (document["charged_usd"], document["simulated"]) == (3.25, False)
        assert (balance(acme, CLERK), balance(globex, READER)) == (96.75, 3.25)

    def test_events_add_up(self, acme: Api) -> None:
        events = [{"cost_usd": 0.000001}, {"operation": "llm_call", "cost_usd": 2, "model": "x"}]
        document = create(acme, metering_events=events, simulated_actual_cost_usd=7)
        assert document["charged_usd"] == 2.000001

    def test_work_that_cost_nothing_is_settled(self, acme: Api, globex: Api) -> None:
        assert create(acme, metering_events=[])["charged_usd"] == 0
        assert (balance(acme, CLERK), balance(globex, READER)) == (100, 0)

    def test_the_delegate_is_pinned(self, acme: Api) -> None:
        document = create(acme)
        version = acme.get(f"/v1/agents/{READER}/versions/1.0.0").get_json()
        assert document["delegate_version"] == "1.0.0"
        assert document["delegate_digest"] == version["digest"]

    def test_both_owners_and_operators_see_it_and_nobody_else(
        self, acme: Api, globex: Api, operator: Api, caller: Any
    ) -> None:
        delegation_id = create(acme)["delegation_id"]
        for view in ("", "/status", "/events"):
            path = f"{DELEGATIONS}/{delegation_id}{view}"
            for api in (acme, globex, operator):
                assert api.get(path).status_code == 200
            assert problem(caller("initech").get(path)) == (403, "not_a_party")
            assert caller(None).get(path).status_code == 401
        missing = f"{DELEGATIONS}/01a20512-0000-7c3e-9d52-3f1f6f7f9a10"
        assert problem(acme.get(missing)) == (404, "delegation_not_found")

    def test_a_repeated_request_replays(self, acme: Api) -> None:
        first = acme.post(DELEGATIONS, request(), idempotency_key="once")
        again = acme.post(DELEGATIONS, request(execution="inline"), idempotency_key="once")
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.data == first.data
        other = acme.post(DELEGATIONS, request(task_spec="another"), idempotency_key="once")
        assert problem(other) == (409, "idempotency_key_reused")
        assert balance(acme, CLERK) == 90.8


class TestWhoSaysSo:
    """Inline work is the requester's word, and nothing in it is said in another owner's name."""

    @pytest.mark.parametrize(
        "changes",
        [{}, {"simulated_actual_cost_usd": 3}, {"metering_events": [{"cost_usd": 1}] * 2}],
    )
    def test_every_event_names_the_requester(self, acme: Api, globex: Api, changes: Any) -> None:
        path = f"{DELEGATIONS}/{create(acme, **changes)['delegation_id']}"
        for api in (acme, globex):
            events = api.get(f"{path}/events").get_json()["events"]
            said = {event["kind"]: event["actor"] for event in events}
            said.pop("threshold", None)
            assert said == dict.fromkeys(("created", "accepted", "delivered", "closed"), CLERK)
            status = api.get(f"{path}/status").get_json()
            trail = {entry["actor"] for entry in status["audit_trail"]}
            assert trail <= {CLERK, "system"}
            stages = {stage["stage"]: stage["details"] for stage in status["lifecycle"]}
            assert stages["execution"]["actor"] == stages["delivery"]["actor"] == CLERK

    def test_nothing_is_metered_in_the_delegates_name(self, acme: Api, globex: Api) -> None:
        before = globex.get("/v1/cost/metering").get_json()["data"]
        many = {"delegations": [request(simulated_actual_cost_usd=1) for _ in range(5)]}
        assert acme.post(f"{DELEGATIONS}/batch", many).status_code == 200
        create(acme, metering_events=[{"operation": "llm_call", "cost_usd": 2}])
        stopped = create(acme, simulated_actual_cost_usd=12)
        assert stopped["status"] == "failed_hard_stop"
        assert globex.get("/v1/cost/metering").get_json()["data"] == before
        own = acme.get("/v1/cost/metering").get_json()["data"]
        assert {row["actor"] for row in own if row["delegation_id"]} == {CLERK}
        assert sum(row["cost_usd"] for row in own) == 5 + 2 + 12

    def test_the_books_stay_right(self, acme: Api, operator: Api) -> None:
        create(acme)
        create(acme, simulated_actual_cost_usd=12)
        assert operator.get("/v1/ledger/reconciliation").get_json()["clean"] is True


class TestTheBreaker:
    def test_an_overrun_is_paid_up_to_the_maximum(self, acme: Api, globex: Api) -> None:
        document = create(acme, simulated_actual_cost_usd=11)
        assert (document["status"], document["charged_usd"]) == ("completed", 11)
        assert document["budget_controls"]["state"] == "reauthorization_required"
        capped = create(acme, simulated_actual_cost_usd=11, max_budget_usd=10.5)
        assert (capped["actual_cost_usd"], capped["charged_usd"]) == (11, 10.5)
        assert balance(globex, READER) == 21.5

    def test_without_leave_it_waits_for_the_requester(self, acme: Api, globex: Api) -> None:
        document = create(acme, simulated_actual_cost_usd=10, auto_reauthorize=False)
        assert document["status"] == "pending_reauthorization"
        assert document["allowed_commands"] == ["cancel", "reauthorize"]
        assert (balance(acme, CLERK), balance(globex, READER)) == (90, 0)
        path = f"{DELEGATIONS}/{document['delegation_id']}/reauthorize"
        settled = acme.post(path, {"new_estimate_usd": 12}).get_json()
        assert (settled["status"], settled["charged_usd"]) == ("completed", 10)
        assert (balance(acme, CLERK), balance(globex, READER)) == (90, 10)

    def test_a_hard_stop_charges_what_was_held(self, acme: Api, globex: Api) -> None:
        document = create(acme, simulated_actual_cost_usd=12)
        assert (document["status"], document["actual_cost_usd"]) == ("failed_hard_stop", 12)
        assert (document["charged_usd"], document["refunded_usd"]) == (10, 0)
        assert document["budget_controls"]["state"] == "hard_stop"
        assert (balance(acme, CLERK), balance(globex, READER)) == (90, 10)

    def test_what_was_used_after_the_stop_is_told(self, acme: Api) -> None:
        events = [{"cost_usd": cost} for cost in (9, 2, 2, 5)]
        document = create(acme, metering_events=events)
        assert (document["actual_cost_usd"], document["charged_usd"]) == (18, 11)


class TestRefusing:
    def test_an_estimate_above_the_budget(self, acme: Api) -> None:
        response = acme.post(DELEGATIONS, request(max_budget_usd=9.99))
        assert problem(response) == (400, "policy_denied")
        decision = response.get_json()["policy_decision"]
        assert decision["violated_constraints"] == ["budget.reauthorization_required_100"]
        assert balance(acme, CLERK) == 100

    @pytest.mark.parametrize(
        ("changes", "violated"),
        [
            ({"min_delegate_trust_score": 0.2}, "trust.delegate_score_missing"),
            ({"required_permissions": ["payments.write"]}, "permissions.missing_required"),
        ],
    )
    def test_trust_and_permissions(self, acme: Api, changes: Any, violated: str) -> None:
        response = acme.post(DELEGATIONS, request(**changes))
        assert problem(response) == (403, "policy_forbidden")
        assert response.get_json()["policy_decision"]["violated_constraints"] == [violated]

    def test_funds_that_do_not_suffice(self, acme: Api) -> None:
        response = acme.post(DELEGATIONS, request(estimated_cost_usd=101, max_budget_usd=200))
        assert problem(response) == (400, "insufficient_funds")
        assert (balance(acme, CLERK)) == 100

    def test_a_refusal_is_replayed_even_when_funds_came_since(
        self, acme: Api, operator: Api
    ) -> None:
        body = request(estimated_cost_usd=101, max_budget_usd=200)
        first = acme.post(DELEGATIONS, body, idempotency_key="poor")
        top_up(operator, CLERK, 100)
        again = acme.post(DELEGATIONS, body, idempotency_key="poor")
        assert again.data == first.data
        assert acme.post(DELEGATIONS, body).status_code == 200

    def test_an_agent_of_another_owner_cannot_be_made_to_pay(self, globex: Api) -> None:
        response = globex.post(DELEGATIONS, request())
        assert problem(response) == (403, "not_your_agent")

    @pytest.mark.parametrize("side", ["requester_agent_id", "delegate_agent_id"])
    @pytest.mark.parametrize("agent_id", ["@acme:nobody", "nonsense", "@acme:", "'; --"])
    def test_an_agent_that_does_not_exist(self, acme: Api, side: str, agent_id: str) -> None:
        response = acme.post(DELEGATIONS, request(**{side: agent_id}))
        assert problem(response) == (404, "agent_not_found")

    def test_a_deprecated_delegate(self, acme: Api, globex: Api) -> None:
        globex.delete(f"/v1/agents/{READER}")
        assert problem(acme.post(DELEGATIONS, request())) == (409, "delegate_inactive")

    def test_an_agent_does_not_delegate_to_itself(self, acme: Api) -> None:
        response = acme.post(DELEGATIONS, request(delegate_agent_id=CLERK))
        assert problem(response) == (422, "validation_failed")
        assert response.get_json()["errors"][0]["pointer"] == "/delegate_agent_id"

    def test_a_key_is_needed(self, acme: Api, anyone: Api, caller: Any) -> None:
        assert anyone.post(DELEGATIONS, request()).status_code == 401
        assert caller("acme", role="viewer").post(DELEGATIONS, request()).status_code == 403
        response = acme.post(DELEGATIONS, request(), headers={"Idempotency-Key": " "})
        assert problem(response) == (400, "idempotency_key_missing")


class TestCapabilities:
    def test_the_input_is_held_to_its_schema(self, acme: Api) -> None:
        named = {"capability_id": "summarize-invoice"}
        create(acme, **named, task_input={"invoice_text": "Total 5"})
        for task_input, pointer in (
            ({"invoice_text": 5}, "/task_input/invoice_text"),
            ({}, "/task_input/invoice_text"),
            (None, "/task_input"),
        ):
            response = acme.post(DELEGATIONS, request(**named, task_input=task_input))
            assert problem(response) == (422, "payload_invalid")
            assert response.get_json()["errors"][0]["pointer"] == pointer

    def test_an_unknown_capability(self, acme: Api) -> None:
        response = acme.post(DELEGATIONS, request(capability_id="nothing"))
        assert problem(response) == (409, "capability_unknown")
