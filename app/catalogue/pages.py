"""The pages of the catalogue, and what search engines read."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Response, current_app, request, url_for
from sqlalchemy import Connection

from app.access.service import find_owner_names
from app.catalogue import calls
from app.catalogue.fields import table
from app.catalogue.web import page, pages, render, respond
from app.http.context import services
from app.http.errors import PathNotFound
from app.http.pagination import MAX_PAGE_BYTES, decode_cursor, encode_cursor, fitting
from app.operator.remembered import Remembered
from app.operator.web import HERE as CONSOLE
from app.registry import documents, queries
from app.registry.errors import NamespaceNotFound
from app.registry.manifest_format import whole
from app.registry.names import normalize_namespace
from app.registry.service import ACTIVE

PAGE_SIZE, SHOWN, SHOWN_VERSIONS, SHOWN_CAPABILITIES = 20, 6, 50, 50
MAX_WORDS = 5
SITEMAP_SIZE = 5_000
# What a scan of all agents finds; somebody who has just published wants to see it.
FRONT_SECONDS = 3.0


class Front:
    """What the front page shows, which takes a scan, remembered for all visitors."""

    def __init__(self) -> None:
        self._remembered: Remembered[dict[str, Any]] = Remembered(FRONT_SECONDS)

    def read(self, connection: Connection) -> dict[str, Any]:
        """Return the newest agents, the most used ones and the largest namespaces."""
        return self._remembered.get(lambda: _front(connection)).value


EXTENSION = "agenthub_catalogue"


def _front(connection: Connection) -> dict[str, Any]:
    which: Any = {"status": ACTIVE, "limit": SHOWN}
    return {
        "total": queries.count_agents(connection),
        "newest": [entry(row) for row in queries.newest_agents(connection, **which)],
        "most_used": [entry(row) for row in queries.most_used_agents(connection, **which)],
        "namespaces": queries.largest_namespaces(connection, limit=2 * SHOWN),
    }


def entry(row: Any) -> dict[str, Any]:
    """Return an agent as a line of a list."""
    identity = orjson.loads(row.manifest)["identity"]
    return {
        "id": row.id,
        "name": identity["name"],
        "description": identity["description"],
        "tags": identity.get("tags", [])[:SHOWN],
        "type": identity["type"],
        "status": row.status,
        "version": row.latest_version,
        "trust": documents.agent_rating(row),
        "completed": row.delegations_completed or 0,
        "updated_at": row.updated_at,
    }


@page("/", document="service.get_service")
def front(connection: Connection) -> str:
    """Say what this is, show what is here, and lead to the three ways in."""
    shown = current_app.extensions[EXTENSION].read(connection)
    return render(
        "front.html",
        title="AgentHub",
        area="",
        description="Find AI agents, see what each version can do and breaks, and delegate work.",
        **shown,
    )


@page("/agents", document="registry.list_agents")
def agents(connection: Connection) -> str:
    """List agents by id: all of them, or those whose id has every word that is searched for."""
    text = request.args.get("q", "").strip()[:200]
    cursor = request.args.get("cursor")
    rows = queries.search_agents(
        connection,
        text.split()[:MAX_WORDS],
        after=decode_cursor(cursor, r"[!-~]+") if cursor else "",
        limit=PAGE_SIZE + 1,
        max_bytes=MAX_PAGE_BYTES,
    )
    shown = fitting(rows, PAGE_SIZE)
    return render(
        "agents.html",
        title="Agents",
        area="agents",
        description="Every agent of this service, by its id.",
        text=text,
        total=queries.count_agents(connection),
        agents=[entry(row) for row in rows[:shown]],
        following=_following(rows, shown, q=text),
        is_first=cursor is None,
    )


def _following(rows: list[Any], shown: int, **kept: str) -> str | None:
    """Return the address of the page after the ``shown`` rows; None on the last one."""
    if len(rows) <= shown:
        return None
    parameters = {name: value for name, value in kept.items() if value}
    parameters["cursor"] = encode_cursor(rows[shown - 1].id)
    return f"?{urlencode(parameters)}"


@page("/namespaces/<namespace>", document="registry.get_namespace")
def namespace(connection: Connection, namespace: str) -> str:
    """List a namespace's agents, and say who publishes in it."""
    name = normalize_namespace(namespace)
    owners = queries.find_namespace_owners(connection, [name]) if name else {}
    if name is None or name not in owners:
        raise NamespaceNotFound(f"nobody has the namespace {namespace!r}")
    cursor = request.args.get("cursor")
    rows = queries.list_agents(
        connection,
        namespace=name,
        limit=PAGE_SIZE + 1,
        max_bytes=MAX_PAGE_BYTES,
        after=decode_cursor(cursor) if cursor else None,
    )
    shown = fitting(rows, PAGE_SIZE)
    return render(
        "namespace.html",
        title=name,
        area="agents",
        description=f"The agents that {name} publishes.",
        namespace=name,
        owner=_owner_name(connection, owners[name]),
        total=queries.count_agents(connection, namespace=name),
        agents=[entry(row) for row in rows[:shown]],
        following=_following(rows, shown),
        is_first=cursor is None,
    )


