"""Reading the registry: one or two prebuilt statements a read, whatever a page holds.

Manifests and summaries are stored as JSON text and go into the answer as they are, without being
parsed; see ``orjson.Fragment`` in ``app.registry.documents``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    String,
    and_,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy.orm import Session

from app.registry.errors import AgentNotFound, VersionNotFound
from app.registry.models import (
    COUNT_SHARDS,
    Agent,
    AgentCount,
    Evaluation,
    EvaluationSummary,
    Namespace,
    Version,
)
from app.registry.names import MAX_VERSION_LENGTH, is_agent_id

Reader = Connection | Session
AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]

# "1:1.0.0,2:1.1.0": SQLite before 3.44 cannot order an aggregate, so each has its place with it.
_version_list = (
    select(
        func.aggregate_strings(
            cast(Version.sequence, String).concat(":").concat(Version.version), ","
        )
    )
    .where(Version.agent_id == Agent.id)
    .correlate(Agent)
    .scalar_subquery()
)

_agents = (
    select(
        Agent.id,
        Agent.namespace,
        Agent.slug,
        Agent.status,
        Agent.latest_version,
        Agent.revision,
        Agent.eval_cases_passed,
        Agent.eval_cases_total,
        Agent.forked_from_agent_id,
        Agent.forked_from_version,
        Agent.forked_from_digest,
        Version.manifest,
        EvaluationSummary.summary,
        _version_list.label("versions"),
    )
    .join(Version, and_(Version.agent_id == Agent.id, Version.version == Agent.latest_version))
    .outerjoin(
        EvaluationSummary,
        and_(
            EvaluationSummary.agent_id == Version.agent_id,
            EvaluationSummary.version == Version.version,
        ),
    )
)
_find_agent = _agents.where(Agent.id == bindparam("agent_id"))


_find_owner = (
    select(Namespace.owner_id)
    .join(Agent, Agent.namespace == Namespace.name)
    .where(Agent.id == bindparam("agent_id"))
)


def find_owner(reader: Reader, agent_id: str) -> str:
    """Return the id of the owner of an agent's namespace. Raises ``AgentNotFound``."""
    found = is_agent_id(agent_id) and reader.execute(_find_owner, {"agent_id": agent_id}).scalar()
    if not found:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    return str(found)


def find_agent(reader: Reader, agent_id: str) -> AnyRow:
    """Return an agent with its latest version's manifest. Raises ``AgentNotFound``."""
    row = (
        reader.execute(_find_agent, {"agent_id": agent_id}).first()
        if is_agent_id(agent_id)
        else None
    )
    if row is None:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    return row


def _agent_page(*filters: str, keyset: bool) -> AnySelect:
    statement = _agents.order_by(Agent.id).limit(bindparam("limit"))
    for name in filters:
        statement = statement.where(getattr(Agent, name) == bindparam(name))
    if keyset:
        return statement.where(Agent.id > bindparam("after"))
    return statement.offset(bindparam("offset"))


_FILTERS: tuple[tuple[str, ...], ...] = (
    (),
    ("namespace",),
    ("status",),
    ("namespace", "status"),
)
_agent_pages = {
    (filters, keyset): _agent_page(*filters, keyset=keyset)
    for filters in _FILTERS
    for keyset in (False, True)
}


def list_agents(
    reader: Reader,
    *,
    namespace: str | None = None,
    status: str | None = None,
    limit: int,
    offset: int = 0,
    after: str | None = None,
) -> list[AnyRow]:
    """Return up to ``limit`` agents by id: those after the id ``after``, else from ``offset``."""
    given = {"namespace": namespace, "status": status}
    filters = tuple(name for name, value in given.items() if value is not None)
    parameters = {name: given[name] for name in filters} | {"limit": limit}
    parameters |= {"offset": offset} if after is None else {"after": after}
    return list(reader.execute(_agent_pages[filters, after is not None], parameters))


