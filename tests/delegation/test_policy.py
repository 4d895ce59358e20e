"""Policy decisions: every code, both families of refusals, and determinism."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delegation.policy import PolicyInput, decide, only_budget

GIVEN = PolicyInput(
    requester="@acme:clerk",
    delegate="@globex:reader",
    delegate_version="1.0.0",
    estimated_micros=50,
    max_budget_micros=100,
    minimum_trust=None,
    trust_score=None,
    required_permissions=(),
    granted_permissions=("documents.read",),
)


def codes(**changes: Any) -> list[str]:
    return [reason["code"] for reason in decide(replace(GIVEN, **changes))["reasons"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["policy.allow"]),
        ({"estimated_micros": 79}, ["policy.allow"]),
        ({"estimated_micros": 80}, ["budget.soft_alert_80", "policy.allow"]),
        ({"estimated_micros": 100}, ["budget.soft_alert_80", "policy.allow"]),
        (
            {"estimated_micros": 100, "auto_reauthorize": False},
            ["budget.reauthorization_required_100"],
        ),
        (
            {"estimated_micros": 99, "auto_reauthorize": False},
            ["budget.soft_alert_80", "policy.allow"],
        ),
        ({"estimated_micros": 101}, ["budget.reauthorization_required_100"]),
        ({"estimated_micros": 119}, ["budget.reauthorization_required_100"]),
        ({"estimated_micros": 120}, ["budget.hard_stop_120"]),
        ({"minimum_trust": 0.5}, ["trust.delegate_score_missing"]),
        ({"minimum_trust": 0.0}, ["trust.delegate_score_missing"]),
        ({"minimum_trust": 0.5, "trust_score": 49}, ["trust.floor_not_met"]),
        ({"minimum_trust": 0.5, "trust_score": 50}, ["policy.allow"]),
        ({"minimum_trust": 0.29, "trust_score": 29}, ["policy.allow"]),
        ({"required_permissions": ("documents.read",)}, ["policy.allow"]),
        ({"required_permissions": ("payments.write",)}, ["permissions.missing_required"]),
        (
            {"estimated_micros": 120, "minimum_trust": 0.5, "required_permissions": ("x",)},
            [
                "budget.hard_stop_120",
                "trust.delegate_score_missing",
                "permissions.missing_required",
            ],
        ),
    ],
)
def test_codes(changes: dict[str, Any], expected: list[str]) -> None:
    assert codes(**changes) == expected


def test_a_decision_explains_itself() -> None:
    decision = decide(replace(GIVEN, minimum_trust=0.5, trust_score=20))
    assert (decision["decision"], decision["allowed"]) == ("deny", False)
    assert decision["violated_constraints"] == ["trust.floor_not_met"]
    assert decision["reasons"][0] == {
        "code": "trust.floor_not_met",
        "message": "The delegate's trust is below what the requester demands.",
        "type": "violation",
        "field": "min_delegate_trust_score",
        "expected": "at least 0.5",
        "observed": 0.2,
    }
    assert decision["evaluated_constraints"]["trust"] == {
        "min_delegate_trust_score": 0.5,
        "delegate_trust_score": 0.2,
    }


def test_decisions_of_earlier_releases_can_be_repeated() -> None:
    # The hash as it was before auto_reauthorize was part of the input.
    before = "sha256:e8ef2523e78e88bcd47f879fa1b7a08f918f991da81c1775e63b4a9e8af1255c"
    assert decide(GIVEN)["input_hash"] == before
    assert decide(replace(GIVEN, auto_reauthorize=False)) == decide(GIVEN)
    whole = replace(GIVEN, estimated_micros=100)
    assert decide(whole) != decide(replace(whole, auto_reauthorize=False))


def test_only_a_budget_is_a_matter_of_money() -> None:
    assert only_budget(decide(replace(GIVEN, estimated_micros=300)))
    assert not only_budget(decide(replace(GIVEN, estimated_micros=300, minimum_trust=1.0)))


def test_the_hash_is_that_of_the_input() -> None:
    permissions = ("b.x", "a.x")
    one = decide(replace(GIVEN, required_permissions=permissions))
    other = decide(replace(GIVEN, required_permissions=permissions[::-1]))
    assert one == other
    assert one["input_hash"] != decide(replace(GIVEN, estimated_micros=51))["input_hash"]


@given(
    st.builds(
        PolicyInput,
        requester=st.just("@a:x"),
        delegate=st.just("@b:y"),
        delegate_version=st.just("1.0.0"),
        estimated_micros=st.integers(1, 10**15),
        max_budget_micros=st.integers(1, 10**15),
        minimum_trust=st.none() | st.floats(0, 1),
        trust_score=st.none() | st.integers(0, 100),
        required_permissions=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
        granted_permissions=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
        auto_reauthorize=st.booleans(),
    )
)
def test_decisions_are_deterministic_and_consistent(policy_input: PolicyInput) -> None:
    decision = decide(policy_input)
    assert decision == decide(policy_input)
    assert decision["allowed"] == (not decision["violated_constraints"])
    assert decision["allowed"] == (decision["decision"] == "allow")
    over = policy_input.estimated_micros > policy_input.max_budget_micros
    over = over or policy_input.is_dead_end
    assert over == any(code.startswith("budget.") for code in decision["violated_constraints"])
