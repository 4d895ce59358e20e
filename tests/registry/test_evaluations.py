"""Evaluations of versions, what summaries show of them, and the trust they support."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"
EVALS = f"{AGENT}/versions/1.0.0/evals"


@pytest.fixture
def agent(acme: Api) -> Api:
    """The owner of an agent with versions 1.0.0 and 1.1.0."""
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest()})
    acme.put(AGENT, {"manifest": build_manifest(version="1.1.0")})
    return acme


def evaluate(api: Api, version: str, metrics: dict[str, float], **more: Any) -> dict[str, Any]:
    """Store an evaluation and return its document."""
    response = api.post(
        f"{AGENT}/versions/{version}/evals", {"suite": "nightly", "metrics": metrics, **more}
    )
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.get_json()
    return document


def test_a_version_without_evaluations_is_pending(agent: Api) -> None:
    assert agent.get(f"{AGENT}/versions/1.0.0").get_json()["eval_summary"] == {"status": "pending"}


def test_the_last_one_stored_is_shown_everywhere(agent: Api) -> None:
    evaluate(agent, "1.1.0", {"accuracy": 0.5})
    last = evaluate(
        agent,
        "1.1.0",
        {"accuracy": 0.9, "p95_ms": 812.5},
        cases={"passed": 9, "total": 10},
        evaluated_at="2026-01-02T03:04:05+01:00",
    )
    summary = {
        "status": "evaluated",
        "evaluation_id": last["id"],
        "evaluations": 2,
        "suite": "nightly",
        "evaluated_at": "2026-01-02T02:04:05.000000Z",
        "cases": {"passed": 9, "total": 10},
        "metrics": {"accuracy": 0.9, "p95_ms": 812.5},
    }
    assert agent.get(f"{AGENT}/versions/1.1.0").get_json()["eval_summary"] == summary
    assert agent.get(AGENT).get_json()["eval_summary"] == summary
    listed = agent.get(f"{AGENT}/versions").get_json()["versions"]
    assert [row["eval_summary"]["status"] for row in listed] == ["pending", "evaluated"]


def test_compare_puts_metrics_side_by_side(agent: Api) -> None:
    evaluate(agent, "1.0.0", {"accuracy": 0.7, "old": 1})
    evaluate(agent, "1.1.0", {"accuracy": 0.9, "new": 1})
    document = agent.get(f"{AGENT}/compare/1.0.0/1.1.0").get_json()
    assert document["eval_base"]["metrics"] == {"accuracy": 0.7, "old": 1}
    assert document["eval_target"]["metrics"] == {"accuracy": 0.9, "new": 1}
    assert document["eval_delta"] == {"accuracy": 0.2}
    diff = agent.get(f"{AGENT}/versions/1.0.0/behavioral-diff/1.1.0").get_json()["diff"]
    assert document["behavioral_diff"] == diff


def test_compare_without_evaluations_has_no_delta(agent: Api) -> None:
    document = agent.get(f"{AGENT}/compare/1.0.0/1.1.0").get_json()
    assert (document["eval_base"], document["eval_delta"]) == ({"status": "pending"}, {})


def test_lists_newest_first_in_pages(agent: Api) -> None:
    stored = [evaluate(agent, "1.0.0", {"run": number})["id"] for number in range(5)]
    seen, path = [], f"{EVALS}?limit=2"
    while path:
        response = agent.get(path)
        seen += [row["id"] for row in response.get_json()["evaluations"]]
        path = response.headers.get("Link", "<>").split(">")[0][1:]
    assert seen == stored[::-1]


def test_only_the_owner_stores_them(agent: Api, globex: Api) -> None:
    body = {"suite": "nightly", "metrics": {"accuracy": 1}}
    assert globex.post(EVALS, body).get_json()["code"] == "not_owner"
    assert agent.post(f"{AGENT}/versions/3.0.0/evals", body).status_code == 404
    assert agent.post("/v1/agents/@acme:none/versions/1.0.0/evals", body).status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"suite": ""}, "/suite"),
        ({"suite": "two\nlines"}, "/suite"),
        ({"metrics": {}}, "/metrics"),
        ({"metrics": {"accuracy": "0.9"}}, "/metrics/accuracy"),
        ({"metrics": {"accuracy": True}}, "/metrics/accuracy"),
        ({"metrics": {"accuracy": 1e308}}, "/metrics/accuracy"),
        ({"metrics": {"not a name": 1}}, "/metrics/not a name"),
        ({"metrics": {f"m{i}": i for i in range(65)}}, "/metrics"),
        ({"cases": {"passed": 2, "total": 1}}, "/cases/passed"),
        ({"cases": {"passed": "1", "total": 1}}, "/cases/passed"),
        ({"cases": {"passed": -1, "total": 1}}, "/cases/passed"),
        ({"cases": {"passed": 1}}, "/cases/total"),
        ({"evaluated_at": "2026-01-02T03:04:05"}, "/evaluated_at"),
        ({"evaluated_at": "0001-01-01T00:00:00+14:00"}, "/evaluated_at"),
        ({"evaluated_at": "2999-01-01T00:00:00Z"}, "/evaluated_at"),
        ({"score": 1}, "/score"),
    ],
)
def test_bad_evaluations(agent: Api, change: dict[str, Any], pointer: str) -> None:
    response = agent.post(EVALS, {"suite": "nightly", "metrics": {"accuracy": 0.9}} | change)
    assert response.status_code == 422, response.text
    assert pointer in [entry["pointer"] for entry in response.get_json()["errors"]]


def test_an_agents_trust_counts_the_cases_of_all_its_versions(agent: Api) -> None:
    for version in ("1.0.0", "1.1.0"):
        evaluate(agent, version, {"accuracy": 1}, cases={"passed": 5, "total": 6})
    (component,) = [
        entry
        for entry in agent.get(f"{AGENT}/trust").get_json()["breakdown"]
        if entry["name"] == "evaluations"
    ]
    assert component["evidence"] == {"passed": 10, "failed": 2}