_count_agents = select(cast(func.coalesce(func.sum(AgentCount.agents), 0), BigInteger)).where(
    AgentCount.bucket.in_(bindparam("buckets", expanding=True)),
    AgentCount.status.in_(bindparam("statuses", expanding=True)),
)


def count_agents(reader: Reader, *, namespace: str | None = None, status: str | None = None) -> int:
    """Return how many agents a list with these filters has, from counters kept by every write."""
    buckets = [namespace] if namespace else [f"#{shard}" for shard in range(COUNT_SHARDS)]
    statuses = [status] if status else ["active", "deprecated"]
    parameters = {"buckets": buckets, "statuses": statuses}
    return int(reader.execute(_count_agents, parameters).scalar_one())


_versions = select(
    Version.version,
    Version.sequence,
    Version.digest,
    Version.published_at,
    Version.impact_from_previous,
    EvaluationSummary.summary,
).outerjoin(
    EvaluationSummary,
    and_(
        EvaluationSummary.agent_id == Version.agent_id,
        EvaluationSummary.version == Version.version,
    ),
)
_list_versions = (
    _versions.where(
        Version.agent_id == bindparam("agent_id"), Version.sequence > bindparam("after")
    )
    .order_by(Version.sequence)
    .limit(bindparam("limit"))
)
_agent_exists = select(Agent.id).where(Agent.id == bindparam("agent_id"))


def list_versions(reader: Reader, agent_id: str, *, limit: int, after: int) -> list[AnyRow]:
    """Return up to ``limit`` versions, oldest first, after the sequence number ``after``.

    Raises ``AgentNotFound``.
    """
    if is_agent_id(agent_id):
        parameters = {"agent_id": agent_id, "limit": limit, "after": after}
        rows = list(reader.execute(_list_versions, parameters))
        if rows or reader.execute(_agent_exists, {"agent_id": agent_id}).first():
            return rows
    raise AgentNotFound(f"no agent has the id {agent_id!r}")


_find_versions = (
    select(
        Version.version,
        Version.manifest,
        Version.digest,
        EvaluationSummary.evaluations,
        EvaluationSummary.summary,
    )
    .outerjoin(
        EvaluationSummary,
        and_(
            EvaluationSummary.agent_id == Version.agent_id,
            EvaluationSummary.version == Version.version,
        ),
    )
    .where(
        Version.agent_id == bindparam("agent_id"),
        Version.version.in_(bindparam("versions", expanding=True)),
    )
)


def find_versions(reader: Reader, agent_id: str, *versions: str) -> list[AnyRow]:
    """Return the named versions of an agent in the order named. Raises ``VersionNotFound``."""
    found: dict[str, AnyRow] = {}
    if is_agent_id(agent_id) and all(_is_plausible(version) for version in versions):
        parameters = {"agent_id": agent_id, "versions": list(set(versions))}
        found = {row.version: row for row in reader.execute(_find_versions, parameters)}
    for version in versions:
        if version not in found:
            raise VersionNotFound(f"no agent {agent_id!r} has a version {version!r}")
    return [found[version] for version in versions]


def _is_plausible(version: str) -> bool:
    return version.isascii() and version.isprintable() and len(version) <= MAX_VERSION_LENGTH


_list_evaluations = (
    select(Evaluation)
    .where(
        Evaluation.agent_id == bindparam("agent_id"),
        Evaluation.version == bindparam("version"),
        Evaluation.id < bindparam("before"),
    )
    .order_by(Evaluation.id.desc())
    .limit(bindparam("limit"))
)


def list_evaluations(
    reader: Reader, agent_id: str, version: str, *, limit: int, before: str | None
) -> list[AnyRow]:
    """Return up to ``limit`` evaluations of a version, newest first, older than ``before``.

    Raises ``VersionNotFound``.
    """
    find_versions(reader, agent_id, version)
    parameters = {"agent_id": agent_id, "version": version, "limit": limit, "before": before or "~"}
    return list(reader.execute(_list_evaluations, parameters))
