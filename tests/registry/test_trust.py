"""Trust: how it is computed, what it is shown with, and what cannot raise it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app import clock
from app.http.context import Services
from app.registry.models import TrustEvidence, UsageReport
from app.registry.service import Outcome, record_outcomes
from app.registry.trust import (
    FLAGS,
    REPORTER_LIMIT,
    WEIGHTS,
    Evidence,
    assess,
    counted_to_date,
    rate,
)
from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT_ID = "@acme:invoice-summarizer"
AGENT = f"/v1/agents/{AGENT_ID}"
USAGE = f"{AGENT}/trust/usage"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LONG_AGO = int((NOW - timedelta(days=1000)).timestamp())
EXCELLENT = Evidence(
    delegations_completed=1000,
    cases_passed=1000,
    cases_total=1000,
    usage_succeeded=1000,
    usage_reporters=10,
    published_since=LONG_AGO,
    versions=10,
)
COUNTERS = [field.name for field in fields(Evidence) if field.type == "int"]


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    """Any evidence that can be stored."""
    count = st.one_of(st.integers(0, 50), st.integers(0, 10**9))
    found = {name: draw(count) for name in COUNTERS}
    found["cases_total"] += found["cases_passed"]
    found["published_since"] = int(NOW.timestamp()) - draw(st.integers(-(10**5), 10**8))
    return Evidence(**found, deprecated=draw(st.booleans()))


class TestScore:
    def test_without_evidence_of_work_it_is_unrated(self) -> None:
        unknown = Evidence(published_since=LONG_AGO, versions=50, usage_by_publisher=500)
        assert rate(unknown, NOW) == {"score": 0, "tier": "unrated", "badge": "none"}
        assert "no evidence" in assess(unknown, NOW)["explanation"]

    @pytest.mark.parametrize(
        ("known", "score", "tier", "badge"),
        [
            (EXCELLENT, 99, "high", "gold"),
            # What only a publisher says and is never makes more than a low tier.
            (replace(EXCELLENT, delegations_completed=0, usage_succeeded=0), 34, "low", "bronze"),
            (Evidence(delegations_completed=1000), 44, "low", "bronze"),
            (
                Evidence(delegations_completed=1000, published_since=LONG_AGO),
                50,
                "medium",
                "silver",
            ),
            (replace(EXCELLENT, cases_passed=0, cases_total=0), 74, "medium", "silver"),
            (Evidence(delegations_completed=1), 9, "low", "bronze"),
            (Evidence(delegations_completed=10), 32, "low", "bronze"),
            (Evidence(delegations_failed=1), 0, "low", "bronze"),
            (Evidence(cases_passed=50, cases_total=50), 23, "low", "bronze"),
        ],
    )
    def test_examples(self, known: Evidence, score: int, tier: str, badge: str) -> None:
        known = replace(known, published_since=known.published_since or int(NOW.timestamp()))
        assert rate(known, NOW) == {"score": score, "tier": tier, "badge": badge}

    @pytest.mark.parametrize(
        ("days", "versions", "score"),
        [(0, 10, 0), (-1, 10, 0), (90, 1, 30), (180, 1, 60), (180, 5, 100), (9000, 99, 100)],
    )
    def test_a_publisher_earns_with_time_only(self, days: int, versions: int, score: int) -> None:
        since = int((NOW - timedelta(days=days)).timestamp())
        (component,) = [
            entry
            for entry in assess(Evidence(published_since=since, versions=versions), NOW)[
                "breakdown"
            ]
            if entry["name"] == "publisher"
        ]
        assert component["score"] == score
        assert component["evidence"] == {"age_days": max(0, days), "versions": versions}

    @given(evidence())
    def test_the_score_is_the_weighted_sum_of_what_is_shown(self, known: Evidence) -> None:
        trust = assess(known, NOW)
        shown = {entry["name"]: entry for entry in trust["breakdown"]}
        assert sum(WEIGHTS.values()) == 100
        assert {name: entry["weight"] * 100 for name, entry in shown.items()} == WEIGHTS
        total = sum(WEIGHTS[name] * entry["score"] for name, entry in shown.items()) // 100
        assert trust["score"] == (0 if trust["tier"] == "unrated" else total)
        assert 0 <= trust["score"] <= 100
        assert all(0 <= entry["score"] <= 100 for entry in shown.values())
        assert assess(known, NOW) == trust
        assert {name: trust[name] for name in ("score", "tier", "badge")} == rate(known, NOW)  # type: ignore[literal-required]

    @given(evidence())
    def test_no_component_is_above_what_its_evidence_shows(self, known: Evidence) -> None:
        for entry in assess(known, NOW)["breakdown"][:3]:
            good, bad = list(entry["evidence"].values())[:2]
            assert entry["score"] * (good + bad) <= 100 * good
            if good + bad == 0:
                assert entry["score"] == 0

    @given(evidence(), st.integers(1, 10**6))
    def test_success_never_lowers_it_and_failure_never_raises_it(
        self, known: Evidence, more: int
    ) -> None:
        score = rate(known, NOW)["score"]
        for better in (
            replace(known, delegations_completed=known.delegations_completed + more),
            replace(known, usage_succeeded=known.usage_succeeded + more),
            replace(
                known, cases_passed=known.cases_passed + more, cases_total=known.cases_total + more
            ),
            replace(known, published_since=known.published_since - more),
            replace(known, versions=known.versions + more),
        ):
            assert rate(better, NOW)["score"] >= score
        if rate(known, NOW)["tier"] != "unrated":
            for worse in (
                replace(known, delegations_failed=known.delegations_failed + more),
                replace(known, usage_failed=known.usage_failed + more),
                replace(known, cases_total=known.cases_total + more),
            ):
                assert rate(worse, NOW)["score"] <= score

    @given(evidence(), st.integers(2, 50))
    def test_more_of_the_same_evidence_never_lowers_it(self, known: Evidence, times: int) -> None:
        counted = [name for name in COUNTERS if name not in ("published_since", "versions")]
        more = replace(known, **{name: getattr(known, name) * times for name in counted})
        assert rate(more, NOW)["score"] >= rate(known, NOW)["score"]


class TestFlags:
    @pytest.mark.parametrize(
        ("known", "flags"),
        [
            (EXCELLENT, []),
            (
                Evidence(published_since=int(NOW.timestamp())),
                ["no_delegations", "no_evaluations", "no_independent_usage", "new_publisher"],
            ),
            (
                replace(EXCELLENT, delegations_completed=9, delegations_failed=10),
                ["few_delegations", "mostly_failed_delegations"],
            ),
            (
                replace(EXCELLENT, cases_passed=29, cases_total=29, usage_reporters=2),
                ["few_evaluations", "few_reporters"],
            ),
            (
                Evidence(cases_passed=90, cases_total=90, published_since=LONG_AGO),
                ["no_delegations", "no_independent_usage", "self_reported_only"],
            ),
            (
                Evidence(usage_by_publisher=5, published_since=LONG_AGO),
                [
                    "no_delegations",
                    "no_evaluations",
                    "no_independent_usage",
                    "self_reported_only",
                    "publisher_usage_not_counted",
                ],
            ),
            (
                replace(EXCELLENT, usage_over_limit=1, deprecated=True),
                ["usage_over_limit_not_counted", "deprecated"],
            ),
        ],
    )
    def test_each(self, known: Evidence, flags: list[str]) -> None:
        assert assess(known, NOW)["flags"] == flags
        assert set(flags) <= set(FLAGS)

    def test_the_page_explains_every_flag_and_weight(self) -> None:
        page = PAGE.read_text()
        assert [flag for flag in FLAGS if f"| `{flag}` |" not in page] == []
        for name, weight in WEIGHTS.items():
            assert f"| `{name}` | {weight / 100:.2f} |" in page


class TestCounting:
    @staticmethod
    def count(succeeded: int, failed: int, independent: bool = True) -> tuple[int, int]:
        return counted_to_date(
            SimpleNamespace(
                succeeded_to_date=succeeded, failed_to_date=failed, independent=independent
            )
        )

    @pytest.mark.parametrize(
        ("reported", "counted"),
        [
            ((0, 0), (0, 0)),
            ((60, 40), (60, 40)),
            ((61, 40), (60, 40)),
            ((10**6, 0), (100, 0)),
            ((10**6, 1), (99, 1)),
            ((0, 500), (0, 100)),
            ((300, 100), (75, 25)),
        ],
    )
    def test_examples(self, reported: tuple[int, int], counted: tuple[int, int]) -> None:
        assert self.count(*reported) == counted
        assert self.count(*reported, independent=False) == (0, 0)

    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 1000))
    def test_success_never_counts_against_nor_failure_for(
        self, succeeded: int, failed: int, more: int
    ) -> None:
        before = self.count(succeeded, failed)
        assert sum(before) == min(succeeded + failed, REPORTER_LIMIT)
        better, worse = self.count(succeeded + more, failed), self.count(succeeded, failed + more)
        assert better[0] >= before[0]
        assert better[1] <= before[1]
        assert worse[0] <= before[0]
        assert worse[1] >= before[1]


@pytest.fixture
def agent(acme: Api) -> Api:
    """The owner of an agent."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    return acme


