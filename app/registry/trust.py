"""Trust in an agent, computed from evidence and from nothing else.

Pure functions. ``rate`` gives what an agent's document shows; ``assess`` gives the same with the
reasons. Both see the same evidence at the same moment, so they never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

# 95 % confidence.
_Z = 1.96
# Lowest score of each tier, highest tier first, with the badge shown for it.
_TIERS = ((80, "high", "gold"), (50, "medium", "silver"), (0, "low", "bronze"))
# What each component contributes to a score of 100. What a publisher says of its own agent
# (evaluations) and what it is (publisher) together stay below a medium tier.
WEIGHTS = {"delegations": 45, "evaluations": 25, "usage": 20, "publisher": 10}
# What an owner may report of having used an agent.
SUCCESS, FAILURE = "success", "failure"
# One owner's reports of usage count as at most this many outcomes.
REPORTER_LIMIT = 100
# Age (in days) and versions from which a publisher's record does not grow further.
_FULL_AGE_DAYS = 180
_FULL_VERSIONS = 5
# Below these there is a flag.
_FEW_DELEGATIONS, _FEW_CASES, _FEW_REPORTERS, _NEW_DAYS = 20, 30, 3, 30
FLAGS = (
    "no_delegations",
    "few_delegations",
    "mostly_failed_delegations",
    "no_evaluations",
    "few_evaluations",
    "no_independent_usage",
    "few_reporters",
    "self_reported_only",
    "publisher_usage_not_counted",
    "usage_over_limit_not_counted",
    "new_publisher",
    "deprecated",
)


@dataclass(frozen=True)
class Evidence:
    """What is known of an agent.

    ``usage_succeeded`` and ``usage_failed`` are what counts of the reports of other owners than the
    publisher; ``usage_over_limit`` and ``usage_by_publisher`` are reported outcomes that do not.
    ``published_since`` is when the agent's namespace was reserved, in seconds since 1970.
    """

    delegations_completed: int = 0
    delegations_failed: int = 0
    cases_passed: int = 0
    cases_total: int = 0
    usage_succeeded: int = 0
    usage_failed: int = 0
    usage_reporters: int = 0
    usage_over_limit: int = 0
    usage_by_publisher: int = 0
    published_since: int = 0
    versions: int = 1
    deprecated: bool = False

    @property
    def delegations(self) -> int:
        """How many delegations the agent brought to an end, well or badly."""
        return self.delegations_completed + self.delegations_failed

    @property
    def usage(self) -> int:
        """How many outcomes of independent usage count."""
        return self.usage_succeeded + self.usage_failed

    def age_days(self, now: datetime) -> int:
        """Return for how many whole days the publisher has had the namespace."""
        return max(0, math.floor(now.timestamp()) - self.published_since) // 86400


class Rating(TypedDict):
    """``score`` is 0 to 100; ``tier`` unrated, low, medium or high; ``badge`` what a page shows."""

    score: int
    tier: str
    badge: str


class Component(TypedDict):
    """One kind of evidence: its score of 0 to 100, its share of the whole, and what was counted."""

    name: str
    score: int
    weight: float
    evidence: dict[str, int]


class Trust(Rating):
    """A rating with its reasons."""

    explanation: str
    breakdown: list[Component]
    flags: list[str]


def evidence_of(row: Any, versions: int) -> Evidence:
    """Return the evidence in a row of a query; an agent may have no row of evidence yet."""
    return Evidence(
        delegations_completed=row.delegations_completed or 0,
        delegations_failed=row.delegations_failed or 0,
        cases_passed=row.eval_cases_passed,
        cases_total=row.eval_cases_total,
        usage_succeeded=row.usage_succeeded or 0,
        usage_failed=row.usage_failed or 0,
        usage_reporters=row.usage_reporters or 0,
        usage_over_limit=row.usage_over_limit or 0,
        usage_by_publisher=row.usage_by_publisher or 0,
        published_since=row.published_since,
        versions=versions,
        deprecated=row.status == "deprecated",
    )


def rate(evidence: Evidence, now: datetime) -> Rating:
    """Return the score that the evidence supports, with its tier and badge.

    While there is no evidence of the agent's work, it is unrated, whoever published it.
    """
    if not (evidence.delegations or evidence.cases_total or evidence.usage):
        return {"score": 0, "tier": "unrated", "badge": "none"}
    scores = _scores(evidence, now)
    score = sum(weight * scores[name] for name, weight in WEIGHTS.items()) // 100
    tier, badge = next((tier, badge) for least, tier, badge in _TIERS if score >= least)
    return {"score": score, "tier": tier, "badge": badge}


def assess(evidence: Evidence, now: datetime) -> Trust:
    """Return the rating with its breakdown by component, flags, and what it rests on in words."""
    scores, counts = _scores(evidence, now), _counts(evidence, now)
    return {
        **rate(evidence, now),
        "explanation": _explain(evidence),
        "breakdown": [
            {
                "name": name,
                "score": scores[name],
                "weight": weight / 100,
                "evidence": counts[name],
            }
            for name, weight in WEIGHTS.items()
        ],
        "flags": list(_flags(evidence, now)),
    }


def counted_to_date(report: Any) -> tuple[int, int]:
    """Return what counts, as successes and failures, of all that a reporter has reported.

    ``report`` is the newest of its reports. A publisher's own count for nothing. Of others, up to
    ``REPORTER_LIMIT`` outcomes count as they are, more of them as that many in the same proportion;
    a share of an outcome counts as a failure.
    """
    if not report.independent:
        return 0, 0
    succeeded, failed = report.succeeded_to_date, report.failed_to_date
    total = succeeded + failed
    if total <= REPORTER_LIMIT:
        return succeeded, failed
    failures = -(-failed * REPORTER_LIMIT // total)
    return REPORTER_LIMIT - failures, failures


def _scores(evidence: Evidence, now: datetime) -> dict[str, int]:
    age = min(evidence.age_days(now), _FULL_AGE_DAYS)
    # Versions are published in a minute, so they only count as far as time has passed.
    record = _FULL_VERSIONS + min(evidence.versions, _FULL_VERSIONS)
    return {
        "delegations": _lower_bound(evidence.delegations_completed, evidence.delegations),
        "evaluations": _lower_bound(evidence.cases_passed, evidence.cases_total),
        "usage": _lower_bound(evidence.usage_succeeded, evidence.usage),
        "publisher": 100 * age * record // (_FULL_AGE_DAYS * 2 * _FULL_VERSIONS),
    }


def _lower_bound(good: int, total: int) -> int:
    """Return 100 times the lower bound of the Wilson score interval (Wilson 1927), rounded down.

    So few cases count for little, however well they went; no case at all counts for nothing.
    """
    if total == 0:
        return 0
    share = good / total
    centre = share + _Z**2 / (2 * total)
    margin = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return max(0, math.floor(100 * (centre - margin) / (1 + _Z**2 / total)))


def _counts(evidence: Evidence, now: datetime) -> dict[str, dict[str, int]]:
    return {
        "delegations": {
            "completed": evidence.delegations_completed,
            "failed": evidence.delegations_failed,
        },
        "evaluations": {
            "passed": evidence.cases_passed,
            "failed": evidence.cases_total - evidence.cases_passed,
        },
        "usage": {
            "succeeded": evidence.usage_succeeded,
            "failed": evidence.usage_failed,
            "reporters": evidence.usage_reporters,
            "limit_per_reporter": REPORTER_LIMIT,
            "not_counted_over_limit": evidence.usage_over_limit,
            "not_counted_by_publisher": evidence.usage_by_publisher,
        },
        "publisher": {"age_days": evidence.age_days(now), "versions": evidence.versions},
    }


def _flags(evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield a stable word for each thing to know beside the score."""
    if evidence.delegations < _FEW_DELEGATIONS:
        yield "few_delegations" if evidence.delegations else "no_delegations"
    if evidence.cases_total < _FEW_CASES:
        yield "few_evaluations" if evidence.cases_total else "no_evaluations"
    if evidence.usage_reporters < _FEW_REPORTERS:
        yield "few_reporters" if evidence.usage_reporters else "no_independent_usage"
    if evidence.delegations_failed > evidence.delegations_completed:
        yield "mostly_failed_delegations"
    if (evidence.cases_total or evidence.usage_by_publisher) and not (
        evidence.delegations or evidence.usage
    ):
        yield "self_reported_only"
    if evidence.usage_by_publisher:
        yield "publisher_usage_not_counted"
    if evidence.usage_over_limit:
        yield "usage_over_limit_not_counted"
    if evidence.age_days(now) < _NEW_DAYS:
        yield "new_publisher"
    if evidence.deprecated:
        yield "deprecated"


def _explain(evidence: Evidence) -> str:
    """Say what the score rests on, and that a low one may only mean that little is known."""
    if not (evidence.delegations or evidence.cases_total or evidence.usage):
        return (
            "There is no evidence of this agent's work yet, so it is unrated. That says nothing"
            " against it: trust grows with settled delegations, evaluations and usage that other"
            " owners report."
        )
    return (
        f"The score rests on {evidence.delegations} settled delegations,"
        f" {evidence.cases_total} evaluation cases that the publisher stored, and"
        f" {evidence.usage} outcomes of usage that other owners reported. Every component is the"
        " lower bound of what its evidence supports, so little evidence gives a low score however"
        " good it is."
    )
