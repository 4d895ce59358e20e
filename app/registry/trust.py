"""Trust in an agent, computed from evidence and from nothing else.

Pure functions. ``rate`` gives what an agent's document shows; ``assess`` gives the same with the
reasons. Both see the same evidence at the same moment, so they never disagree. ``contribution``
says what one owner's dealings with an agent add to its evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypedDict

# 95 % confidence.
_Z = 1.96
# Lowest score of each tier, highest tier first, with the badge shown for it.
_TIERS = ((80, "high", "gold"), (50, "medium", "silver"), (0, "low", "bronze"))
LOW, MEDIUM = 49, 79
# What each component contributes to a score of 100. What a publisher says of its own agent
# (evaluations) and what it is (publisher) together stay far below a medium tier.
WEIGHTS = {"delegations": 70, "evaluations": 5, "usage": 10, "publisher": 15}
# What an owner may report of having used an agent.
SUCCESS, FAILURE = "success", "failure"
# An owner has its full say once it has paid so much of its own money for an agent's work (in
# micro-USD), and has come back over so many days. In the first days it has a quarter of that.
FULL_PAYMENT_MICROS = 10_000_000
FULL_SPAN_DAYS = 30
_FIRST_SAY = 250
# What one owner with its full say counts as at most: outcomes, and failures among them.
OWNER_LIMIT, OWNER_FAILURE_LIMIT = 10, 5
# The score is limited below these ages of the publisher, in days, and below as many full says.
NEW_DAYS, YOUNG_DAYS = 30, 90
_HARDLY_PAID, _LITTLE_PAID = 2, 5
# Age (in days) and versions from which a publisher's record does not grow further.
_FULL_AGE_DAYS = 180
_FULL_VERSIONS = 5
# Below these there is a flag.
_FEW_DELEGATIONS, _FEW_CASES, _FEW_REPORTERS = 20, 30, 3
# Says and outcomes are counted in thousandths.
_MILLI = 1000
# What may keep a score down; each is a flag, too.
LIMITS = ("new_publisher", "young_publisher", "few_paying_owners")
FLAGS = (
    "no_delegations",
    "few_delegations",
    "mostly_failed_delegations",
    "unpaid_delegations_not_counted",
    "few_paying_owners",
    "no_evaluations",
    "few_evaluations",
    "self_reported_evaluations",
    "no_independent_usage",
    "few_reporters",
    "self_reported_only",
    "publisher_usage_not_counted",
    "unpaid_usage_not_counted",
    "usage_over_limit_not_counted",
    "new_publisher",
    "young_publisher",
    "deprecated",
)


@dataclass(frozen=True)
class Counterparty:
    """What another owner than the publisher has had to do with an agent.

    ``own_micros`` is what it paid for the agent's work of money that it had not earned here itself;
    ``first_paid_at`` and ``last_paid_at`` are when. The usage is all that it reported.
    """

    completed: int = 0
    failed: int = 0
    own_micros: int = 0
    first_paid_at: datetime | None = None
    last_paid_at: datetime | None = None
    usage_succeeded: int = 0
    usage_failed: int = 0

    @property
    def say(self) -> int:
        """How much the owner has to say of the agent, in thousandths: 0 to 1000."""
        if self.first_paid_at is None or self.last_paid_at is None:
            return 0
        money = min(self.own_micros, FULL_PAYMENT_MICROS) * _MILLI // FULL_PAYMENT_MICROS
        days = min((self.last_paid_at - self.first_paid_at).days, FULL_SPAN_DAYS)
        time = _FIRST_SAY + (_MILLI - _FIRST_SAY) * days // FULL_SPAN_DAYS
        return money * time // _MILLI


@dataclass(frozen=True)
class Contributions:
    """Sums over owners of what each contributes; thousandths where the name says milli.

    ``completed_milli`` and ``failed_milli`` are what counts of the delegations, and likewise
    ``usage_good_milli`` and ``usage_bad_milli`` of the usage. ``unpaid`` outcomes are those of
    owners who have no say.
    """

    delegations_completed: int = 0
    delegations_failed: int = 0
    delegations_unpaid: int = 0
    completed_milli: int = 0
    failed_milli: int = 0
    say_milli: int = 0
    paying_owners: int = 0
    own_micros: int = 0
    usage_succeeded: int = 0
    usage_failed: int = 0
    usage_reporters: int = 0
    usage_payers: int = 0
    usage_good_milli: int = 0
    usage_bad_milli: int = 0
    usage_over_limit: int = 0
    usage_unpaid: int = 0


SUMS = tuple(field.name for field in fields(Contributions))


@dataclass(frozen=True)
class Evidence(Contributions):
    """The evidence about an agent.

    ``usage_by_publisher`` are outcomes that the publisher reported of its own agent.
    ``published_since`` is when the agent's namespace was reserved, in seconds since 1970.
    """

    cases_passed: int = 0
    cases_total: int = 0
    usage_by_publisher: int = 0
    published_since: int = 0
    versions: int = 1
    deprecated: bool = False

    @property
    def delegations_milli(self) -> int:
        """What counts of the delegations, good and bad, in thousandths."""
        return self.completed_milli + self.failed_milli

    @property
    def usage_milli(self) -> int:
        """What counts of reported usage, good and bad, in thousandths."""
        return self.usage_good_milli + self.usage_bad_milli

    @property
    def is_rated(self) -> bool:
        """Whether anybody who paid for the agent's work has said anything of it."""
        return bool(self.delegations_milli or self.usage_milli)

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


