"""Agents: the list, one of them, and what changes between two of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from flask import request
from sqlalchemy import Connection

from app import clock
from app.access.service import find_owner_names
from app.delegation.acceptance import find_rules
from app.delegation.documents import effective, rules_document
from app.delegation.lifecycle import DELEGATE, REQUESTER
from app.delegation.queries import list_delegations
from app.http.pagination import MAX_PAGE_BYTES, encode_cursor, fitting
from app.ledger.queries import find_balances, list_entries
from app.ledger.service import agent_account
from app.operator.accounts import linked, sides
from app.operator.paging import PAGE_SIZE, Pager, cursor
from app.operator.text import words
from app.operator.web import Visitor, page, render
from app.registry import documents, queries
from app.registry.manifest_format import whole
from app.registry.queries import find_parties
from app.registry.service import ACTIVE, DEPRECATED

MAX_WORDS = 5
SHOWN_VERSIONS, SHOWN_ROWS = 20, 8


def search_words(text: str) -> list[str]:
    """Return the words that a search asks for."""
    return text.split()[:MAX_WORDS]


def entry(row: Any) -> dict[str, Any]:
    """Return an agent as a line of a list."""
    document = documents.agent_document(row)
    manifest = orjson.loads(row.manifest)
    return document | {
        "name": manifest["identity"]["name"],
        "description": manifest["identity"]["description"],
        "type": manifest["identity"]["type"],
        "tags": manifest["identity"].get("tags") or [],
        "capabilities": len(manifest["capabilities"]),
    }


def _lines(connection: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return agents as a list shows them: with who publishes them, since when, and their use."""
    owners = queries.find_namespace_owners(connection, {row.namespace for row in rows})
    names = find_owner_names(connection, set(owners.values()))
    latest = [(row.id, row.latest_version) for row in rows]
    published = queries.find_publications(connection, latest) if latest else {}
    return [
        entry(row)
        | {
            "owner": names.get(owners[row.namespace], owners[row.namespace]),
            "published_at": published[row.id],
            "completed": row.delegations_completed or 0,
        }
        for row in rows
    ]


@page("/agents")
def agents(connection: Connection, visitor: Visitor) -> str:
    """List agents by id: all of them, or those whose id has every word that is searched for."""
    text = request.args.get("q", "").strip()
    status = request.args.get("status")
    status = status if status in (ACTIVE, DEPRECATED) else None
    rows = queries.search_agents(
        connection,
        search_words(text),
        status=status,
        owner_id=visitor.principal.owner_id if request.args.get("mine") else None,
        after=cursor(r"[!-~]+") or "",
        limit=PAGE_SIZE + 1,
        max_bytes=MAX_PAGE_BYTES,
    )
    shown = fitting(rows, PAGE_SIZE)
    return render(
        "agents.html",
        title="Agents",
        area="agents",
        text=text,
        status=status,
        mine=bool(request.args.get("mine")),
        total=queries.count_agents(connection),
        pager=Pager.of(rows, lambda row: encode_cursor(row.id), shown),
        agents=_lines(connection, rows[:shown]),
    )


@page("/agents/<agent_id>")
def agent(connection: Connection, visitor: Visitor, agent_id: str) -> str:
    """Show one agent: what it declares, what it did, how far it can be trusted, what it has."""
    row = queries.find_agent(connection, agent_id)
    owner_id = queries.find_owner(connection, agent_id)
    sees_money = visitor.is_admin or owner_id == visitor.principal.owner_id
    account_id = agent_account(agent_id)
    balances = find_balances(connection, [account_id]) if sees_money else {}
    versions = queries.newest_versions(connection, agent_id, limit=SHOWN_VERSIONS + 1)
    entries = (
        list_entries(connection, account_id, limit=SHOWN_ROWS, before=None) if sees_money else []
    )
    now = clock.now()

    def work(role: str) -> list[Any]:
        rows = list_delegations(
            connection,
            owner_id=visitor.owner_scope,
            agent_id=agent_id,
            role=role,
            limit=SHOWN_ROWS,
            brief=True,
        )
        return [effective(one, now) for one in rows]

    return render(
        "agent.html",
        title=agent_id,
        area="agents",
        agent=entry(row),
        owner=find_owner_names(connection, [owner_id]).get(owner_id, owner_id),
        manifest=whole(orjson.loads(row.manifest)),
        manifest_text=row.manifest,
        trust=documents.trust_document(row),
        versions=[_version(one) for one in versions[:SHOWN_VERSIONS]],
        has_more_versions=len(versions) > SHOWN_VERSIONS,
        evaluations=[
            documents.evaluation_document(one)
            | {"at": one.evaluated_at, "measured": orjson.loads(one.metrics)}
            for one in queries.newest_evaluations(connection, agent_id, limit=SHOWN_ROWS)
        ],
        requested=work(REQUESTER),
        delegated=work(DELEGATE),
        rules=_rules(connection, visitor, agent_id, is_whole=sees_money),
        sees_money=sees_money,
        account_id=account_id,
        account=balances.get(account_id),
        entries=entries,
        accounts=linked(connection, visitor, sides(entries)),
    )


