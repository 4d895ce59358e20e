"""Reading the registry: one or two prebuilt statements a read, whatever a page holds.

Manifests and summaries are stored as JSON text and go into the answer as they are, without being
parsed; see ``orjson.Fragment`` in ``app.registry.documents``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.functions import FunctionElement

from app.registry.diff import behavioral_diff
from app.registry.errors import AgentNotFound, VersionNotFound
from app.registry.models import (
    Agent,
    AgentCount,
    Evaluation,
    EvaluationSummary,
    Namespace,
    TrustEvidence,
    Version,
    VersionImpact,
)
from app.registry.names import MAX_VERSION_LENGTH
from app.registry.names import is_agent_id as is_agent_id
from app.registry.parties import EVIDENCE, Reader

# Offered to other scopes with all else that is read of the registry.
from app.registry.parties import Party as Party
from app.registry.parties import find_parties as find_parties
from app.registry.semver import precedence_key
from app.registry.trust import Counterparty as Counterparty
from app.statements import Statement

AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]


def _with_latest(agent: type[Agent]) -> AnySelect:
    """Select what an agent's document shows; ``agent`` is the entity or a page of it."""
    # "1:1.0.0,2:1.1.0": SQLite before 3.44 cannot order an aggregate, so each has its place with
    # it. As parameters the marks would have the statement rendered anew at every execution.
    colon: ColumnElement[str] = literal_column("':'")
    comma: Any = literal_column("','")
    entry = cast(Version.sequence, String).concat(colon).concat(Version.version)
    versions = (
        select(func.aggregate_strings(entry, comma))
        .where(Version.agent_id == agent.id)
        .correlate(agent)
        .scalar_subquery()
    )
    latest = aliased(Version)
    return (
        select(
            agent.id,
            agent.namespace,
            agent.slug,
            agent.status,
            agent.latest_version,
            agent.revision,
            agent.eval_cases_passed,
            agent.eval_cases_total,
            agent.forked_from_agent_id,
            agent.forked_from_version,
            agent.forked_from_digest,
            agent.created_at,
            agent.updated_at,
            latest.manifest,
            EvaluationSummary.summary,
            versions.label("versions"),
            *EVIDENCE,
        )
        .join(latest, and_(latest.agent_id == agent.id, latest.version == agent.latest_version))
        .outerjoin(
            EvaluationSummary,
            and_(
                EvaluationSummary.agent_id == latest.agent_id,
                EvaluationSummary.version == latest.version,
            ),
        )
        # Outer, so that no database begins with all namespaces to find those of a page.
        .outerjoin(Namespace, Namespace.name == agent.namespace)
        .outerjoin(TrustEvidence, TrustEvidence.agent_id == agent.id)
    )


_find_agent = Statement(_with_latest(Agent).where(Agent.id == bindparam("agent_id")))


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


def find_owners_of(reader: Reader, agent_ids: Collection[str]) -> dict[str, str]:
    """Return the ids of the owners of agents by the agents' ids; unknown agents are left out."""
    rows = reader.execute(
        select(Agent.id, Namespace.owner_id)
        .join(Namespace, Namespace.name == Agent.namespace)
        .where(Agent.id.in_([one for one in agent_ids if is_agent_id(one)]))
    )
    return {row.id: row.owner_id for row in rows}


def find_namespace_owners(reader: Reader, namespaces: Collection[str]) -> dict[str, str]:
    """Return the ids of who has reserved these namespaces; one that nobody has is left out."""
    rows = reader.execute(
        select(Namespace.name, Namespace.owner_id).where(Namespace.name.in_(namespaces))
    )
    return {row.name: row.owner_id for row in rows}


def agents_of(owner_id: str) -> AnySelect:
    """Select the ids of an owner's agents."""
    return (
        select(Agent.id)
        .join(Namespace, Namespace.name == Agent.namespace)
        .where(Namespace.owner_id == owner_id)
    )


def find_agent(reader: Reader, agent_id: str) -> Any:
    """Return an agent with its latest version's manifest. Raises ``AgentNotFound``."""
    rows = _find_agent.all(reader, {"agent_id": agent_id}) if is_agent_id(agent_id) else ()
    if not rows:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    return rows[0]