class Limit(TypedDict):
    """A cap on the score: a flag, and the highest score that it allows."""

    reason: str
    score_at_most: int


class Trust(Rating):
    """A rating with its reasons."""

    explanation: str
    breakdown: list[Component]
    limits: list[Limit]
    flags: list[str]


def contribution(party: Counterparty) -> Contributions:
    """Return what one owner's dealings with an agent add to its evidence.

    An owner counts as far as it has paid, and as at most ``OWNER_LIMIT`` outcomes, in the
    proportion of its own. Its failures are limited once more, so that nobody can slander an agent
    alone.
    """
    say, outcomes = party.say, party.completed + party.failed
    usage = party.usage_succeeded + party.usage_failed
    completed, failed = _counted(party.completed, party.failed, say)
    good, bad = _counted(party.usage_succeeded, party.usage_failed, say)
    return Contributions(
        delegations_completed=party.completed,
        delegations_failed=party.failed,
        delegations_unpaid=0 if say else outcomes,
        completed_milli=completed,
        failed_milli=failed,
        say_milli=say,
        paying_owners=int(say > 0),
        own_micros=party.own_micros,
        usage_succeeded=party.usage_succeeded,
        usage_failed=party.usage_failed,
        usage_reporters=int(usage > 0),
        usage_payers=int(usage > 0 and say > 0),
        usage_good_milli=good,
        usage_bad_milli=bad,
        usage_over_limit=usage - (good + bad) // _MILLI if say else 0,
        usage_unpaid=0 if say else usage,
    )


def _counted(good: int, bad: int, say: int) -> tuple[int, int]:
    """Return what counts of an owner's outcomes, in thousandths; a share of one is a failure."""
    total = good + bad
    most = min(total * _MILLI, OWNER_LIMIT * say)
    if not most:
        return 0, 0
    failed = -(-bad * most // total)
    return most - failed, min(failed, OWNER_FAILURE_LIMIT * say)


def counted_usage(party: Counterparty) -> tuple[int, int]:
    """Return how many whole successes and failures count of the usage that an owner reported."""
    counts = contribution(party)
    return counts.usage_good_milli // _MILLI, counts.usage_bad_milli // _MILLI


def evidence_of(row: Any, versions: int) -> Evidence:
    """Return the evidence in a row of a query; an agent may have no row of evidence yet."""
    return Evidence(
        **{name: getattr(row, name) or 0 for name in SUMS},
        cases_passed=row.eval_cases_passed,
        cases_total=row.eval_cases_total,
        usage_by_publisher=row.usage_by_publisher or 0,
        published_since=row.published_since,
        versions=versions,
        deprecated=row.status == "deprecated",
    )


def rate(evidence: Evidence, now: datetime) -> Rating:
    """Return the score that the evidence supports, with its tier and badge.

    While nobody who paid for the agent's work has said anything of it, it is unrated, whoever
    published it and whatever is said for nothing.
    """
    if not evidence.is_rated:
        return {"score": 0, "tier": "unrated", "badge": "none"}
    scores = _scores(evidence, now)
    score = sum(weight * scores[name] for name, weight in WEIGHTS.items()) // 100
    score = min([score, *(limit["score_at_most"] for limit in _limits(evidence, now))])
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
        "limits": list(_limits(evidence, now)),
        "flags": list(_flags(evidence, now)),
    }


def _scores(evidence: Evidence, now: datetime) -> dict[str, int]:
    age = min(evidence.age_days(now), _FULL_AGE_DAYS)
    # Versions are published in a minute, so they only count as far as time has passed.
    record = _FULL_VERSIONS + min(evidence.versions, _FULL_VERSIONS)
    return {
        "delegations": _lower_bound(evidence.completed_milli, evidence.failed_milli),
        "evaluations": _lower_bound(
            evidence.cases_passed * _MILLI, (evidence.cases_total - evidence.cases_passed) * _MILLI
        ),
        "usage": _lower_bound(evidence.usage_good_milli, evidence.usage_bad_milli),
        "publisher": 100 * age * record // (_FULL_AGE_DAYS * 2 * _FULL_VERSIONS),
    }