def _rules(
    connection: Connection, visitor: Visitor, agent_id: str, *, is_whole: bool
) -> dict[str, Any]:
    """Return what the agent takes from other owners, as the visitor may see it."""
    delegate = find_parties(connection, (agent_id,))[agent_id]
    rules = find_rules(connection, (agent_id,))[agent_id]
    shown = rules_document(delegate, rules, visitor.principal.owner_id, is_whole=is_whole)
    return shown | {"smallest_estimate_micros": rules.smallest_estimate_micros}


def _version(row: Any) -> dict[str, Any]:
    impact = orjson.loads(row.impact_from_previous) if row.impact_from_previous else None
    summary = orjson.loads(row.summary) if row.summary else None
    return {
        "version": row.version,
        "digest": row.digest,
        "published_at": row.published_at,
        "impact": impact,
        "summary": summary,
    }


@page("/versioning", greets=True)
def versioning(connection: Connection, visitor: Visitor) -> str:
    """Compare two versions of an agent: what breaks those who call it, and what does not."""
    agent_id = request.args.get("agent_id", "").strip()
    given = {"base": request.args.get("base"), "target": request.args.get("target")}
    if not agent_id:
        recent = queries.search_agents(connection, [], limit=SHOWN_ROWS, max_bytes=MAX_PAGE_BYTES)
        return render(
            "versioning.html",
            title="Compare versions",
            area="versioning",
            agent_id="",
            suggestions=[entry(row) for row in recent if "," in row.versions],
            versions=[],
            comparison=None,
            **given,
        )
    row = queries.find_agent(connection, agent_id)
    versions = list(reversed(documents.agent_document(row)["versions"]))
    target = next((one for one in versions if one == given["target"]), versions[0])
    before = versions[versions.index(target) + 1 :] or versions
    base = next((one for one in versions if one == given["base"]), before[0])
    found = queries.find_versions(connection, agent_id, base, target)
    comparison = documents.comparison_document(agent_id, *found)
    evaluations = [orjson.loads(one.summary) if one.summary else None for one in found]
    return render(
        "versioning.html",
        title=f"Compare versions of {agent_id}",
        area="versioning",
        agent_id=agent_id,
        suggestions=[],
        versions=versions,
        base=base,
        target=target,
        comparison=comparison,
        breaking=[_change(one) for one in comparison["behavioral_diff"]["breaking_changes"]],
        other=[_change(one) for one in comparison["behavioral_diff"]["non_breaking_changes"]],
        evaluations=evaluations,
        metrics=sorted({name for one in evaluations if one for name in one["metrics"]}),
    )


_CHANGES = {
    "input_required_added": "Requires more input",
    "input_required_removed": "Requires less input",
    "output_required_added": "Promises more output",
    "output_required_removed": "Promises less output",
    "protocols_added": "Speaks more protocols",
    "protocols_removed": "Speaks fewer protocols",
    "side_effect_escalated": "Has a stronger side effect",
    "capabilities_added": "Adds a capability",
    "capabilities_removed": "Removes a capability",
}


def _change(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a change of the behavioral diff in words, with the names concerned."""
    names = ("fields", "protocols", "capability_ids", "from", "to")
    found = [entry[name] for name in names if name in entry]
    return {
        "what": _CHANGES.get(entry["type"], words(entry["type"]).capitalize()),
        "capability": entry.get("capability_id"),
        "names": found[0] if found and isinstance(found[0], list) else [" → ".join(found)],
    }
