"""The table of states, and the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest

from app.delegation import contract, lifecycle

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def working(**changes: Any) -> SimpleNamespace:
    columns = {
        "status": "in_progress",
        "execution": "remote",
        "settlement": "open",
        "metered_micros": 0,
        "held_micros": 10,
        "review_seconds": 86400,
        "due_at": NOW,
        "lease_seconds": 60,
        "silent_takeovers": 0,
        "lease_expires_at": NOW + timedelta(seconds=60),
        "deadline_at": NOW + timedelta(hours=1),
        "cancel_requested_at": None,
    }
    return SimpleNamespace(**(columns | changes))


def test_every_state_has_a_view_in_a2a() -> None:
    assert set(lifecycle.A2A_STATES) == set(lifecycle.STATUSES)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("offered", ["accept", "cancel", "decline"]),
        (
            "in_progress",
            ["accept", "ask", "cancel", "deliver", "fail", "heartbeat", "meter"],
        ),
        ("pending_reauthorization", ["cancel", "fail", "heartbeat", "meter", "reauthorize"]),
        ("input_required", ["answer", "cancel", "fail", "heartbeat"]),
        ("delivered", ["accept-result", "dispute"]),
        ("disputed", ["resolve"]),
        *((status, []) for status in lifecycle.TERMINAL),
    ],
)
def test_commands_of_a_state(status: str, expected: list[str]) -> None:
    assert lifecycle.allowed_commands(status) == expected


@pytest.mark.parametrize("status", ["failed_hard_stop", "failed", "expired", "cancelled"])
def test_what_ended_is_still_contested_or_settled(status: str) -> None:
    for settlement, expected in (
        ("in_review", ["accept-result", "dispute"]),
        ("disputed", ["resolve"]),
        ("settled", []),
    ):
        assert lifecycle.commands_for(working(status=status, settlement=settlement)) == expected


def test_inline_work_is_done_so_only_money_is_left_to_decide() -> None:
    allowed = lifecycle.allowed_commands("pending_reauthorization", "inline")
    assert allowed == ["cancel", "reauthorize"]


def test_a_worker_without_a_sign_of_life_is_lost_after_three_leases() -> None:
    due = lifecycle.next_due(working())
    assert due is not None
    assert (due.status, due.at) == ("failed", NOW + timedelta(seconds=180))


def test_the_last_lease_is_the_end_once_it_was_taken_over_three_times_in_silence() -> None:
    for takeovers, seconds in ((2, 180), (3, 60)):
        due = lifecycle.next_due(working(silent_takeovers=takeovers))
        assert due is not None
        assert (due.status, due.at) == ("failed", NOW + timedelta(seconds=seconds))


def test_the_deadline_comes_first_when_it_is_nearer() -> None:
    due = lifecycle.next_due(working(deadline_at=NOW + timedelta(seconds=30)))
    assert due is not None
    assert (due.status, due.reason) == ("failed", "the deadline passed")


def test_a_cancellation_is_forced_after_its_grace() -> None:
    due = lifecycle.next_due(working(cancel_requested_at=NOW))
    assert due is not None
    assert (due.status, due.at) == ("cancelled", NOW + timedelta(seconds=30))


# What the system does by itself where nothing was metered, and where something was.
@pytest.mark.parametrize(
    ("status", "settlement", "outcome", "unused", "used"),
    [
        ("offered", "open", "expired", "settled", "in_review"),
        ("in_progress", "open", "failed", "settled", "in_review"),
        ("pending_reauthorization", "open", "expired", "settled", "in_review"),
        ("input_required", "open", "expired", "settled", "in_review"),
        ("delivered", "in_review", "completed", "settled", "settled"),
        ("disputed", "disputed", "disputed", "disputed", "disputed"),
        ("failed_hard_stop", "in_review", "failed_hard_stop", "settled", "settled"),
        ("cancelled", "disputed", "cancelled", "disputed", "disputed"),
    ],
)
def test_every_waiting_state_goes_on_by_itself(
    status: str, settlement: str, outcome: str, unused: str, used: str
) -> None:
    for metered, expected in ((0, unused), (3, used)):
        row = working(status=status, settlement=settlement, metered_micros=metered)
        row.deadline_at = NOW
        due = lifecycle.overdue(row, NOW)
        assert due is not None
        assert (due.status, due.settlement) == (outcome, expected)
        assert lifecycle.overdue(row, NOW - timedelta(microseconds=1)) is None


def test_inline_work_is_settled_with_its_end() -> None:
    row = working(status="pending_reauthorization", execution="inline", metered_micros=3)
    due = lifecycle.next_due(row)
    assert due is not None
    assert (due.status, due.settlement) == ("expired", "settled")


@pytest.mark.parametrize(
    ("review_seconds", "expected"), [(0, 3600), (3599, 3600), (3601, 3601), (86400, 86400)]
)
def test_who_waives_the_review_of_results_has_an_hour_for_the_rest(
    review_seconds: int, expected: int
) -> None:
    period = lifecycle.review_of_ending(working(review_seconds=review_seconds))
    assert period == timedelta(seconds=expected)


@pytest.mark.parametrize("status", lifecycle.TERMINAL)
def test_nothing_happens_to_what_is_settled(status: str) -> None:
    row = working(status=status, settlement="settled", due_at=None)
    assert lifecycle.next_due(row) is None
    assert lifecycle.overdue(row, NOW) is None


def test_the_contract_is_what_its_schema_says_and_is_closed() -> None:
    validator = jsonschema_rs.Draft202012Validator(contract.SCHEMA)
    validator.validate(contract.CONTRACT)
    assert not validator.is_valid({**contract.CONTRACT, "more": 1})
    for member in contract.CONTRACT:
        assert not validator.is_valid({k: v for k, v in contract.CONTRACT.items() if k != member})
    assert contract.CONTRACT["retry_matrix"]["transient_network_error"] == {
        "max_retries": 2,
        "backoff_ms": [100, 250],
        "idempotency_required": True,
    }