def _owner_name(connection: Connection, owner_id: str) -> str:
    return find_owner_names(connection, [owner_id]).get(owner_id, owner_id)


@page("/agents/<agent_id>", document="registry.get_agent")
def agent(connection: Connection, agent_id: str) -> str:
    """Show an agent's latest version, and everything to know before one calls it."""
    row = queries.find_agent(connection, agent_id)
    return _show(connection, row, row.latest_version, row.manifest)


@page("/agents/<agent_id>/versions/<version>", document="registry.get_version")
def version(connection: Connection, agent_id: str, version: str) -> str:
    """Show one version of an agent as its page shows the latest."""
    row = queries.find_agent(connection, agent_id)
    (shown,) = queries.find_versions(connection, agent_id, version)
    return _show(connection, row, version, shown.manifest)


def _show(connection: Connection, row: Any, version: str, manifest_text: str) -> str:
    manifest = whole(orjson.loads(manifest_text))
    versions = queries.newest_versions(connection, row.id, limit=SHOWN_VERSIONS + 1)
    listed = [_version(one) for one in versions[:SHOWN_VERSIONS]]
    capabilities = manifest["capabilities"]
    owner_id = queries.find_owner(connection, row.id)
    return render(
        "agent.html",
        title=f"{manifest['identity']['name']} {version}",
        area="agents",
        description=manifest["identity"]["description"],
        agent=entry(row),
        is_latest=version == row.latest_version,
        version=version,
        of_version=next((one for one in listed if one["version"] == version), None),
        manifest=manifest,
        forked_from=row.forked_from_agent_id,
        forked_from_version=row.forked_from_version,
        owner=_owner_name(connection, owner_id),
        trust=documents.trust_document(row),
        capabilities=[
            one | {"input": table(one["input_schema"]), "output": table(one["output_schema"])}
            for one in capabilities[:SHOWN_CAPABILITIES]
        ],
        more_capabilities=max(0, len(capabilities) - SHOWN_CAPABILITIES),
        calls=calls.ways(request.host_url.rstrip("/"), row.id, manifest),
        versions=listed,
        has_more_versions=len(versions) > SHOWN_VERSIONS,
    )


def _version(row: Any) -> dict[str, Any]:
    impact = orjson.loads(row.impact_from_previous) if row.impact_from_previous else None
    return {
        "version": row.version,
        "digest": row.digest,
        "published_at": row.published_at,
        "impact": impact,
        "breaking": impact["breaking_changes"] if impact else [],
    }


@pages.get("/robots.txt")
def robots() -> Response:
    """Lead search engines to the catalogue, away from the API and the console."""
    sitemap = f"{request.host_url}sitemap.xml"
    lines = ("User-agent: *", "Disallow: /v1/", "Disallow: /operator", f"Sitemap: {sitemap}")
    return respond("\n".join(lines) + "\n", "text/plain; charset=utf-8")


@pages.get("/sitemap.xml")
def sitemap() -> Response:
    """List the pages of all agents (sitemaps.org 0.9): at once, or as an index of parts."""
    part = request.args.get("part", "")
    with services().database.read() as connection:
        parts = -(-queries.count_agents(connection) // SITEMAP_SIZE)
        if parts > 1 and not part:
            places = [f"{request.host_url}sitemap.xml?part={number}" for number in range(parts)]
            return respond(_urls("sitemapindex", "sitemap", places), "application/xml")
        is_number = part.isascii() and part.isdigit() and len(part) < 6
        number = int(part) if is_number else 0
        if (part and not is_number) or number >= max(parts, 1):
            raise PathNotFound(f"the sitemap has {max(parts, 1)} parts, counted from 0")
        ids = queries.list_agent_ids(connection, limit=SITEMAP_SIZE, offset=number * SITEMAP_SIZE)
    root = request.host_url.rstrip("/")
    places = [root + url_for("catalogue.agent", agent_id=one) for one in ids]
    first = [f"{root}/", f"{root}/agents"] if number == 0 else []
    return respond(_urls("urlset", "url", first + places), "application/xml")


def _urls(root: str, item: str, places: list[str]) -> str:
    """Return a sitemap; ids of agents have no character that XML would read otherwise."""
    inner = "".join(f"<{item}><loc>{place}</loc></{item}>\n" for place in places)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{inner}</{root}>\n'


@pages.get("/favicon.ico")
def favicon() -> Response:
    """Send the icon, which browsers ask for by this name."""
    svg = (CONSOLE / "static" / "icon.svg").read_text("utf-8")
    response = respond(svg, "image/svg+xml")
    response.headers["Cache-Control"] = "public, max-age=86400"
    return response