def report(api: Api, outcome: str = "success", count: int = 1, **more: Any) -> dict[str, Any]:
    """Report usage and return the answer."""
    response = api.post(USAGE, {"outcome": outcome, "count": count, **more})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.get_json()
    return document


def settle(services: Services, completed: int, failed: int = 0) -> None:
    """Record settled delegations of the agent."""
    with services.database.transaction() as session:
        record_outcomes(session, {AGENT_ID: Outcome(completed, failed)})


def component(api: Api, name: str) -> dict[str, Any]:
    """Return what the agent's trust shows of one kind of evidence."""
    breakdown = api.get(f"{AGENT}/trust").get_json()["breakdown"]
    found: dict[str, Any] = next(entry for entry in breakdown if entry["name"] == name)
    return found


def test_a_new_agent_is_unrated_and_its_trust_says_why(agent: Api, anyone: Api) -> None:
    trust = anyone.get(f"{AGENT}/trust").get_json()
    assert (trust["agent_id"], trust["score"], trust["tier"]) == (AGENT_ID, 0, "unrated")
    assert "no evidence" in trust["explanation"]
    assert "no_delegations" in trust["flags"]
    assert [entry["name"] for entry in trust["breakdown"]] == list(WEIGHTS)


def test_the_agent_shows_the_score_that_its_trust_explains(
    agent: Api, globex: Api, services: Services
) -> None:
    settle(services, 50, 2)
    report(globex, count=30)
    cases = {"suite": "nightly", "metrics": {"accuracy": 1}, "cases": {"passed": 47, "total": 50}}
    agent.post(f"{AGENT}/versions/1.0.0/evals", cases)
    trust = agent.get(f"{AGENT}/trust").get_json()
    shown = {name: trust[name] for name in ("score", "tier", "badge")}
    assert trust["score"] > 60
    assert agent.get(AGENT).get_json()["trust"] == shown
    assert agent.get("/v1/agents").get_json()["data"][0]["trust"] == shown
    assert agent.get("/v1/namespaces/acme").get_json()["data"][0]["trust"] == shown
    assert component(agent, "delegations")["evidence"] == {"completed": 50, "failed": 2}


