"""The registry's answers: rows into the documents clients read."""

from __future__ import annotations

from typing import Any

import orjson

from app import clock
from app.registry.diff import behavioral_diff
from app.registry.trust import (
    Counterparty,
    Evidence,
    Rating,
    assess,
    counted_usage,
    evidence_of,
    rate,
)

PENDING = {"status": "pending"}


def _summary(text: str | None) -> Any:
    return orjson.Fragment(text) if text else PENDING


def _evidence(row: Any) -> Evidence:
    return evidence_of(row, row.versions.count(",") + 1)


def agent_document(row: Any) -> dict[str, Any]:
    """Return an agent with its latest version's manifest."""
    placed = (entry.split(":") for entry in row.versions.split(","))
    lineage = None
    if row.forked_from_agent_id is not None:
        lineage = {
            "agent_id": row.forked_from_agent_id,
            "version": row.forked_from_version,
            "digest": row.forked_from_digest,
        }
    return {
        "id": row.id,
        "namespace": row.namespace,
        "slug": row.slug,
        "status": row.status,
        "latest_version": row.latest_version,
        "manifest": orjson.Fragment(row.manifest),
        "eval_summary": _summary(row.summary),
        "trust": agent_rating(row),
        "versions": [version for _, version in sorted((int(at), v) for at, v in placed)],
        "forked_from": lineage,
        "created_at": clock.isoformat(row.created_at),
        "updated_at": clock.isoformat(row.updated_at),
    }


def agent_tag(row: Any, document: dict[str, Any]) -> str:
    """Return the entity tag of an agent's document: its revision and, once rated, its score.

    Evidence that others add changes the score and not the revision, which ``If-Match`` compares.
    """
    trust = document["trust"]
    return str(row.revision) if trust["tier"] == "unrated" else f"{row.revision}.{trust['score']}"


def agent_rating(row: Any) -> Rating:
    """Return the trust in an agent as its document shows it."""
    return rate(_evidence(row), clock.now())


def trust_document(row: Any) -> dict[str, Any]:
    """Return an agent's trust with its evidence."""
    return {"agent_id": row.id, **assess(_evidence(row), clock.now())}


def usage_document(report: Any, dealings: Counterparty, rating: Rating) -> dict[str, Any]:
    """Return a stored report of usage, what counts of its reporter's, and the trust it leaves."""
    succeeded, failed = counted_usage(dealings)
    return {
        "id": report.id,
        "agent_id": report.agent_id,
        "outcome": report.outcome,
        "count": report.count,
        "note": report.note,
        "reported_at": clock.isoformat(report.reported_at),
        "independent": report.independent,
        "to_date": {"succeeded": report.succeeded_to_date, "failed": report.failed_to_date},
        "counted": {"succeeded": succeeded, "failed": failed},
        "trust": rating,
    }


def version_entry(row: Any) -> dict[str, Any]:
    """Return a version as an entry of an agent's list of versions."""
    impact = row.impact_from_previous
    return {
        "version": row.version,
        "published": True,
        "published_at": clock.isoformat(row.published_at),
        "digest": row.digest,
        "eval_summary": _summary(row.summary),
        "behavioral_impact_from_previous": orjson.Fragment(impact) if impact else None,
    }


def version_document(agent_id: str, row: Any) -> dict[str, Any]:
    """Return one version with its manifest and digest."""
    return {
        "agent_id": agent_id,
        "version": row.version,
        "manifest": orjson.Fragment(row.manifest),
        "eval_summary": _summary(row.summary),
        "digest": row.digest,
    }


def version_tag(row: Any) -> str:
    """Return the entity tag of a version: its digest, and how often it was evaluated."""
    return f"{row.digest.removeprefix('sha256:')[:32]}-{row.evaluations or 0}"


def diff_document(agent_id: str, base: Any, target: Any) -> dict[str, Any]:
    """Return what changes in behaviour from one version to another."""
    return {
        "agent_id": agent_id,
        "base_version": base.version,
        "target_version": target.version,
        "diff": behavioral_diff(orjson.loads(base.manifest), orjson.loads(target.manifest)),
    }


def comparison_document(agent_id: str, base: Any, target: Any) -> dict[str, Any]:
    """Return two versions' behavioural difference beside their evaluations.

    ``eval_delta`` holds target minus base for every metric that both summaries have.
    """
    document = diff_document(agent_id, base, target)
    document["behavioral_diff"] = document.pop("diff")
    before = orjson.loads(base.summary)["metrics"] if base.summary else {}
    after = orjson.loads(target.summary)["metrics"] if target.summary else {}
    return document | {
        "eval_base": _summary(base.summary),
        "eval_target": _summary(target.summary),
        "eval_delta": {
            name: round(after[name] - before[name], 6) for name in sorted(before.keys() & after)
        },
    }


def capability_entries(manifest: str) -> list[dict[str, Any]]:
    """Return the capabilities that a manifest (JSON text) declares."""
    return [
        {
            "capability_id": capability["id"],
            "capability_name": capability["name"],
            "description": capability["description"],
            "protocols": capability["protocols"],
            "permissions": capability.get("permissions", []),
            "input_schema": capability["input_schema"],
            "output_schema": capability["output_schema"],
        }
        for capability in orjson.loads(manifest)["capabilities"]
    ]


def evaluation_document(row: Any) -> dict[str, Any]:
    """Return one stored evaluation."""
    return {
        "id": row.id,
        "agent_id": row.agent_id,
        "version": row.version,
        "suite": row.suite,
        "metrics": orjson.Fragment(row.metrics),
        "cases": {"passed": row.cases_passed, "total": row.cases_total},
        "evaluated_at": clock.isoformat(row.evaluated_at),
        "recorded_at": clock.isoformat(row.recorded_at),
    }
