"""Remote delegations: the protocol between two owners, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Api
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
)

pytestmark = pytest.mark.usefixtures("agents")


def path(delegation: dict[str, Any], command: str = "") -> str:
    return f"{DELEGATIONS}/{delegation['delegation_id']}" + (f"/{command}" if command else "")


def status(api: Api, delegation: dict[str, Any]) -> str:
    found: str = api.get(path(delegation)).get_json()["status"]
    return found


class TestTheWholeWay:
    def test_from_offer_to_settlement(self, acme: Api, globex: Api, time: Clock) -> None:
        offered = offer(acme)
        assert (offered["status"], offered["a2a_state"]) == ("offered", "submitted")
        assert (offered["held_usd"], balance(acme, CLERK)) == (10, 90)
        assert [stage["stage"] for stage in offered["lifecycle"]] == ["discovery", "negotiation"]
        worker = accept(globex, offered["delegation_id"])
        time.advance(seconds=20)
        beat = worker.send("heartbeat").get_json()
        assert (beat["status"], beat["remaining_usd"]) == ("in_progress", 10)
        assert beat["lease_expires_at"] == "2026-11-20T09:31:20.000000Z"
        metered = worker.meter(2.5, 1.5).get_json()
        assert (metered["actual_cost_usd"], metered["remaining_usd"]) == (4, 6)
        assert [event["result"] for event in metered["events"]] == ["accepted", "accepted"]
        delivered = worker.send("deliver", output={"summary": "paid"}).get_json()
        assert (delivered["status"], delivered["a2a_state"]) == ("delivered", "completed")
        assert delivered["deliverable"] == {"output": {"summary": "paid"}}
        settled = acme.post(path(offered, "accept-result"), {}).get_json()
        assert (settled["status"], settled["charged_usd"]) == ("completed", 4)
        assert settled["refunded_usd"] == 6
        assert (balance(acme, CLERK), balance(globex, READER)) == (96, 4)
        trail = acme.get(path(offered, "status")).get_json()["audit_trail"]
        assert [(entry["event"], entry["actor"]) for entry in trail if "status" in entry] == [
            ("created", CLERK),
            ("accepted", READER),
            ("delivered", READER),
            ("closed", CLERK),
        ]
        assert [entry["cost_usd"] for entry in trail if entry["type"] == "metering"] == [2.5, 1.5]
        stages = [stage["stage"] for stage in settled["lifecycle"]]
        assert stages == [
            "discovery",
            "negotiation",
            "execution",
            "delivery",
            "settlement",
            "feedback",
        ]

    def test_a_review_period_of_zero_pays_at_delivery(self, acme: Api, globex: Api) -> None:
        worker = accept(globex, offer(acme, review_within_seconds=0)["delegation_id"])
        worker.meter(3)
        done = worker.send("deliver", output=None).get_json()
        assert (done["status"], done["charged_usd"]) == ("completed", 3)
        assert balance(globex, READER) == 3

    def test_a_result_may_lie_elsewhere(self, acme: Api, globex: Api) -> None:
        worker = accept(globex, offer(acme)["delegation_id"])
        where = {"output_uri": "https://globex.example/out.json", "output_sha256": "0a" * 32}
        assert worker.send("deliver", **where).get_json()["deliverable"] == where

    @pytest.mark.parametrize(
        "members",
        [
            {},
            {"output": 1, "output_uri": "https://a.example/x", "output_sha256": "0a" * 32},
            {"output_uri": "https://a.example/x"},
            {"output_uri": "file:///etc/passwd", "output_sha256": "0a" * 32},
            {"output_uri": "https://a.example/x", "output_sha256": "0A" * 32},
        ],
    )
    def test_a_result_is_given_in_one_way(self, acme: Api, globex: Api, members: Any) -> None:
        worker = accept(globex, offer(acme)["delegation_id"])
        assert problem(worker.send("deliver", **members)) == (422, "validation_failed")

    def test_output_is_held_to_the_schema(self, acme: Api, globex: Api) -> None:
        named = offer(
            acme, capability_id="summarize-invoice", task_input={"invoice_text": "Total 5"}
        )
        worker = accept(globex, named["delegation_id"])
        refused = worker.send("deliver", output={"summary": "x", "total": "5"})
        assert problem(refused) == (422, "payload_invalid")
        assert refused.get_json()["errors"][0]["pointer"] == "/output/total"
        assert worker.send("deliver", output={"summary": "x", "total": 5}).status_code == 200

    def test_the_pinned_version_counts_not_the_latest(self, acme: Api, globex: Api) -> None:
        from tests.registry.manifests import build_capability, build_manifest

        named = offer(
            acme, capability_id="summarize-invoice", task_input={"invoice_text": "Total 5"}
        )
        changed = build_capability(output_schema={"type": "string"})
        newer = build_manifest(slug="reader", version="2.0.0", capabilities=[changed])
        assert globex.put(f"/v1/agents/{READER}", {"manifest": newer}).status_code == 200
        worker = accept(globex, named["delegation_id"])
        assert problem(worker.send("deliver", output="x")) == (422, "payload_invalid")


class TestWhoMayDoWhat:
    def test_each_command_is_for_one_side(self, acme: Api, globex: Api, caller: Any) -> None:
        delegation = offer(acme)
        assert problem(acme.post(path(delegation, "accept"), {})) == (403, "not_a_party")
        assert problem(globex.post(path(delegation, "cancel"), {})) == (403, "not_a_party")
        assert problem(globex.post(path(delegation, "resolve"), {})) == (403, "role_required")
        stranger = caller("initech")
        assert problem(stranger.post(path(delegation, "accept"), {})) == (403, "not_a_party")
        worker = accept(globex, delegation["delegation_id"])
        worker.api = acme
        assert problem(worker.meter(1)) == (403, "not_a_party")

    def test_an_operator_acts_for_nobody_but_cancels_what_a_requester_cannot(
        self, acme: Api, globex: Api, operator: Api
    ) -> None:
        delegation = offer(acme)
        for command, body in (
            ("accept", {}),
            ("accept-result", {}),
            ("reauthorize", {"new_estimate_usd": 12}),
            ("cancel", {"lease_token": accept(globex, delegation["delegation_id"]).token}),
        ):
            refused = operator.post(path(delegation, command), body)
            assert problem(refused) == (403, "not_a_party"), command
        asked = operator.post(path(delegation, "cancel"), {"reason": "gone"})
        assert asked.get_json()["cancel_requested"] is True
        events = acme.get(path(delegation, "events")).get_json()["events"]
        assert (events[-1]["kind"], events[-1]["actor"]) == ("cancel_requested", "operator")

    def test_a_state_allows_what_it_allows(self, acme: Api, globex: Api) -> None:
        delegation = offer(acme)
        response = acme.post(path(delegation, "accept-result"), {})
        assert problem(response) == (409, "command_not_allowed")
        document = response.get_json()
        assert document["delegation_status"] == "offered"
        assert document["allowed_commands"] == ["accept", "cancel", "decline"]

    def test_nothing_moves_what_is_closed(self, acme: Api, globex: Api) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.send("fail", reason="broken")
        for response in (
            worker.meter(1),
            worker.send("heartbeat"),
            worker.send("deliver", output=1),
            acme.post(path(delegation, "cancel"), {}),
            acme.post(path(delegation, "reauthorize"), {"new_estimate_usd": 12}),
        ):
            assert problem(response) == (409, "command_not_allowed")
        assert (balance(acme, CLERK), balance(globex, READER)) == (100, 0)


class TestEndingEarly:
    def test_declined(self, acme: Api, globex: Api) -> None:
        delegation = offer(acme)
        declined = globex.post(path(delegation, "decline"), {"reason": "no capacity"}).get_json()
        assert (declined["status"], declined["a2a_state"]) == ("declined", "rejected")
        assert balance(acme, CLERK) == 100

    def test_an_offer_is_cancelled_at_once(self, acme: Api) -> None:
        cancelled = acme.post(path(offer(acme), "cancel"), {}).get_json()
        assert (cancelled["status"], cancelled["charged_usd"]) == ("cancelled", 0)
        assert balance(acme, CLERK) == 100

    def test_a_worker_is_asked_to_stop_and_paid_for_what_it_did_after_a_review(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(3)
        unasked = worker.send("cancel")
        assert problem(unasked) == (409, "command_not_allowed")
        asked = acme.post(path(delegation, "cancel"), {"reason": "too slow"}).get_json()
        assert (asked["status"], asked["cancel_requested"]) == ("in_progress", True)
        assert worker.send("heartbeat").get_json()["cancel_requested"] is True
        worker.meter(1, prefix="last")
        confirmed = worker.send("cancel").get_json()
        assert (confirmed["status"], confirmed["in_review_usd"]) == ("cancelled", 4)
        assert (balance(acme, CLERK), balance(globex, READER)) == (96, 0)
        time.advance(hours=24)
        settled = acme.get(path(delegation)).get_json()
        assert (settled["status"], settled["charged_usd"]) == ("cancelled", 4)

    def test_a_silent_worker_is_cancelled_after_the_grace(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(3)
        acme.post(path(delegation, "cancel"), {})
        time.advance(seconds=29)
        assert status(acme, delegation) == "in_progress"
        time.advance(seconds=1)
        assert status(acme, delegation) == "cancelled"
        late = worker.send("deliver", output=1)
        assert problem(late) == (409, "delegation_overdue")
        assert late.get_json()["delegation_status"] == "cancelled"
        assert acme.get(path(delegation)).get_json()["in_review_usd"] == 3
        assert balance(globex, READER) == 0

    def test_delivered_in_the_grace_is_delivered(self, acme: Api, globex: Api) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        acme.post(path(delegation, "cancel"), {})
        delivered = worker.send("deliver", output=1).get_json()
        assert (delivered["status"], delivered["cancel_requested"]) == ("delivered", False)


class TestLeases:
    def test_a_second_worker_waits_for_the_first_ones_lease(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        first = accept(globex, delegation["delegation_id"])
        taken = globex.post(path(delegation, "accept"), {})
        assert problem(taken) == (409, "command_not_allowed")
        time.advance(seconds=60)
        second = accept(globex, delegation["delegation_id"])
        for response in (first.send("heartbeat"), first.meter(5), first.send("deliver", output=1)):
            assert problem(response) == (409, "lease_lost")
        assert second.send("heartbeat").status_code == 200
        assert acme.get(path(delegation)).get_json()["actual_cost_usd"] == 0

    def test_a_forged_token(self, acme: Api, globex: Api) -> None:
        worker = accept(globex, offer(acme)["delegation_id"])
        for token in ("", "x", "ü", worker.token + "x", worker.token[:-1]):
            worker.token = token
            assert worker.send("heartbeat").status_code in (409, 422)

    def test_a_worker_without_a_sign_of_life_loses_the_task(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(3)
        time.advance(seconds=179)
        assert status(acme, delegation) == "in_progress"
        time.advance(seconds=1)
        assert status(acme, delegation) == "failed"
        assert problem(worker.send("heartbeat")) == (409, "delegation_overdue")
        assert (balance(acme, CLERK), balance(globex, READER)) == (97, 0)

    def test_the_deadline_holds_though_the_worker_lives(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme, deadline_seconds=100)
        worker = accept(globex, delegation["delegation_id"])
        time.advance(seconds=50)
        assert worker.send("heartbeat").status_code == 200
        time.advance(seconds=50)
        assert status(acme, delegation) == "failed"

    def test_a_late_command_settles_what_was_due_and_replays_its_refusal(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        time.advance(minutes=15)
        late = globex.post(path(delegation, "accept"), {}, idempotency_key="late")
        assert problem(late) == (409, "delegation_overdue")
        events = acme.get(path(delegation, "events")).get_json()["events"]
        assert [(event["kind"], event["actor"]) for event in events] == [
            ("created", CLERK),
            ("closed", "system"),
        ]
        assert balance(acme, CLERK) == 100
        again = globex.post(path(delegation, "accept"), {}, idempotency_key="late")
        assert again.data == late.data


class TestClaiming:
    def test_the_oldest_offer_first_and_each_once(self, acme: Api, globex: Api) -> None:
        offers = [offer(acme)["delegation_id"] for _ in range(3)]
        claimed = [
            globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}).get_json()["delegation_id"]
            for _ in range(3)
        ]
        assert claimed == offers
        empty = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}, idempotency_key="poll")
        assert problem(empty) == (404, "no_task_offered")
        offer(acme)
        filled = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}, idempotency_key="poll")
        assert filled.status_code == 200

    def test_a_task_whose_worker_is_gone(self, acme: Api, globex: Api, time: Clock) -> None:
        delegation = offer(acme)
        accept(globex, delegation["delegation_id"])
        time.advance(seconds=60)
        again = globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER}).get_json()
        assert again["delegation_id"] == delegation["delegation_id"]
        assert again["lease_token"].startswith("2.")

    def claim(self, globex: Api) -> Any:
        return globex.post(f"{DELEGATIONS}/claim", {"agent_id": READER})

    def test_what_nobody_finishes_is_not_handed_out_for_ever(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme, lease_seconds=1, deadline_seconds=600)
        counts = []
        while (claimed := self.claim(globex)).status_code == 200:
            counts.append(claimed.get_json()["silent_takeovers"])
            assert len(counts) < 10
            time.advance(seconds=1.2)
        assert counts == [0, 1, 2, 3]
        assert problem(claimed) == (404, "no_task_offered")
        failed = acme.get(path(delegation)).get_json()
        assert (failed["status"], failed["silent_takeovers"]) == ("failed", 3)
        late = globex.post(path(delegation, "accept"), {})
        assert problem(late) == (409, "delegation_overdue")
        events = acme.get(path(delegation, "events")).get_json()["events"]
        assert [event["kind"] for event in events] == [
            "created",
            "accepted",
            *["taken_over"] * 3,
            "closed",
        ]
        assert [event["details"].get("silent_takeovers") for event in events[2:5]] == [1, 2, 3]
        assert "none gave a sign of life" in events[5]["details"]["reason"]
        assert (balance(acme, CLERK), balance(globex, READER)) == (100, 0)

    @pytest.mark.parametrize(
        ("command", "members"),
        [("heartbeat", {}), ("meter", {"events": [{"event_id": "one", "cost_usd": 0}]})],
    )
    def test_a_sign_of_life_lets_it_be_taken_over_three_times_more(
        self, acme: Api, globex: Api, time: Clock, command: str, members: dict[str, Any]
    ) -> None:
        delegation = offer(acme, lease_seconds=1, deadline_seconds=600)
        token = self.claim(globex).get_json()["lease_token"]
        for _ in range(3):
            time.advance(seconds=1)
            token = self.claim(globex).get_json()["lease_token"]
        body = {"lease_token": token, **members}
        assert globex.post(path(delegation, command), body).status_code == 200
        assert acme.get(path(delegation)).get_json()["silent_takeovers"] == 0
        time.advance(seconds=1)
        assert self.claim(globex).get_json()["silent_takeovers"] == 1

    def test_only_for_an_agent_of_yours(self, acme: Api, globex: Api) -> None:
        offer(acme)
        stolen = acme.post(f"{DELEGATIONS}/claim", {"agent_id": READER})
        assert problem(stolen) == (403, "not_your_agent")
        nobody = globex.post(f"{DELEGATIONS}/claim", {"agent_id": "@globex:nobody"})
        assert problem(nobody) == (404, "agent_not_found")


class TestQuestions:
    def test_the_lease_rests_until_the_answer(self, acme: Api, globex: Api, time: Clock) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        asked = worker.send("ask", question="Which currency?").get_json()
        assert (asked["status"], asked["a2a_state"]) == ("input_required", "input-required")
        time.advance(minutes=30)
        answered = acme.post(path(delegation, "answer"), {"answer": "Euros"}).get_json()
        assert answered["status"] == "in_progress"
        assert worker.send("heartbeat").status_code == 200
        events = globex.get(path(delegation, "events")).get_json()["events"]
        assert events[2]["details"] == {"question": "Which currency?"}
        assert events[3]["details"] == {"answer": "Euros"}

    def test_a_silent_requester_may_still_contest_what_was_done(
        self, acme: Api, globex: Api, time: Clock
    ) -> None:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(3)
        worker.send("ask", question="Which currency?")
        time.advance(hours=1)
        assert status(globex, delegation) == "expired"
        late = acme.post(path(delegation, "answer"), {"answer": "Euros"})
        assert problem(late) == (409, "delegation_overdue")
        assert acme.get(path(delegation)).get_json()["settlement"] == "in_review"
        assert balance(globex, READER) == 0


class TestReview:
    def deliver(self, acme: Api, globex: Api, cost: float = 4) -> dict[str, Any]:
        delegation = offer(acme)
        worker = accept(globex, delegation["delegation_id"])
        worker.meter(cost)
        assert worker.send("deliver", output=1).status_code == 200
        return delegation

    def test_silence_is_consent(self, acme: Api, globex: Api, time: Clock) -> None:
        delegation = self.deliver(acme, globex)
        time.advance(hours=24)
        assert status(globex, delegation) == "completed"
        late = acme.post(path(delegation, "dispute"), {"reason": "too late"})
        assert problem(late) == (409, "delegation_overdue")
        assert balance(globex, READER) == 4

    def test_an_operator_decides_a_dispute(self, acme: Api, globex: Api, operator: Api) -> None:
        delegation = self.deliver(acme, globex)
        disputed = acme.post(path(delegation, "dispute"), {"reason": "wrong"}).get_json()
        assert (disputed["status"], disputed["a2a_state"]) == ("disputed", "completed")
        too_much = operator.post(path(delegation, "resolve"), {"charge_usd": 4.01, "reason": "x"})
        assert problem(too_much) == (400, "charge_refused")
        assert too_much.get_json()["max_charge_usd"] == 4
        resolved = operator.post(
            path(delegation, "resolve"), {"charge_usd": 1.5, "reason": "half usable"}
        ).get_json()
        assert (resolved["status"], resolved["charged_usd"]) == ("completed", 1.5)
        assert (balance(acme, CLERK), balance(globex, READER)) == (98.5, 1.5)

    def test_an_unresolved_dispute_pays_nobody(
        self, acme: Api, globex: Api, operator: Api, time: Clock
    ) -> None:
        delegation = self.deliver(acme, globex)
        acme.post(path(delegation, "dispute"), {"reason": "wrong"})
        time.advance(days=8)
        shown = acme.get(path(delegation)).get_json()
        assert (shown["status"], shown["settlement"]) == ("disputed", "disputed")
        assert balance(globex, READER) == 0
        body = {"charge_usd": 1, "reason": "a quarter was usable"}
        assert operator.post(path(delegation, "resolve"), body).status_code == 200
        assert (balance(acme, CLERK), balance(globex, READER)) == (99, 1)


class TestListing:
    def test_filters_and_pages(self, acme: Api, globex: Api, time: Clock) -> None:
        made = []
        for number in range(5):
            made.append(offer(acme, task_spec=f"Task {number}")["delegation_id"])
            time.advance(seconds=1)
        accept(globex, made[0])
        seen: list[str] = []
        url = f"{DELEGATIONS}?limit=2"
        while url:
            page = acme.get(url).get_json()
            seen += [entry["delegation_id"] for entry in page["data"]]
            following = page["pagination"]["next_cursor"]
            url = f"{DELEGATIONS}?limit=2&cursor={following}" if following else ""
        assert seen == made[::-1]

        def ids(api: Api, query: str) -> list[str]:
            data = api.get(f"{DELEGATIONS}?{query}").get_json()["data"]
            return [entry["delegation_id"] for entry in data]

        assert ids(globex, "role=delegate&status=offered") == made[:0:-1]
        assert ids(globex, "role=requester") == []
        assert ids(acme, f"agent_id={READER}&role=delegate&limit=1") == [made[4]]
        assert ids(acme, f"agent_id={READER}&role=requester") == []
        assert ids(acme, "status=in_progress") == [made[0]]
        assert ids(acme, "created_from=2026-11-20T09:30:03Z") == made[:2:-1]
        assert ids(acme, "created_before=2026-11-20T09:30:01Z") == [made[0]]

    def test_each_sees_its_own(
        self, acme: Api, operator: Api, caller: Callable[..., Api], anyone: Api
    ) -> None:
        delegation_id = offer(acme)["delegation_id"]
        assert caller("initech").get(DELEGATIONS).get_json()["data"] == []
        assert caller("initech").get(f"{DELEGATIONS}?agent_id={CLERK}").get_json()["data"] == []
        listed = operator.get(DELEGATIONS).get_json()["data"]
        assert [entry["delegation_id"] for entry in listed] == [delegation_id]
        assert anyone.get(DELEGATIONS).status_code == 401

    @pytest.mark.parametrize(
        "query",
        [
            "status=unknown",
            "role=admin",
            "limit=0",
            "limit=101",
            "cursor=x",
            "created_from=yesterday",
            "created_from=0001-01-01T00:00:00%2B14:00",
            "created_from=2026-11-20T09:30:00",
            "agent_id=",
            "more=1",
        ],
    )
    def test_bad_queries(self, acme: Api, query: str) -> None:
        response = acme.get(f"{DELEGATIONS}?{query}")
        assert problem(response) == (422, "validation_failed")


def test_the_contract_is_served_with_its_schema(acme: Api, anyone: Api) -> None:
    import jsonschema_rs

    contract = acme.get(f"{DELEGATIONS}/contract").get_json()
    assert contract["version"] == "delegation-contract-v2"
    schema = anyone.get(f"{DELEGATIONS}/contract/schema").get_json()
    jsonschema_rs.Draft202012Validator(schema).validate(contract)
    assert anyone.get(f"{DELEGATIONS}/contract").status_code == 401
    assert acme.post(DELEGATIONS, request()).get_json()["contract"] == contract


def test_half_a_micro_usd_is_rounded_up(acme: Api, globex: Api) -> None:
    """Rounding half to even would make 2 of the 2.5 micro-USD."""
    worker = accept(globex, offer(acme)["delegation_id"])
    event = {"event_id": "tokens", "quantity": 5, "unit_price_usd": 0.0000005}
    assert worker.send("meter", events=[event]).status_code == 200
    assert globex.get(worker.path).get_json()["actual_cost_usd"] == 0.000003


def test_what_a_delegation_moved_cannot_be_reversed(acme: Api, operator: Api) -> None:
    delegation = offer(acme)
    listed = f"/v1/ledger/transactions?delegation_id={delegation['delegation_id']}"
    (hold,) = operator.get(listed).get_json()["transactions"]
    refused = operator.post(
        f"/v1/ledger/transactions/{hold['id']}/reversal", {"reason": "a mistake"}
    )
    assert problem(refused) == (409, "ledger_not_reversible")
    assert balance(acme, CLERK) == 90
    assert status(acme, delegation) == "offered"


class TestSeveralStates:
    """Lists take several values of ``status``."""

    @pytest.fixture
    def states(self, agents: None, acme: Api, globex: Api) -> None:
        """Two offers, one accepted and one declined task."""
        for _ in range(2):
            offer(acme)
        accept(globex, offer(acme)["delegation_id"])
        declined = path(offer(acme), "decline")
        assert globex.post(declined, {"reason": "no time"}).status_code == 200

    @pytest.mark.usefixtures("states")
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("status=offered", ["offered", "offered"]),
            ("status=offered&status=declined", ["declined", "offered", "offered"]),
            ("status=declined,offered", ["declined", "offered", "offered"]),
            ("status=declined,declined", ["declined"]),
            ("status=in_progress,declined", ["declined", "in_progress"]),
            ("status=completed", []),
        ],
    )
    def test_one_of_them_is_enough(self, acme: Api, query: str, found: list[str]) -> None:
        listed = acme.get(f"{DELEGATIONS}?{query}").get_json()["data"]
        assert [one["status"] for one in listed] == found

    @pytest.mark.usefixtures("states")
    def test_pages_keep_all_of_them(self, acme: Api) -> None:
        query = "status=offered&status=declined"
        first = acme.get(f"{DELEGATIONS}?{query}&limit=1")
        cursor = first.get_json()["pagination"]["next_cursor"]
        link = first.headers["Link"].partition(">")[0].removeprefix("<")
        for following in (f"{DELEGATIONS}?status=declined,offered&limit=1&cursor={cursor}", link):
            (second,) = acme.get(following).get_json()["data"]
            assert second["status"] == "offered"
        other = acme.get(f"{DELEGATIONS}?status=offered&cursor={cursor}")
        assert problem(other) == (422, "validation_failed")

    @pytest.mark.parametrize("value", ["", "done", "offered,", "offered,done", "offered, declined"])
    def test_an_unknown_one_is_refused(self, acme: Api, value: str) -> None:
        refused = acme.get(f"{DELEGATIONS}?status={value}")
        (error,) = refused.get_json()["errors"]
        assert (refused.status_code, error["parameter"]) == (422, "status")
        assert error["detail"].startswith("expected one or several of: offered, ")