def _agent_page(*filters: str, keyset: bool) -> AnySelect:
    # The page is cut before anything is joined, or PostgreSQL may merge it with all versions from
    # the first agent on. Limit and status are put into the text, so that it can plan the statement
    # once for all other values and still knows how many rows each of the few statuses has.
    limit = bindparam("limit", type_=Integer, literal_execute=True)
    page = select(*Agent.__table__.c).order_by(Agent.id).limit(limit)
    if "namespace" in filters:
        page = page.where(Agent.namespace == bindparam("namespace"))
    if "status" in filters:
        page = page.where(Agent.status == bindparam("status", literal_execute=True))
    if keyset:
        page = page.where(Agent.id > bindparam("after"))
    else:
        page = page.offset(bindparam("offset", type_=Integer))
    return _within(page, bindparam("max_bytes", type_=BigInteger))


class Octets(FunctionElement[int]):
    """The size of a text in bytes, which PostgreSQL knows without reading a large one."""

    type = BigInteger()
    inherit_cache = True


@compiles(Octets)
def _octet_length(element: Octets, compiler: Any, **arguments: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **arguments)})"


@compiles(Octets, "sqlite")
def _length_of_blob(element: Octets, compiler: Any, **arguments: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **arguments)} AS BLOB))"


def _within(page: AnySelect, max_bytes: Any) -> AnySelect:
    """Select the documents of a page up to the one that takes its manifests over ``max_bytes``.

    That one is for whoever cuts the page to see that there are more, so two are selected at least.
    """
    chosen = page.subquery("page")
    size = Octets(Version.manifest)
    measured = (
        select(
            chosen,
            (func.sum(size).over(order_by=chosen.c.id) - size).label("bytes_before"),
            func.row_number().over(order_by=chosen.c.id).label("place"),
        )
        .join(
            Version,
            and_(Version.agent_id == chosen.c.id, Version.version == chosen.c.latest_version),
        )
        .subquery("measured")
    )
    fits = or_(measured.c.bytes_before <= max_bytes, measured.c.place <= 2)
    return _with_latest(aliased(Agent, measured)).where(fits)


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
    max_bytes: int,
    offset: int = 0,
    after: str | None = None,
) -> list[AnyRow]:
    """Return up to ``limit`` agents by id: those after the id ``after``, else from ``offset``.

    The one whose manifest takes those of all over ``max_bytes`` is the last.
    """
    given = {"namespace": namespace, "status": status}
    filters = tuple(name for name, value in given.items() if value is not None)
    parameters: dict[str, Any] = {name: given[name] for name in filters}
    parameters |= {"limit": limit, "max_bytes": max_bytes}
    if after is None and offset == 0:
        # PostgreSQL plans a statement with an offset anew for every page; every id is after "".
        after = ""
    parameters |= {"offset": offset} if after is None else {"after": after}
    rows = reader.execute(_agent_pages[filters, after is not None], parameters)
    # Sorting the few rows of a page here spares SQLite a temporary table of their manifests.
    return sorted(rows, key=attrgetter("id"))


def _matching(
    columns: Iterable[Any],
    words: Sequence[str],
    *,
    status: str | None = None,
    owner_id: str | None = None,
    after: str = "",
    limit: int,
) -> AnySelect | None:
    """Select columns of agents whose id has every word; None for words that no id can have."""
    if not all(word.isascii() and word.isprintable() for word in words):
        return None
    page = select(*columns).where(Agent.id > after).order_by(Agent.id).limit(limit)
    for word in words:
        page = page.where(Agent.id.contains(word.lower(), autoescape=True))
    if status is not None:
        page = page.where(Agent.status == status)
    if owner_id is not None:
        mine = select(Namespace.name).where(Namespace.owner_id == owner_id)
        page = page.where(Agent.namespace.in_(mine))
    return page


def search_agents(
    reader: Reader,
    words: Sequence[str],
    *,
    status: str | None = None,
    owner_id: str | None = None,
    after: str = "",
    limit: int,
    max_bytes: int,
) -> list[AnyRow]:
    """Return up to ``limit`` agents by id, after the id ``after``, whose id has every word.

    The one whose manifest takes those of all over ``max_bytes`` is the last. Ids are in one index,
    which holds nothing else, so that reading all of it takes some milliseconds for 100,000 agents.
    ``owner_id`` limits them to an owner's.
    """
    page = _matching(
        Agent.__table__.c, words, status=status, owner_id=owner_id, after=after, limit=limit
    )
    if page is None:
        return []
    return sorted(reader.execute(_within(page, max_bytes)), key=attrgetter("id"))