def test_the_publishers_age_is_read_from_the_database(agent: Api, globex: Api) -> None:
    report(globex, count=30)
    later = clock.now() + timedelta(days=180, seconds=1)
    with clock.frozen(lambda: later):
        assert component(agent, "publisher")["evidence"] == {"age_days": 180, "versions": 1}
        agent.put(AGENT, {"manifest": build_manifest(version="1.1.0")})
        assert component(agent, "publisher") == {
            "name": "publisher",
            "score": 70,
            "weight": 0.1,
            "evidence": {"age_days": 180, "versions": 2},
        }


def test_evidence_of_others_changes_the_tag_and_not_the_revision(
    agent: Api, globex: Api, services: Services
) -> None:
    tags = [agent.get(AGENT).headers["ETag"]]
    report(globex, "failure")
    tags.append(agent.get(AGENT).headers["ETag"])
    settle(services, 50)
    tags.append(agent.get(AGENT).headers["ETag"])
    assert tags == ['"1"', '"1.0"', '"1.41"']
    for stale in tags[:2]:
        assert agent.get(AGENT, headers={"If-None-Match": stale}).status_code == 200
    assert agent.get(AGENT, headers={"If-None-Match": tags[2]}).status_code == 304
    manifest = {"manifest": build_manifest(version="1.1.0")}
    published = agent.put(AGENT, manifest, headers={"If-Match": tags[0]})
    assert published.status_code == 200
    assert published.headers["ETag"] == agent.get(AGENT).headers["ETag"] == '"2.41"'
    assert agent.delete(AGENT, headers={"If-Match": tags[2]}).status_code == 412
    assert agent.delete(AGENT, headers={"If-Match": '"2.7"'}).status_code == 200


def test_a_report_is_shown_with_what_counts_of_it(agent: Api, globex: Api) -> None:
    first = report(globex, count=60, note="a week of invoices")
    assert (first["note"], first["count"], first["independent"]) == ("a week of invoices", 60, True)
    assert first["trust"] == agent.get(AGENT).get_json()["trust"]
    second = report(globex, "failure", 60)
    assert second["note"] is None
    assert second["to_date"] == {"succeeded": 60, "failed": 60}
    assert second["counted"] == {"succeeded": 50, "failed": 50}
    assert component(agent, "usage")["evidence"] == {
        "succeeded": 50,
        "failed": 50,
        "reporters": 1,
        "limit_per_reporter": 100,
        "not_counted_over_limit": 20,
        "not_counted_by_publisher": 0,
    }


