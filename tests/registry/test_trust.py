"""Trust: how it is computed, what it is shown with, and what cannot raise it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app import clock
from app.access.models import Owner
from app.http.context import Services
from app.registry.models import TrustEvidence, UsageReport
from app.registry.service import Outcome, record_outcome
from app.registry.trust import (
    FLAGS,
    LIMITS,
    LOW,
    MEDIUM,
    OWNER_FAILURE_LIMIT,
    OWNER_LIMIT,
    WEIGHTS,
    Counterparty,
    Evidence,
    assess,
    contribution,
    rate,
)
from tests.client import Api
from tests.registry.attackers import (
    NOW,
    USD,
    best_bought,
    bought,
    customer,
    honest,
    slandered,
)
from tests.registry.attackers import (
    evidence as evidence_from,
)
from tests.registry.manifests import build_manifest

AGENT_ID = "@acme:invoice-summarizer"
AGENT = f"/v1/agents/{AGENT_ID}"
USAGE = f"{AGENT}/trust/usage"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"

LONG_AGO = int((NOW - timedelta(days=1000)).timestamp())
EXCELLENT = Evidence(
    delegations_completed=1000,
    completed_milli=100_000,
    say_milli=10_000,
    paying_owners=10,
    own_micros=10**9,
    cases_passed=1000,
    cases_total=1000,
    usage_succeeded=100,
    usage_reporters=10,
    usage_payers=10,
    usage_good_milli=100_000,
    published_since=LONG_AGO,
    versions=10,
)
UNRATED = {"score": 0, "tier": "unrated", "badge": "none"}
COUNTERS = [field.name for field in fields(Evidence) if field.type == "int"]


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    """Any evidence that can be stored."""
    count = st.one_of(st.integers(0, 50), st.integers(0, 10**9))
    found = {name: draw(count) for name in COUNTERS}
    found["cases_total"] += found["cases_passed"]
    found["published_since"] = int(NOW.timestamp()) - draw(st.integers(-(10**5), 10**8))
    return Evidence(**found, deprecated=draw(st.booleans()))


@st.composite
def parties(draw: st.DrawFn) -> Counterparty:
    """Any dealings that an owner can have with an agent."""
    count = st.one_of(st.integers(0, 12), st.integers(0, 10**6))
    return customer(
        draw(st.one_of(st.just(0), st.integers(1, 20 * USD))),
        draw(st.integers(0, 60)),
        *(draw(count) for _ in range(4)),
    )


class TestScore:
    def test_without_anybody_who_paid_it_is_unrated(self) -> None:
        unknown = Evidence(
            published_since=LONG_AGO,
            versions=50,
            usage_by_publisher=500,
            usage_succeeded=500,
            usage_unpaid=500,
            delegations_completed=70,
            delegations_unpaid=70,
            cases_passed=10**9,
            cases_total=10**9,
        )
        assert rate(unknown, NOW) == UNRATED
        assert "no evidence" in assess(unknown, NOW)["explanation"]
        assert "1000 reported outcomes" in assess(unknown, NOW)["explanation"]

    @pytest.mark.parametrize(
        ("known", "score", "tier", "badge"),
        [
            (EXCELLENT, 96, "high", "gold"),
            # What only a publisher says and is never makes more than a low tier.
            (replace(EXCELLENT, completed_milli=0, usage_good_milli=1), 19, "low", "bronze"),
            (replace(EXCELLENT, cases_passed=0, cases_total=0), 91, "high", "gold"),
            (replace(EXCELLENT, failed_milli=100_000), 59, "medium", "silver"),
            (replace(EXCELLENT, completed_milli=0, failed_milli=100_000), 29, "low", "bronze"),
            (replace(EXCELLENT, say_milli=4999), 79, "medium", "silver"),
            (replace(EXCELLENT, say_milli=1999), 49, "low", "bronze"),
        ],
    )
    def test_examples(self, known: Evidence, score: int, tier: str, badge: str) -> None:
        assert rate(known, NOW) == {"score": score, "tier": tier, "badge": badge}

    @pytest.mark.parametrize(
        ("days", "tier"), [(0, "low"), (29, "low"), (30, "medium"), (89, "medium"), (90, "high")]
    )
    def test_a_new_publisher_cannot_reach_the_upper_tiers(self, days: int, tier: str) -> None:
        since = int((NOW - timedelta(days=days)).timestamp())
        assert rate(replace(EXCELLENT, published_since=since), NOW)["tier"] == tier

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
    def test_the_score_is_the_weighted_sum_within_the_limits_shown(self, known: Evidence) -> None:
        trust = assess(known, NOW)
        shown = {entry["name"]: entry for entry in trust["breakdown"]}
        assert sum(WEIGHTS.values()) == 100
        assert {name: entry["weight"] * 100 for name, entry in shown.items()} == pytest.approx(
            WEIGHTS
        )
        total = sum(WEIGHTS[name] * entry["score"] for name, entry in shown.items()) // 100
        total = min([total, *(limit["score_at_most"] for limit in trust["limits"])])
        assert trust["score"] == (0 if trust["tier"] == "unrated" else total)
        assert 0 <= trust["score"] <= 100
        assert all(0 <= entry["score"] <= 100 for entry in shown.values())
        assert {limit["reason"] for limit in trust["limits"]} <= set(trust["flags"]) & set(LIMITS)
        assert assess(known, NOW) == trust
        assert {name: trust[name] for name in ("score", "tier", "badge")} == rate(known, NOW)  # type: ignore[literal-required]

    @given(evidence())
    def test_no_component_is_above_what_its_evidence_shows(self, known: Evidence) -> None:
        scores = {entry["name"]: entry["score"] for entry in assess(known, NOW)["breakdown"]}
        for name, good, total in (
            ("delegations", known.completed_milli, known.delegations_milli),
            ("evaluations", known.cases_passed, known.cases_total),
            ("usage", known.usage_good_milli, known.usage_milli),
        ):
            assert scores[name] * total <= 100 * good

    @given(evidence(), st.integers(1, 10**6))
    def test_success_never_lowers_it_and_failure_never_raises_it(
        self, known: Evidence, more: int
    ) -> None:
        score = rate(known, NOW)["score"]
        for better in (
            replace(known, completed_milli=known.completed_milli + more),
            replace(known, usage_good_milli=known.usage_good_milli + more),
            replace(
                known, cases_passed=known.cases_passed + more, cases_total=known.cases_total + more
            ),
            replace(known, say_milli=known.say_milli + more),
            replace(known, published_since=known.published_since - more),
            replace(known, versions=known.versions + more),
        ):
            assert rate(better, NOW)["score"] >= score
        if rate(known, NOW)["tier"] != "unrated":
            for worse in (
                replace(known, failed_milli=known.failed_milli + more),
                replace(known, usage_bad_milli=known.usage_bad_milli + more),
                replace(known, cases_total=known.cases_total + more),
            ):
                assert rate(worse, NOW)["score"] <= score

    @given(evidence(), st.integers(2, 50))
    def test_more_of_the_same_evidence_never_lowers_it(self, known: Evidence, times: int) -> None:
        counted = [name for name in COUNTERS if name not in ("published_since", "versions")]
        more = replace(known, **{name: getattr(known, name) * times for name in counted})
        assert rate(more, NOW)["score"] >= rate(known, NOW)["score"]


class TestOneOwner:
    """What a single owner can contribute, whatever it does."""

    @pytest.mark.parametrize(
        ("usd", "days", "say"),
        [
            (0, 900, 0),
            (10, 0, 250),
            (10, 15, 625),
            (10, 29, 975),
            (10, 30, 1000),
            (10_000, 900, 1000),
            (5, 30, 500),
            (0.01, 30, 1),
            (0.009, 30, 0),
            (0.01, 0, 0),
        ],
    )
    def test_its_say(self, usd: float, days: int, say: int) -> None:
        assert customer(round(usd * USD), days).say == say

    @pytest.mark.parametrize(
        ("outcomes", "counted"),
        [
            ((0, 0), (0, 0)),
            ((1, 0), (1000, 0)),
            ((3, 2), (3000, 2000)),
            ((10, 0), (10_000, 0)),
            ((10**6, 0), (10_000, 0)),
            ((300, 100), (7500, 2500)),
            ((10**6, 1), (9999, 1)),
            ((0, 500), (0, 5000)),
            ((20, 80), (2000, 5000)),
        ],
    )
    def test_examples(self, outcomes: tuple[int, int], counted: tuple[int, int]) -> None:
        found = contribution(customer(10 * USD, 30, *outcomes))
        assert (found.completed_milli, found.failed_milli) == counted
        quarter = contribution(customer(10 * USD, 0, 10**6, 10**6))
        assert (quarter.completed_milli, quarter.failed_milli) == (1250, 1250)
        silent = contribution(customer(0, 30, *outcomes))
        assert (silent.completed_milli, silent.failed_milli) == (0, 0)
        assert silent.delegations_unpaid == sum(outcomes)

    @given(parties())
    def test_its_limits(self, party: Counterparty) -> None:
        found = contribution(party)
        assert 0 <= found.say_milli == party.say <= 1000
        for good, bad, total in (
            (found.completed_milli, found.failed_milli, party.completed + party.failed),
            (
                found.usage_good_milli,
                found.usage_bad_milli,
                party.usage_succeeded + party.usage_failed,
            ),
        ):
            assert 0 <= good + bad <= min(1000 * total, OWNER_LIMIT * party.say)
            assert 0 <= bad <= OWNER_FAILURE_LIMIT * party.say
        reported = party.usage_succeeded + party.usage_failed
        counted = (found.usage_good_milli + found.usage_bad_milli) // 1000
        assert counted + found.usage_over_limit + found.usage_unpaid == reported

    @given(parties(), st.integers(1, 1000))
    def test_success_never_counts_against_nor_failure_for(
        self, party: Counterparty, more: int
    ) -> None:
        before = contribution(party)
        better = contribution(replace(party, completed=party.completed + more))
        worse = contribution(replace(party, failed=party.failed + more))
        assert better.completed_milli >= before.completed_milli
        assert better.failed_milli <= before.failed_milli
        assert worse.completed_milli <= before.completed_milli
        assert worse.failed_milli >= before.failed_milli


def rows_below(title: str) -> Iterator[list[str]]:
    """Yield the cells of the table that follows a heading of the page."""
    section = PAGE.read_text().partition(f"\n{title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 3, title
    for line in lines[2:]:
        yield [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]


class TestBudgets:
    """What attackers pay, and what honest agents reach: the tables of the page, computed."""

    def test_what_a_score_costs(self) -> None:
        table = list(rows_below("## What a score costs an attacker"))
        assert len(table) >= 12
        for keys, usd, days, score, tier in table:
            rating = best_bought(int(keys), float(usd), int(days))
            assert (rating["score"], rating["tier"]) == (int(score), tier), (keys, usd, days)

    def test_what_slander_costs(self) -> None:
        table = list(rows_below("## What slander costs an attacker"))
        for victims, keys, usd, days, score in table:
            rating = slandered(int(victims), int(keys), float(usd), int(days))
            assert rating["score"] == int(score), (victims, keys, usd, days)
        assert {int(row[1]) for row in table} >= {0, 1, 5, 10, 100}

    def test_what_honest_work_reaches(self) -> None:
        table = list(rows_below("## What honest work reaches"))
        for customers, usd, days, percent, told, score, tier in table:
            known = honest(
                int(customers),
                float(usd),
                int(days),
                percent=int(percent),
                self_praise=told == "yes",
            )
            rating = rate(known, NOW)
            assert (rating["score"], rating["tier"]) == (int(score), tier), (customers, usd, days)
        assert "high" in {row[-1] for row in table}

    @given(st.lists(st.integers(0, 12 * USD), min_size=1, max_size=8), st.integers(0, 200))
    def test_no_way_to_share_the_money_is_better(self, shares: list[int], days: int) -> None:
        best = best_bought(len(shares) + 1, sum(shares) / USD, days)
        assert bought(shares, days)["score"] <= best["score"] + 1

    @given(st.integers(0, 8), parties())
    def test_one_stranger_moves_little(self, spare: int, stranger: Counterparty) -> None:
        content = [customer(10 * USD, 180, 200, 0, 200, 0) for _ in range(6 + spare)]
        alone = rate(evidence_from(content, 180, cases=(50, 50)), NOW)["score"]
        together = rate(evidence_from([*content, stranger], 180, cases=(50, 50)), NOW)["score"]
        assert alone - together <= 8
        if stranger.say == 0:
            assert alone == together

    def test_without_money_nothing_is_bought(self) -> None:
        for keys in (2, 10, 1000):
            assert best_bought(keys, 0, 3650) == UNRATED

    @pytest.mark.parametrize(
        ("keys", "usd", "days", "most"),
        [
            (2, 10**6, 3650, LOW),
            (5, 10**6, 3650, MEDIUM),
            (500, 10**6, 29, LOW),
            (500, 10**6, 89, MEDIUM),
        ],
    )
    def test_what_money_alone_cannot_buy(self, keys: int, usd: float, days: int, most: int) -> None:
        assert best_bought(keys, usd, days)["score"] <= most


class TestFlags:
    @pytest.mark.parametrize(
        ("known", "flags"),
        [
            (EXCELLENT, ["self_reported_evaluations"]),
            (
                Evidence(published_since=int(NOW.timestamp())),
                [
                    *("no_delegations", "no_evaluations", "no_independent_usage"),
                    *("new_publisher", "few_paying_owners"),
                ],
            ),
            (
                replace(EXCELLENT, completed_milli=9000, failed_milli=10_000),
                ["few_delegations", "mostly_failed_delegations", "self_reported_evaluations"],
            ),
            (
                replace(EXCELLENT, cases_passed=29, cases_total=29, usage_payers=2),
                ["few_evaluations", "few_reporters", "self_reported_evaluations"],
            ),
            (
                Evidence(cases_passed=90, cases_total=90, published_since=LONG_AGO),
                [
                    *("no_delegations", "no_independent_usage", "self_reported_only"),
                    *("self_reported_evaluations", "few_paying_owners"),
                ],
            ),
            (
                replace(
                    EXCELLENT,
                    cases_passed=0,
                    cases_total=0,
                    usage_by_publisher=5,
                    delegations_unpaid=1,
                    usage_unpaid=1,
                ),
                [
                    "no_evaluations",
                    "publisher_usage_not_counted",
                    "unpaid_delegations_not_counted",
                    "unpaid_usage_not_counted",
                ],
            ),
            (
                replace(EXCELLENT, usage_over_limit=1, deprecated=True),
                ["self_reported_evaluations", "usage_over_limit_not_counted", "deprecated"],
            ),
            (
                replace(EXCELLENT, published_since=int((NOW - timedelta(days=31)).timestamp())),
                ["self_reported_evaluations", "young_publisher"],
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


def settle(
    services: Services, owner: str, completed: int, failed: int = 0, usd: float = 1, days: int = 30
) -> None:
    """Record settled delegations of an owner to the agent, the last of them ``days`` later.

    Each that was completed was paid with ``usd`` of the owner's own.
    """
    with services.database.transaction() as session:
        owner_id = session.scalars(select(Owner.id).where(Owner.name == owner)).one()
        for number in range(completed + failed):
            good = number < completed
            at = NOW + timedelta(days=days if number else 0)
            paid = round(usd * USD) if good else 0
            record_outcome(session, Outcome(AGENT_ID, owner_id, good, paid, at))


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
    agent: Api, caller: Callable[..., Api], services: Services
) -> None:
    for number in range(6):
        buyer = caller(f"buyer-{number}")
        settle(services, f"buyer-{number}", 50, 2)
        report(buyer, count=30)
    cases = {"suite": "nightly", "metrics": {"accuracy": 1}, "cases": {"passed": 47, "total": 50}}
    agent.post(f"{AGENT}/versions/1.0.0/evals", cases)
    later = clock.now() + timedelta(days=180)
    with clock.frozen(lambda: later):
        trust = agent.get(f"{AGENT}/trust").get_json()
        shown = {name: trust[name] for name in ("score", "tier", "badge")}
        assert trust["tier"] == "high"
        assert agent.get(AGENT).get_json()["trust"] == shown
        assert agent.get("/v1/agents").get_json()["data"][0]["trust"] == shown
        assert agent.get("/v1/namespaces/acme").get_json()["data"][0]["trust"] == shown
        assert component(agent, "delegations")["evidence"] == {
            "completed": 300,
            "failed": 12,
            "counted_completed": 57,
            "counted_failed": 2,
            "paying_owners": 6,
            "full_says_thousandths": 6000,
            "limit_per_owner": 10,
            "not_counted_unpaid": 0,
        }


def test_the_publishers_age_is_read_from_the_database(agent: Api) -> None:
    later = clock.now() + timedelta(days=180, seconds=1)
    with clock.frozen(lambda: later):
        assert component(agent, "publisher")["evidence"] == {"age_days": 180, "versions": 1}
        agent.put(AGENT, {"manifest": build_manifest(version="1.1.0")})
        assert component(agent, "publisher") == {
            "name": "publisher",
            "score": 70,
            "weight": 0.15,
            "evidence": {"age_days": 180, "versions": 2},
        }


def test_evidence_of_others_changes_the_tag_and_not_the_revision(
    agent: Api, globex: Api, services: Services
) -> None:
    tags = [agent.get(AGENT).headers["ETag"]]
    settle(services, "globex", 0, 1)
    settle(services, "globex", 1)
    tags.append(agent.get(AGENT).headers["ETag"])
    settle(services, "globex", 50)
    tags.append(agent.get(AGENT).headers["ETag"])
    assert tags == ['"1"', '"1.0"', '"1.48"']
    for stale in tags[:2]:
        assert agent.get(AGENT, headers={"If-None-Match": stale}).status_code == 200
    assert agent.get(AGENT, headers={"If-None-Match": tags[2]}).status_code == 304
    later = clock.now() + timedelta(days=180)
    with clock.frozen(lambda: later):
        # Time alone changes the score, and the tag with it.
        assert agent.get(AGENT).headers["ETag"] == '"1.49"'
        assert agent.get(AGENT, headers={"If-None-Match": tags[2]}).status_code == 200
    manifest = {"manifest": build_manifest(version="1.1.0")}
    published = agent.put(AGENT, manifest, headers={"If-Match": tags[0]})
    assert published.status_code == 200
    assert published.headers["ETag"] == agent.get(AGENT).headers["ETag"] == '"2.48"'
    assert agent.delete(AGENT, headers={"If-Match": tags[2]}).status_code == 412
    assert agent.delete(AGENT, headers={"If-Match": '"2.7"'}).status_code == 200


def test_a_report_is_shown_with_what_counts_of_it(
    agent: Api, globex: Api, services: Services
) -> None:
    first = report(globex, count=60, note="a week of invoices")
    assert (first["note"], first["count"], first["independent"]) == ("a week of invoices", 60, True)
    assert first["counted"] == {"succeeded": 0, "failed": 0}
    assert first["trust"] == agent.get(AGENT).get_json()["trust"]
    settle(services, "globex", 10)
    second = report(globex, "failure", 60)
    assert second["note"] is None
    assert second["to_date"] == {"succeeded": 60, "failed": 60}
    assert second["counted"] == {"succeeded": 5, "failed": 5}
    assert component(agent, "usage")["evidence"] == {
        "succeeded": 5,
        "failed": 5,
        "reporters": 1,
        "paying_reporters": 1,
        "limit_per_reporter": 10,
        "not_counted_over_limit": 110,
        "not_counted_unpaid": 0,
        "not_counted_by_publisher": 0,
    }


def test_one_report_is_one_use_unless_it_says_otherwise(agent: Api, globex: Api) -> None:
    assert globex.post(USAGE, {"outcome": "success"}).get_json()["count"] == 1


def test_a_repeated_report_counts_once(agent: Api, globex: Api) -> None:
    body = {"outcome": "success", "count": 7}
    answers = [globex.post(USAGE, body, idempotency_key="monday") for _ in range(2)]
    assert answers[0].data == answers[1].data
    assert component(agent, "usage")["evidence"]["not_counted_unpaid"] == 7


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
    agent: Api, caller: Callable[..., Api], services: Services
) -> None:
    loud, sober = caller("loud"), caller("sober")
    for name in ("loud", "sober"):
        settle(services, name, 10)
    for _ in range(3):
        last = report(loud, count=1000)
    assert last["counted"] == {"succeeded": 10, "failed": 0}
    assert component(agent, "usage")["evidence"]["not_counted_over_limit"] == 2990
    assert "usage_over_limit_not_counted" in agent.get(f"{AGENT}/trust").get_json()["flags"]
    once = component(agent, "usage")["score"]
    report(sober, "failure", 100)
    assert component(agent, "usage")["score"] < once
    assert component(agent, "usage")["evidence"]["reporters"] == 2


def test_reports_and_outcomes_at_once_are_all_counted(
    agent: Api, caller: Callable[..., Api], services: Services
) -> None:
    reporters = [caller(name) for name in ("one", "two", "two")]

    def send(api: Api) -> None:
        for number in range(10):
            report(api, "failure" if number % 5 == 0 else "success", 9)

    def work(owner: str) -> None:
        for _ in range(10):
            settle(services, owner, 1)

    threads = [threading.Thread(target=send, args=(api,)) for api in reporters]
    threads += [threading.Thread(target=work, args=(owner,)) for owner in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with services.database.read() as connection:
        reports = connection.execute(select(UsageReport).order_by(UsageReport.sequence)).all()
        evidence = connection.execute(select(TrustEvidence)).one()
    newest = {row.reported_by: row for row in reports}
    assert len(reports) == 30
    assert sum(row.count for row in reports) == 270
    assert sorted(row.sequence for row in newest.values()) == [10, 20]
    assert (evidence.delegations_completed, evidence.own_micros) == (20, 20 * USD)
    assert (evidence.usage_succeeded, evidence.usage_failed) == (72 + 144, 18 + 36)
    assert (evidence.usage_reporters, evidence.usage_payers) == (2, 2)
    # Each paid ten dollars, all on one day, and so has a quarter of its full say.
    assert evidence.say_milli == 500
    assert (evidence.usage_good_milli, evidence.usage_bad_milli) == (4000, 1000)
    assert evidence.usage_over_limit == 270 - 2 * 2


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