def search_agent_ids(
    reader: Reader, words: Sequence[str], *, owner_id: str | None, after: str, limit: int
) -> list[str]:
    """Return the ids of the agents that ``search_agents`` would, without reading anything else."""
    page = _matching((Agent.id,), words, owner_id=owner_id, after=after, limit=limit)
    return [] if page is None else list(reader.execute(page).scalars())


_count_agents = select(cast(func.coalesce(func.sum(AgentCount.agents), 0), BigInteger)).where(
    AgentCount.bucket.between(bindparam("first"), bindparam("last"))
)
_count_agents_of_status = _count_agents.where(AgentCount.status == bindparam("status"))


def count_agents(reader: Reader, *, namespace: str | None = None, status: str | None = None) -> int:
    """Return how many agents a list with these filters has, from counters kept by every write."""
    # Without a namespace all shards: their names, and no others, begin with "#".
    parameters = {"first": namespace or "#", "last": namespace or "#~"}
    if status is None:
        return int(reader.execute(_count_agents, parameters).scalar_one())
    parameters["status"] = status
    return int(reader.execute(_count_agents_of_status, parameters).scalar_one())


def newest_agents(reader: Reader, *, status: str, limit: int) -> list[AnyRow]:
    """Return the agents of a status that were registered last; reads all agents."""
    page = select(Agent).where(Agent.status == status).order_by(Agent.created_at.desc(), Agent.id)
    rows = reader.execute(_with_latest(aliased(Agent, page.limit(limit).subquery("page"))))
    return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)


def most_used_agents(reader: Reader, *, status: str, limit: int) -> list[AnyRow]:
    """Return the agents of a status with most completed paid work; reads all evidence."""
    used = (
        select(Agent)
        .join(TrustEvidence, TrustEvidence.agent_id == Agent.id)
        .where(Agent.status == status, TrustEvidence.delegations_completed > 0)
        .order_by(TrustEvidence.delegations_completed.desc(), Agent.id)
        .limit(limit)
    )
    rows = reader.execute(_with_latest(aliased(Agent, used.subquery("page"))))
    return sorted(rows, key=lambda row: (-row.delegations_completed, row.id))


def largest_namespaces(reader: Reader, *, limit: int) -> list[AnyRow]:
    """Return the namespaces with most agents: ``bucket`` and ``agents``; reads all counters."""
    agents = cast(func.sum(AgentCount.agents), BigInteger).label("agents")
    return list(
        reader.execute(
            select(AgentCount.bucket, agents)
            .where(AgentCount.bucket >= "@")
            .group_by(AgentCount.bucket)
            .order_by(agents.desc(), AgentCount.bucket)
            .limit(limit)
        )
    )


def find_publications(reader: Reader, versions: Collection[tuple[str, str]]) -> dict[str, datetime]:
    """Return when versions were published, by agent; each is an agent's id and a version of it."""
    rows = reader.execute(
        select(Version.agent_id, Version.published_at).where(
            tuple_(Version.agent_id, Version.version).in_(versions)
        )
    )
    return {row.agent_id: row.published_at for row in rows}


def list_agent_ids(reader: Reader, *, limit: int, offset: int) -> list[str]:
    """Return a part of the ids of all agents, in their order."""
    return list(
        reader.execute(select(Agent.id).order_by(Agent.id).limit(limit).offset(offset)).scalars()
    )


def count_versions(reader: Reader) -> int:
    """Return how many versions are published; reads an index from end to end."""
    return int(reader.execute(select(func.count()).select_from(Version)).scalar_one())


