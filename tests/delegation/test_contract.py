"""What the two sides may rely on: pins, questions, and work that costs exactly its budget."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import Api
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    Worker,
    accept,
    balance,
    offer,
    problem,
    request,
)
from tests.registry.manifests import build_manifest

pytestmark = pytest.mark.usefixtures("agents")


def command(api: Api, delegation: dict[str, Any], name: str, **body: Any) -> Any:
    return api.post(f"{DELEGATIONS}/{delegation['delegation_id']}/{name}", body)


class TestTheWholeBudget:
    @pytest.mark.parametrize("execution", ["inline", "remote"])
    def test_work_that_could_only_stop_at_its_end_is_refused(
        self, acme: Api, execution: str
    ) -> None:
        body = request(execution=execution, max_budget_usd=10, auto_reauthorize=False)
        response = acme.post(DELEGATIONS, body)
        assert problem(response) == (400, "policy_denied")
        (reason,) = response.get_json()["policy_decision"]["reasons"]
        assert reason["code"] == "budget.reauthorization_required_100"
        assert (reason["expected"], reason["observed"]) == ("less than 10, or auto_reauthorize", 10)
        assert balance(acme, CLERK) == 100
        assert acme.post(DELEGATIONS, body | {"auto_reauthorize": True}).status_code == 200

    def use_up(self, acme: Api, globex: Api, *costs: float) -> tuple[dict[str, Any], Worker]:
        """Let remote work use its whole budget of 11, which is authorized already."""
        delegation = offer(acme, max_budget_usd=11, auto_reauthorize=False)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(10)
        assert command(acme, delegation, "reauthorize", new_estimate_usd=11).status_code == 200
        worker.meter(*costs, prefix="more")
        return delegation, worker

    @pytest.mark.parametrize("costs", [(1,), (1, 0.5)])
    def test_remote_work_can_be_delivered(self, acme: Api, globex: Api, costs: Any) -> None:
        delegation, worker = self.use_up(acme, globex, *costs)
        shown = acme.get(worker.path).get_json()
        assert shown["status"] == "pending_reauthorization"
        assert shown["allowed_commands"] == ["cancel", "deliver", "fail", "heartbeat", "meter"]
        refused = command(acme, delegation, "reauthorize", new_estimate_usd=11)
        assert problem(refused) == (409, "command_not_allowed")
        assert refused.get_json()["allowed_commands"] == shown["allowed_commands"]
        assert worker.send("deliver", output=1).get_json()["status"] == "delivered"
        settled = command(acme, delegation, "accept-result").get_json()
        assert (settled["status"], settled["charged_usd"]) == ("completed", 11)
        assert (balance(acme, CLERK), balance(globex, READER)) == (89, 11)

    def test_the_requester_need_not_wait(self, acme: Api, globex: Api) -> None:
        delegation, _ = self.use_up(acme, globex, 1)
        assert command(acme, delegation, "cancel").get_json()["status"] == "cancelled"

    def test_work_below_its_budget_is_delivered_only_when_it_is_authorized(
        self, acme: Api, globex: Api
    ) -> None:
        delegation = offer(acme, max_budget_usd=10.000001, auto_reauthorize=False)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(10)
        shown = acme.get(worker.path).get_json()["allowed_commands"]
        assert shown == ["cancel", "fail", "heartbeat", "meter", "reauthorize"]
        assert problem(worker.send("deliver", output=1)) == (409, "command_not_allowed")
        more = command(acme, delegation, "reauthorize", new_estimate_usd=10.000001)
        assert more.get_json()["status"] == "in_progress"

    @pytest.mark.parametrize("cost", [11, 11.9])
    def test_inline_work_is_accepted_for_its_budget(
        self, acme: Api, globex: Api, cost: float
    ) -> None:
        body = request(max_budget_usd=11, auto_reauthorize=False, simulated_actual_cost_usd=cost)
        paused = acme.post(DELEGATIONS, body).get_json()
        assert paused["status"] == "pending_reauthorization"
        assert paused["allowed_commands"] == ["accept-result", "cancel"]
        done = command(acme, paused, "accept-result").get_json()
        assert (done["status"], done["charged_usd"], done["refunded_usd"]) == ("completed", 11, 0)
        assert (balance(acme, CLERK), balance(globex, READER)) == (89, 11)

    def test_accepting_needs_the_funds_and_cancelling_does_not(
        self, acme: Api, globex: Api
    ) -> None:
        body = request(
            estimated_cost_usd=100,
            max_budget_usd=110,
            auto_reauthorize=False,
            simulated_actual_cost_usd=110,
        )
        paused = acme.post(DELEGATIONS, body).get_json()
        refused = command(acme, paused, "accept-result")
        assert problem(refused) == (400, "insufficient_funds")
        assert command(acme, paused, "cancel").get_json()["status"] == "cancelled"


class TestReports:
    def test_an_inline_event_without_a_cost_counts_as_nothing(self, acme: Api) -> None:
        events = [{"operation": "cache_hit"}, {"operation": "llm_call", "cost_usd": 2}]
        document = acme.post(DELEGATIONS, request(metering_events=events)).get_json()
        assert (document["status"], document["charged_usd"]) == ("completed", 2)
        path = f"{DELEGATIONS}/{document['delegation_id']}/status"
        trail = acme.get(path).get_json()["audit_trail"]
        assert [entry["cost_usd"] for entry in trail if entry["type"] == "metering"] == [0, 2]


class TestPins:
    def digest(self, api: Api, version: str) -> str:
        found: str = api.get(f"/v1/agents/{READER}/versions/{version}").get_json()["digest"]
        return found

    def test_the_present_version_passes(self, acme: Api) -> None:
        digest = self.digest(acme, "1.0.0")
        for pins in ({"delegate_version": "1.0.0"}, {"delegate_digest": digest}):
            assert acme.post(DELEGATIONS, request(**pins)).status_code == 200
        both = request(delegate_version="1.0.0", delegate_digest=digest)
        assert acme.post(DELEGATIONS, both).status_code == 200

    def test_another_is_refused_and_the_answer_names_the_present_one(
        self, acme: Api, globex: Api
    ) -> None:
        old = self.digest(acme, "1.0.0")
        newer = build_manifest(slug="reader", version="2.0.0")
        assert globex.put(f"/v1/agents/{READER}", {"manifest": newer}).status_code == 200
        for pins in (
            {"delegate_version": "1.0.0"},
            {"delegate_version": "9.0.0"},
            {"delegate_digest": old},
            {"delegate_version": "2.0.0", "delegate_digest": old},
        ):
            response = acme.post(DELEGATIONS, request(**pins), idempotency_key=str(pins))
            assert problem(response) == (409, "delegate_version_mismatch")
            assert response.get_json()["delegate_version"] == "2.0.0"
            assert response.get_json()["delegate_digest"] == self.digest(acme, "2.0.0")
            again = acme.post(DELEGATIONS, request(**pins), idempotency_key=str(pins))
            assert again.headers["Idempotent-Replayed"] == "true"
        batch = {"delegations": [request(delegate_version="1.0.0"), request()]}
        results = acme.post(f"{DELEGATIONS}/batch", batch).get_json()["results"]
        assert results[0]["problem"]["code"] == "delegate_version_mismatch"
        assert results[0]["problem"]["delegate_version"] == "2.0.0"
        assert results[1]["succeeded"] is True

    def test_a_retired_agent_is_refused(self, acme: Api, globex: Api) -> None:
        assert globex.delete(f"/v1/agents/{READER}").status_code == 200
        response = acme.post(DELEGATIONS, request(delegate_version="1.0.0"))
        assert problem(response) == (409, "delegate_inactive")

    @pytest.mark.parametrize(
        "pins",
        [
            {"delegate_version": ""},
            {"delegate_version": None},
            {"delegate_digest": "0f" * 32},
            {"delegate_digest": "sha256:" + "0F" * 32},
        ],
    )
    def test_what_no_version_can_be(self, acme: Api, pins: dict[str, Any]) -> None:
        response = acme.post(DELEGATIONS, request(**pins))
        assert problem(response) == (422, "validation_failed")
        assert response.get_json()["errors"][0]["pointer"] == f"/{next(iter(pins))}"


class TestQuestions:
    def test_a_delegation_shows_the_last_question_and_its_answer(
        self, acme: Api, globex: Api
    ) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])

        def shown(document: dict[str, Any]) -> tuple[Any, Any]:
            for view in ("", "/status"):
                read = acme.get(worker.path + view).get_json()
                assert (read["question"], read["answer"]) == (
                    document["question"],
                    document["answer"],
                )
            return document["question"], document["answer"]

        assert shown(delegation) == (None, None)
        assert shown(worker.send("ask", question="Which?").get_json()) == ("Which?", None)
        answered = command(acme, delegation, "answer", answer="This").get_json()
        assert shown(answered) == ("Which?", "This")
        assert shown(worker.send("ask", question="And now?").get_json()) == ("And now?", None)
        assert "question" not in acme.get(DELEGATIONS).get_json()["data"][0]