def _lower_bound(good_milli: int, bad_milli: int) -> int:
    """Return 100 times the lower bound of the Wilson score interval (Wilson 1927), rounded down.

    So few cases count for little, however well they went; no case at all counts for nothing.
    """
    total = (good_milli + bad_milli) / _MILLI
    if total == 0:
        return 0
    share = good_milli / _MILLI / total
    centre = share + _Z**2 / (2 * total)
    margin = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return max(0, math.floor(100 * (centre - margin) / (1 + _Z**2 / total)))


def _limits(evidence: Evidence, now: datetime) -> Iterator[Limit]:
    """Yield what keeps the score down: time and payers, which no number of outcomes replaces."""
    age = evidence.age_days(now)
    if age < NEW_DAYS:
        yield {"reason": "new_publisher", "score_at_most": LOW}
    elif age < YOUNG_DAYS:
        yield {"reason": "young_publisher", "score_at_most": MEDIUM}
    if evidence.say_milli < _LITTLE_PAID * _MILLI:
        hardly = evidence.say_milli < _HARDLY_PAID * _MILLI
        yield {"reason": "few_paying_owners", "score_at_most": LOW if hardly else MEDIUM}


def _counts(evidence: Evidence, now: datetime) -> dict[str, dict[str, int]]:
    return {
        "delegations": {
            "completed": evidence.delegations_completed,
            "failed": evidence.delegations_failed,
            "counted_completed": evidence.completed_milli // _MILLI,
            "counted_failed": evidence.failed_milli // _MILLI,
            "paying_owners": evidence.paying_owners,
            "full_says_thousandths": evidence.say_milli,
            "limit_per_owner": OWNER_LIMIT,
            "not_counted_unpaid": evidence.delegations_unpaid,
        },
        "evaluations": {
            "passed": evidence.cases_passed,
            "failed": evidence.cases_total - evidence.cases_passed,
        },
        "usage": {
            "succeeded": evidence.usage_good_milli // _MILLI,
            "failed": evidence.usage_bad_milli // _MILLI,
            "reporters": evidence.usage_reporters,
            "paying_reporters": evidence.usage_payers,
            "limit_per_reporter": OWNER_LIMIT,
            "not_counted_over_limit": evidence.usage_over_limit,
            "not_counted_unpaid": evidence.usage_unpaid,
            "not_counted_by_publisher": evidence.usage_by_publisher,
        },
        "publisher": {"age_days": evidence.age_days(now), "versions": evidence.versions},
    }


def _flags(evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield a stable word for each thing to know beside the score."""
    if evidence.delegations_milli < _FEW_DELEGATIONS * _MILLI:
        yield "few_delegations" if evidence.delegations_milli else "no_delegations"
    if evidence.cases_total < _FEW_CASES:
        yield "few_evaluations" if evidence.cases_total else "no_evaluations"
    if evidence.usage_payers < _FEW_REPORTERS:
        yield "few_reporters" if evidence.usage_payers else "no_independent_usage"
    if evidence.failed_milli > evidence.completed_milli:
        yield "mostly_failed_delegations"
    yield from _uncounted(evidence)
    yield from (limit["reason"] for limit in _limits(evidence, now))
    if evidence.deprecated:
        yield "deprecated"


def _uncounted(evidence: Evidence) -> Iterator[str]:
    """Yield a flag for each thing that was said and counts for nothing, or next to it."""
    if (evidence.cases_total or evidence.usage_by_publisher) and not evidence.is_rated:
        yield "self_reported_only"
    found: Mapping[str, int] = {
        "self_reported_evaluations": evidence.cases_total,
        "publisher_usage_not_counted": evidence.usage_by_publisher,
        "unpaid_delegations_not_counted": evidence.delegations_unpaid,
        "unpaid_usage_not_counted": evidence.usage_unpaid,
        "usage_over_limit_not_counted": evidence.usage_over_limit,
    }
    yield from (flag for flag, number in found.items() if number)


def _explain(evidence: Evidence) -> str:
    """Say what the score rests on, and that a low one may only mean that little is known."""
    outcomes = evidence.delegations_completed + evidence.delegations_failed
    if not evidence.is_rated:
        return (
            "There is no evidence of this agent's work yet from anybody who paid for it, so it is"
            " unrated. That says nothing against it: trust grows with remote work that other owners"
            f" pay for. Without such a payment, {outcomes} delegations,"
            f" {evidence.usage_unpaid + evidence.usage_by_publisher} reported outcomes of usage and"
            f" {evidence.cases_total} evaluation cases of the publisher count for nothing."
        )
    return (
        f"The score rests on {outcomes} settled remote delegations, of which"
        f" {evidence.delegations_milli // _MILLI} count, of {evidence.paying_owners} owners who"
        f" paid for the work with money of their own; on {evidence.usage_milli // _MILLI} outcomes"
        " of usage that such owners reported; and, next to nothing, on"
        f" {evidence.cases_total} evaluation cases that the publisher itself stored. Every"
        " component is the lower bound of what its evidence supports, so little evidence gives a"
        " low score however good it is."
    )
