"""Work that ends without an accepted delivery: it is paid after a review, and never unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.delegation import track_record
from app.http.context import Services
from app.ops.maintenance import sweep
from tests.client import Api
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    Clock,
    Worker,
    accept,
    balance,
    offer,
    problem,
    request,
)

pytestmark = pytest.mark.usefixtures("agents", "time")

Ending = Callable[[Api, Api, Clock], str]


def show(api: Api, delegation_id: str) -> dict[str, Any]:
    """Return a delegation with its audit trail."""
    found: dict[str, Any] = api.get(f"{DELEGATIONS}/{delegation_id}/status").get_json()
    return found


def command(api: Api, delegation_id: str, name: str, **body: Any) -> Any:
    """Give a command and return the response."""
    return api.post(f"{DELEGATIONS}/{delegation_id}/{name}", body)


def begin(acme: Api, globex: Api, *costs: float, **terms: Any) -> Worker:
    """Have a task taken on, and these costs reported."""
    worker = accept(globex, offer(acme, **terms)["delegation_id"])
    assert worker.meter(*costs).status_code == 200
    return worker


def identity(worker: Worker) -> str:
    return worker.path.rpartition("/")[2]


def hard_stop(acme: Api, globex: Api, time: Clock) -> str:
    return identity(begin(acme, globex, 3, 9, auto_reauthorize=False))


def cancelled(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3)
    command(acme, identity(worker), "cancel")
    assert worker.send("cancel").status_code == 200
    return identity(worker)


def cancelled_by_the_clock(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3)
    command(acme, identity(worker), "cancel")
    time.advance(seconds=30)
    return identity(worker)


def expired(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3)
    worker.send("ask", question="Which currency?")
    time.advance(hours=1)
    return identity(worker)


def given_up(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3)
    assert worker.send("fail", reason="broken").status_code == 200
    return identity(worker)


def lost(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3)
    time.advance(seconds=180)
    return identity(worker)


def past_the_deadline(acme: Api, globex: Api, time: Clock) -> str:
    worker = begin(acme, globex, 3, deadline_seconds=100)
    time.advance(seconds=100)
    return identity(worker)


# Each ending without an accepted delivery, the status it leads to, and the claim; 10 are held.
ENDINGS = [
    (hard_stop, "failed_hard_stop", 10),
    (cancelled, "cancelled", 3),
    (cancelled_by_the_clock, "cancelled", 3),
    (expired, "expired", 3),
    (given_up, "failed", 3),
    (lost, "failed", 3),
    (past_the_deadline, "failed", 3),
]
each_ending = pytest.mark.parametrize(("ending", "status", "claim"), ENDINGS)


@each_ending
def test_the_claim_stays_in_escrow_and_the_rest_goes_back(
    ending: Ending,
    status: str,
    claim: float,
    acme: Api,
    globex: Api,
    services: Services,
    time: Clock,
) -> None:
    one = ending(acme, globex, time)
    assert show(acme, one)["settlement"] == "in_review"  # whether it was written yet or not
    sweep(services.database)
    shown = show(acme, one)
    assert shown["status"] == status
    money = ("settlement", "in_review_usd", "held_usd", "charged_usd", "refunded_usd", "settled_by")
    assert [shown[name] for name in money] == [
        "in_review", claim, claim, None, 10 - claim, None,
    ]  # fmt: skip
    assert shown["due_outcome"] == {
        "status": status,
        "settlement": "settled",
        "reason": "the review period ended",
    }
    assert shown["allowed_commands"] == ["accept-result", "dispute"]
    assert "settlement" not in [stage["stage"] for stage in shown["lifecycle"]]
    assert (balance(acme, CLERK), balance(globex, READER)) == (100 - claim, 0)
    (details,) = [one["details"] for one in shown["audit_trail"] if one["event"] == "closed"]
    assert details["charged_usd"] is None
    assert (details["in_review_usd"], details["refunded_usd"]) == (claim, 10 - claim)
    assert details["settles_at"] == shown["due_at"]


@each_ending
def test_what_nobody_contests_is_paid_when_the_review_ends(
    ending: Ending,
    status: str,
    claim: float,
    acme: Api,
    globex: Api,
    services: Services,
    time: Clock,
) -> None:
    one = ending(acme, globex, time)
    sweep(services.database)
    ended_at = show(acme, one)["closed_at"]
    time.advance(hours=24, microseconds=-1)
    assert sweep(services.database) == []
    time.advance(microseconds=1)
    # A read shows what is true by now, and the sweeper writes it down.
    assert show(acme, one)["settlement"] == "settled"
    late = command(acme, one, "dispute", reason="too late")
    assert problem(late) == (409, "delegation_overdue")
    assert late.get_json()["settlement"] == "settled"
    assert sweep(services.database) == []
    shown = show(acme, one)
    assert (shown["status"], shown["settlement"]) == (status, "settled")
    assert (shown["charged_usd"], shown["refunded_usd"]) == (claim, 10 - claim)
    assert (shown["settled_by"], shown["held_usd"]) == ("reviewed", 0)
    assert (shown["closed_at"], shown["due_at"], shown["allowed_commands"]) == (ended_at, None, [])
    last = shown["audit_trail"][-1]
    assert (last["event"], last["status"], last["actor"]) == ("settled", status, "system")
    assert [stage["stage"] for stage in shown["lifecycle"]][-2:] == ["settlement", "feedback"]
    assert (balance(acme, CLERK), balance(globex, READER)) == (100 - claim, claim)


@each_ending
def test_what_is_contested_is_paid_as_an_operator_decides_and_not_before(
    ending: Ending,
    status: str,
    claim: float,
    acme: Api,
    globex: Api,
    operator: Api,
    services: Services,
    time: Clock,
) -> None:
    one = ending(acme, globex, time)
    sweep(services.database)
    time.advance(hours=23)
    disputed = command(acme, one, "dispute", reason="nothing was delivered").get_json()
    assert (disputed["status"], disputed["settlement"]) == (status, "disputed")
    assert disputed["allowed_commands"] == ["resolve"]
    assert problem(command(acme, one, "accept-result")) == (409, "command_not_allowed")
    for _ in range(3):
        time.advance(days=7)
        assert sweep(services.database) == [one]
        assert sweep(services.database) == []
    assert balance(globex, READER) == 0
    shown = show(operator, one)
    assert [entry["event"] for entry in shown["audit_trail"]][-3:] == ["dispute_overdue"] * 3
    assert shown["due_outcome"]["settlement"] == "disputed"
    more = command(operator, one, "resolve", charge_usd=claim + 0.01, reason="too much")
    assert problem(more) == (400, "charge_refused")
    for api in (acme, globex):
        refused = command(api, one, "resolve", charge_usd=0, reason="mine")
        assert problem(refused) == (403, "role_required")
    resolved = command(operator, one, "resolve", charge_usd=1, reason="an hour of work").get_json()
    assert (resolved["status"], resolved["settled_by"]) == (status, "resolved")
    assert (resolved["charged_usd"], resolved["refunded_usd"]) == (1, 9)
    assert (balance(acme, CLERK), balance(globex, READER)) == (99, 1)


@each_ending
def test_a_requester_may_accept_the_charge_at_once(
    ending: Ending,
    status: str,
    claim: float,
    acme: Api,
    globex: Api,
    services: Services,
    time: Clock,
) -> None:
    one = ending(acme, globex, time)
    sweep(services.database)
    assert problem(command(globex, one, "accept-result")) == (403, "not_a_party")
    settled = command(acme, one, "accept-result").get_json()
    assert (settled["status"], settled["settled_by"]) == (status, "accepted")
    assert (balance(acme, CLERK), balance(globex, READER)) == (100 - claim, claim)
    assert problem(command(acme, one, "dispute", reason="late")) == (409, "command_not_allowed")


@pytest.mark.parametrize("costs", [(12,), (11.9, 1)])
def test_who_meters_to_the_stop_and_delivers_nothing_is_not_paid(
    acme: Api, globex: Api, operator: Api, costs: tuple[float, ...]
) -> None:
    worker = begin(acme, globex, *costs)
    one = identity(worker)
    assert show(acme, one)["status"] == "failed_hard_stop"
    assert balance(globex, READER) == 0
    assert command(acme, one, "dispute", reason="nothing was delivered").status_code == 200
    nothing = command(operator, one, "resolve", charge_usd=0, reason="nothing was delivered")
    assert (nothing.get_json()["settled_by"], nothing.get_json()["charged_usd"]) == ("resolved", 0)
    assert (balance(acme, CLERK), balance(globex, READER)) == (100, 0)
    assert problem(worker.meter(1)) == (409, "budget_stopped")


@pytest.mark.parametrize(
    ("review", "period"),
    [(0, {"hours": 1}), (60, {"hours": 1}), (7200, {"hours": 2})],
)
def test_the_review_of_a_failure_is_never_shorter_than_an_hour(
    acme: Api, globex: Api, services: Services, time: Clock, review: int, period: dict[str, int]
) -> None:
    worker = begin(acme, globex, 3, review_within_seconds=review)
    worker.send("fail", reason="broken")
    time.advance(**period, microseconds=-1)
    assert sweep(services.database) == []
    time.advance(microseconds=1)
    assert sweep(services.database) == [identity(worker)]


def test_a_late_sweep_leaves_the_whole_period_to_the_requester(
    acme: Api, globex: Api, services: Services, time: Clock
) -> None:
    one = lost(acme, globex, time)
    time.advance(days=3)
    late = command(acme, one, "cancel")
    assert problem(late) == (409, "delegation_overdue")
    assert late.get_json()["settlement"] == "in_review"
    assert sweep(services.database) == []
    assert command(acme, one, "dispute", reason="nobody did anything").status_code == 200
    time.advance(hours=24)
    assert (show(acme, one)["settlement"], balance(globex, READER)) == ("disputed", 0)


@pytest.mark.parametrize("end", ["fail", "decline", "cancel", "time"])
def test_where_nothing_was_metered_all_goes_back_at_once(
    acme: Api, globex: Api, time: Clock, services: Services, end: str
) -> None:
    one = offer(acme)["delegation_id"]
    if end == "fail":
        accept(globex, one).send("fail", reason="broken")
    elif end == "decline":
        command(globex, one, "decline")
    elif end == "cancel":
        command(acme, one, "cancel")
    else:
        time.advance(minutes=15)
        sweep(services.database)
    shown = show(acme, one)
    assert (shown["settlement"], shown["settled_by"]) == ("settled", "nothing_due")
    assert (shown["charged_usd"], shown["refunded_usd"], shown["in_review_usd"]) == (0, 10, 0)
    assert balance(acme, CLERK) == 100


def test_a_delivery_is_in_review_until_it_is_completed(acme: Api, globex: Api) -> None:
    worker = begin(acme, globex, 3)
    one = identity(worker)
    assert (show(acme, one)["settlement"], show(acme, one)["in_review_usd"]) == ("open", 0)
    delivered = worker.send("deliver", output=1).get_json()
    assert (delivered["settlement"], delivered["in_review_usd"]) == ("in_review", 3)
    assert (delivered["held_usd"], delivered["refunded_usd"]) == (10, None)
    accepted = command(acme, one, "accept-result").get_json()
    assert (accepted["settlement"], accepted["settled_by"]) == ("settled", "accepted")


def test_who_offers_without_a_review_has_accepted_the_delivery(acme: Api, globex: Api) -> None:
    worker = begin(acme, globex, 3, review_within_seconds=0)
    done = worker.send("deliver", output=1).get_json()
    assert (done["settled_by"], done["charged_usd"]) == ("accepted", 3)


@pytest.mark.parametrize(
    ("members", "status", "charge"),
    [
        ({"simulated_actual_cost_usd": 3}, "completed", 3),
        ({"simulated_actual_cost_usd": 13, "max_budget_usd": 10}, "failed_hard_stop", 10),
    ],
)
def test_inline_work_is_settled_when_it_is_reported(
    acme: Api, globex: Api, members: dict[str, Any], status: str, charge: float
) -> None:
    done = acme.post(DELEGATIONS, request(**members)).get_json()
    assert (done["status"], done["settlement"], done["settled_by"]) == (status, "settled", "inline")
    assert balance(globex, READER) == charge


def test_inline_work_that_waits_is_settled_when_it_is_cancelled(acme: Api, globex: Api) -> None:
    body = request(auto_reauthorize=False, simulated_actual_cost_usd=11)
    one = acme.post(DELEGATIONS, body).get_json()["delegation_id"]
    done = command(acme, one, "cancel").get_json()
    assert (done["status"], done["settled_by"], done["charged_usd"]) == ("cancelled", "inline", 10)
    assert balance(globex, READER) == 10


def test_lists_find_what_is_in_review_and_keep_the_meaning_of_states(
    acme: Api, globex: Api, time: Clock
) -> None:
    stopped, off = hard_stop(acme, globex, time), cancelled(acme, globex, time)
    live = offer(acme)["delegation_id"]
    command(acme, off, "dispute", reason="nothing was delivered")

    def ids(query: str) -> list[str]:
        data = acme.get(f"{DELEGATIONS}?{query}").get_json()["data"]
        return [entry["delegation_id"] for entry in data]

    assert ids("settlement=in_review") == [stopped]
    assert ids("settlement=disputed") == [off]
    assert ids("settlement=open") == [live]
    assert ids("settlement=settled") == []
    assert ids("status=failed_hard_stop") == [stopped]
    assert ids("status=disputed") == []
    assert ids("status=cancelled&settlement=disputed") == [off]
    assert ids(f"agent_id={READER}&role=delegate&settlement=disputed") == [off]
    assert problem(acme.get(f"{DELEGATIONS}?settlement=paid")) == (422, "validation_failed")


def test_the_ledger_tells_the_return_from_the_charge(
    acme: Api, globex: Api, operator: Api, time: Clock
) -> None:
    one = cancelled(acme, globex, time)
    command(acme, one, "accept-result")
    statement = operator.get(f"/v1/ledger/accounts/escrow:{one}/statement").get_json()
    found = [
        (entry["kind"], entry["amount_usd"], entry["counterparty"])
        for entry in statement["entries"]
    ]
    assert found == [
        ("close", -3, f"agent:{READER}"),
        ("release", -7, f"agent:{CLERK}"),
        ("hold", 10, f"agent:{CLERK}"),
    ]


def test_a_failure_is_evidence_only_when_it_is_settled(
    acme: Api,
    globex: Api,
    services: Services,
    time: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(track_record, "record_outcome", lambda _, found: counted.append(found))
    one = given_up(acme, globex, time)
    assert counted == []
    time.advance(hours=24)
    assert sweep(services.database) == [one]
    assert [(found.agent_id, found.good) for found in counted] == [(READER, False)]