def test_one_report_is_one_use_unless_it_says_otherwise(agent: Api, globex: Api) -> None:
    assert globex.post(USAGE, {"outcome": "success"}).get_json()["count"] == 1


def test_a_repeated_report_counts_once(agent: Api, globex: Api) -> None:
    body = {"outcome": "success", "count": 7}
    answers = [globex.post(USAGE, body, idempotency_key="monday") for _ in range(2)]
    assert answers[0].data == answers[1].data
    assert component(agent, "usage")["evidence"]["succeeded"] == 7


def test_a_publisher_cannot_raise_its_own_trust(agent: Api) -> None:
    own = report(agent, count=1000)
    assert own["independent"] is False
    assert own["counted"] == {"succeeded": 0, "failed": 0}
    assert own["trust"]["tier"] == "unrated"
    trust = agent.get(f"{AGENT}/trust").get_json()
    assert {"publisher_usage_not_counted", "self_reported_only"} <= set(trust["flags"])
    usage = component(agent, "usage")
    assert (usage["score"], usage["evidence"]["not_counted_by_publisher"]) == (0, 1000)
    assert usage["evidence"]["reporters"] == 0


def test_one_owner_counts_for_no_more_than_its_limit(
    agent: Api, caller: Callable[..., Api]
) -> None:
    for _ in range(3):
        last = report(caller("loud"), count=1000)
    once = last["trust"]["score"]
    assert last["counted"] == {"succeeded": 100, "failed": 0}
    assert component(agent, "usage")["evidence"]["not_counted_over_limit"] == 2900
    assert "usage_over_limit_not_counted" in agent.get(f"{AGENT}/trust").get_json()["flags"]
    report(caller("sober"), "failure", 100)
    assert agent.get(AGENT).get_json()["trust"]["score"] < once / 2
    assert component(agent, "usage")["evidence"]["reporters"] == 2


def test_reports_at_once_are_all_counted(
    agent: Api, caller: Callable[..., Api], services: Services
) -> None:
    reporters = [caller(name) for name in ("one", "two", "two")]

    def send(api: Api) -> None:
        for number in range(10):
            report(api, "failure" if number % 5 == 0 else "success", 9)

    threads = [threading.Thread(target=send, args=(api,)) for api in reporters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with services.database.read() as connection:
        reports = connection.execute(select(UsageReport).order_by(UsageReport.sequence)).all()
        evidence = connection.execute(select(TrustEvidence)).one()
    # The evidence can be computed again from the stored reports.
    newest = {row.reported_by: row for row in reports}
    assert len(reports) == 30
    assert sum(row.count for row in reports) == 270
    assert sorted(row.sequence for row in newest.values()) == [10, 20]
    counted = [counted_to_date(row) for row in newest.values()]
    assert evidence.usage_succeeded == sum(succeeded for succeeded, _ in counted) == 72 + 80
    assert evidence.usage_failed == sum(failed for _, failed in counted) == 18 + 20
    assert (evidence.usage_over_limit, evidence.usage_reporters) == (80, 2)


def test_who_may_report(agent: Api, anyone: Api, caller: Callable[..., Api]) -> None:
    body = {"outcome": "success"}
    assert anyone.post(USAGE, body).status_code == 401
    assert caller("looker", role="viewer").post(USAGE, body).status_code == 403
    unknown = "/v1/agents/@acme:none/trust"
    assert agent.post(f"{unknown}/usage", body).get_json()["code"] == "agent_not_found"
    assert anyone.get(unknown).get_json()["code"] == "agent_not_found"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"outcome": "fine"}, "/outcome"),
        ({"outcome": None}, "/outcome"),
        ({"outcome": 1}, "/outcome"),
        ({"count": 0}, "/count"),
        ({"count": -1}, "/count"),
        ({"count": 1001}, "/count"),
        ({"count": 1.5}, "/count"),
        ({"count": "3"}, "/count"),
        ({"count": True}, "/count"),
        ({"count": None}, "/count"),
        ({"note": ""}, "/note"),
        ({"note": "x" * 501}, "/note"),
        ({"note": 7}, "/note"),
        ({"latency_ms": 7}, "/latency_ms"),
    ],
)
def test_bad_reports(agent: Api, globex: Api, change: dict[str, Any], pointer: str) -> None:
    response = globex.post(USAGE, {"outcome": "success"} | change)
    assert response.status_code == 422, response.text
    assert pointer in [entry["pointer"] for entry in response.get_json()["errors"]]
    assert agent.get(AGENT).get_json()["trust"]["tier"] == "unrated"


def test_a_report_without_an_outcome(agent: Api, globex: Api) -> None:
    response = globex.post(USAGE, {"count": 3})
    assert response.get_json()["errors"][0]["pointer"] == "/outcome"