_versions = select(
    Version.version,
    Version.sequence,
    Version.digest,
    Version.published_at,
    case(
        (VersionImpact.version.is_not(None), VersionImpact.impact),
        else_=Version.impact_from_previous,
    ).label("impact_from_previous"),
    and_(VersionImpact.version.is_not(None), VersionImpact.impact.is_(None)).label(
        "impact_unknown"
    ),
    EvaluationSummary.summary,
).outerjoin(
    EvaluationSummary,
    and_(
        EvaluationSummary.agent_id == Version.agent_id,
        EvaluationSummary.version == Version.version,
    ),
)
_versions = _versions.outerjoin(
    VersionImpact,
    and_(VersionImpact.agent_id == Version.agent_id, VersionImpact.version == Version.version),
)
_list_versions = (
    _versions.where(
        Version.agent_id == bindparam("agent_id"), Version.sequence > bindparam("after")
    )
    .order_by(Version.sequence)
    .limit(bindparam("limit"))
)
_newest_versions = (
    _versions.where(Version.agent_id == bindparam("agent_id"))
    .order_by(Version.sequence.desc())
    .limit(bindparam("limit"))
)


def newest_versions(reader: Reader, agent_id: str, *, limit: int) -> list[AnyRow]:
    """Return the ``limit`` versions of an agent that were published last, newest first."""
    rows = reader.execute(_newest_versions, {"agent_id": agent_id, "limit": limit})
    return _compared(reader, agent_id, rows.all())


def neighbours(reader: Reader, agent_id: str, version: str) -> tuple[str | None, str | None]:
    """Return an agent's versions next below and above ``version``; None where there is none."""
    precedence = precedence_key(version)
    others = select(Version.version).where(Version.agent_id == agent_id).limit(1)
    below, above = (
        reader.execute(statement).scalar_one_or_none()
        for statement in (
            others.where(Version.precedence < precedence).order_by(Version.precedence.desc()),
            others.where(Version.precedence > precedence).order_by(Version.precedence),
        )
    )
    return below, above


def _compared(reader: Reader, agent_id: str, rows: Iterable[Any]) -> list[Any]:
    """Return rows of versions with the impacts that were not stored; see ``VersionImpact``."""
    return [_with_impact(reader, agent_id, row) if row.impact_unknown else row for row in rows]


def _with_impact(reader: Reader, agent_id: str, row: Any) -> Any:
    below, _ = neighbours(reader, agent_id, row.version)
    impact = None
    if below is not None:
        base, target = find_versions(reader, agent_id, below, row.version)
        manifests = (orjson.loads(one.manifest) for one in (base, target))
        impact = orjson.dumps(behavioral_diff(*manifests)).decode()
    return SimpleNamespace(**{**row._mapping, "impact_from_previous": impact})


_agent_exists = select(Agent.id).where(Agent.id == bindparam("agent_id"))


def list_versions(reader: Reader, agent_id: str, *, limit: int, after: int) -> list[AnyRow]:
    """Return up to ``limit`` versions, oldest first, after the sequence number ``after``.

    Raises ``AgentNotFound``.
    """
    if is_agent_id(agent_id):
        parameters = {"agent_id": agent_id, "limit": limit, "after": after}
        rows = _compared(reader, agent_id, reader.execute(_list_versions, parameters).all())
        if rows or reader.execute(_agent_exists, {"agent_id": agent_id}).first():
            return rows
    raise AgentNotFound(f"no agent has the id {agent_id!r}")


_find_versions = Statement(
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
        # Two names, perhaps the same; a list would be rendered anew at every execution.
        Version.version.in_([bindparam("first"), bindparam("last")]),
    )
)


def find_versions(reader: Reader, agent_id: str, *versions: str) -> list[Any]:
    """Return one or two versions of an agent in the order named. Raises ``VersionNotFound``."""
    found: dict[str, Any] = {}
    if is_agent_id(agent_id) and all(_is_plausible(version) for version in versions):
        parameters = {"agent_id": agent_id, "first": versions[0], "last": versions[-1]}
        found = {row.version: row for row in _find_versions.all(reader, parameters)}
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


def newest_evaluations(reader: Reader, agent_id: str, *, limit: int) -> list[AnyRow]:
    """Return the ``limit`` evaluations of any version of an agent that were stored last."""
    statement = (
        select(*Evaluation.__table__.c)
        .where(Evaluation.agent_id == agent_id)
        .order_by(Evaluation.id.desc())
        .limit(limit)
    )
    return list(reader.execute(statement))
