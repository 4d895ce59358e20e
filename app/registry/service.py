"""Changing the registry: reserve, register, publish, deprecate, fork, record evaluations.

What agents did and how it went is added in ``app.registry.evidence``.

Every function runs in the caller's transaction and never commits. Manifests that arrive here were
validated by ``app.registry.manifest``.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, func, select, update
from sqlalchemy.orm import Session

from app import clock, ids
from app.canonical import Canonical, canonical_json, with_member
from app.db import insert_if_absent
from app.quotas import require_room
from app.registry import manifest as rules
from app.registry import semver
from app.registry.diff import behavioral_diff
from app.registry.errors import (
    AgentChanged,
    AgentExists,
    AgentNotFound,
    ManifestMismatch,
    ManifestTooLarge,
    NamespaceTaken,
    NotOwner,
    VersionExists,
)

# Offered to other scopes with all else that changes the registry.
from app.registry.evidence import Outcome as Outcome
from app.registry.evidence import record_outcome as record_outcome
from app.registry.models import (
    COUNT_SHARDS,
    NO_USAGE,
    Agent,
    AgentCount,
    Evaluation,
    EvaluationSummary,
    Namespace,
    OwnerUsage,
    Version,
    VersionImpact,
)
from app.registry.names import is_agent_id
from app.registry.queries import (
    find_agent,
    find_owner,
    find_versions,
    neighbours,
)

ACTIVE, DEPRECATED = "active", "deprecated"


@dataclass(frozen=True)
class Lineage:
    """What a fork was copied from."""

    agent_id: str
    version: str
    digest: str


@dataclass(frozen=True)
class Publication:
    """A version about to be published, and what changes for callers with it.

    ``below`` and ``above`` are the versions next to it, None where there is none. ``impact`` (JSON
    text) is what it changes against the one below, ``impact_above`` what the one above changes
    against it.
    """

    manifest: Canonical
    below: str | None = None
    impact: str | None = None
    above: str | None = None
    impact_above: str | None = None


@dataclass(frozen=True)
class Quotas:
    """How much one owner may have, and how many versions one agent; 0 sets no limit."""

    namespaces: int
    agents: int
    versions: int
    agent_versions: int
    manifest_bytes: int


@dataclass(frozen=True)
class Fork:
    """A copy about to be registered."""

    manifest: Canonical
    lineage: Lineage


@dataclass(frozen=True)
class EvaluationResult:
    """What somebody measured: named metrics, and how many of the suite's cases passed."""

    suite: str
    metrics: Mapping[str, float]
    cases_passed: int
    cases_total: int
    evaluated_at: datetime


def register_agent(
    session: Session,
    owner_id: str,
    namespace: str,
    manifest: Canonical,
    quotas: Quotas,
    lineage: Lineage | None = None,
) -> str:
    """Register an agent with its first version and return its id.

    The namespace is reserved for the owner if nobody has it. Raises ``NamespaceTaken``,
    ``AgentExists`` and ``QuotaExceeded``.
    """
    reserved = reserve_namespace(session, owner_id, namespace)
    identity = manifest.document["identity"]
    slug = identity["id"]
    agent_id = f"{namespace}:{slug}"
    now = clock.now()
    inserted = insert_if_absent(
        session,
        Agent,
        id=agent_id,
        namespace=namespace,
        slug=slug,
        status=ACTIVE,
        latest_version=identity["version"],
        revision=1,
        eval_cases_passed=0,
        eval_cases_total=0,
        forked_from_agent_id=lineage.agent_id if lineage else None,
        forked_from_version=lineage.version if lineage else None,
        forked_from_digest=lineage.digest if lineage else None,
        created_at=now,
        updated_at=now,
    )
    if not inserted:
        raise AgentExists(
            f"{agent_id} exists; publish a new version of it with PUT",
            **_existing(session, agent_id, manifest),
        )
    _add_version(session, agent_id, Publication(manifest))
    _count(session, agent_id, {ACTIVE: +1})
    size = len(manifest.encoded)
    _use(session, owner_id, quotas, namespaces=reserved, agents=1, versions=1, manifest_bytes=size)
    return agent_id


def reserve_namespace(session: Session, owner_id: str, namespace: str) -> int:
    """Reserve ``namespace`` for the owner; return 1, or 0 if the owner has it already.

    Raises ``NamespaceTaken``.
    """
    if may_use_namespace(session, owner_id, namespace):
        return 0
    inserted = insert_if_absent(
        session, Namespace, name=namespace, owner_id=owner_id, created_at=clock.now()
    )
    may_use_namespace(session, owner_id, namespace)
    return inserted or 0


def may_use_namespace(reader: Connection | Session, owner_id: str, namespace: str) -> bool:
    """Tell whether the owner has a namespace; False while nobody has. Raises ``NamespaceTaken``."""
    holder = reader.execute(
        select(Namespace.owner_id).where(Namespace.name == namespace)
    ).scalar_one_or_none()
    if holder not in (None, owner_id):
        raise NamespaceTaken(f"{namespace} belongs to another owner")
    return holder is not None


def require_owner(reader: Connection | Session, owner_id: str, agent_id: str) -> None:
    """Raise ``AgentNotFound`` or ``NotOwner`` unless the agent belongs to the owner."""
    if find_owner(reader, agent_id) != owner_id:
        raise NotOwner(f"{agent_id} belongs to another owner")


def prepare_version(
    reader: Connection | Session, owner_id: str, agent_id: str, manifest: Canonical
) -> Publication:
    """Compare a version to be published with those next to it, before anything is locked.

    Raises ``AgentNotFound`` and ``NotOwner``.
    """
    require_owner(reader, owner_id, agent_id)
    below, above = neighbours(reader, agent_id, manifest.document["identity"]["version"])
    impact = impact_above = None
    if below is not None:
        (base,) = find_versions(reader, agent_id, below)
        impact = _impact(orjson.loads(base.manifest), manifest.document)
    if above is not None:
        (target,) = find_versions(reader, agent_id, above)
        impact_above = _impact(manifest.document, orjson.loads(target.manifest))
    return Publication(manifest, below, impact, above, impact_above)


def _impact(base: Any, target: Any) -> str:
    return orjson.dumps(behavioral_diff(base, target)).decode()


def publish_version(
    session: Session,
    owner_id: str,
    agent_id: str,
    publication: Publication,
    quotas: Quotas,
    expected_revisions: Collection[int] | None = None,
) -> bool:
    """Publish a further version of an agent; return whether that made the agent active again.

    Raises ``AgentNotFound``, ``NotOwner``, ``AgentChanged``, ``ManifestMismatch``,
    ``VersionExists`` and ``QuotaExceeded``.
    """
    agent = _lock_agent(session, owner_id, agent_id, expected_revisions)
    if publication.manifest.document["identity"]["id"] != agent.slug:
        raise ManifestMismatch(
            f"the manifest is not one of {agent_id}",
            errors=[
                {
                    "pointer": "/manifest/identity/id",
                    "code": "manifest_mismatch",
                    "detail": f"expected {agent.slug}, the agent's own id",
                }
            ],
        )
    version = publication.manifest.document["identity"]["version"]
    if neighbours(session, agent_id, version) != (publication.below, publication.above):
        # Another version was published since it was compared.
        publication = prepare_version(session, owner_id, agent_id, publication.manifest)
    published = _add_version(session, agent_id, publication)
    require_room("agent_versions", quotas.agent_versions, published - 1)
    size = len(publication.manifest.encoded)
    _use(session, owner_id, quotas, versions=1, manifest_bytes=size)
    # The highest release; only when there is none, the highest prerelease (SemVer 2.0, item 11).
    agent.latest_version = session.scalars(
        select(Version.version)
        .where(Version.agent_id == agent_id)
        .order_by(Version.prerelease, Version.precedence.desc())
        .limit(1)
    ).one()
    revived = agent.status != ACTIVE
    _set_status(session, agent, ACTIVE)
    _touch(session, agent)
    return revived


def deprecate_agent(
    session: Session,
    owner_id: str,
    agent_id: str,
    expected_revisions: Collection[int] | None = None,
) -> bool:
    """Deprecate an agent; its history stays. Return False if it was deprecated already.

    Raises ``AgentNotFound``, ``NotOwner`` and ``AgentChanged``.
    """
    agent = _lock_agent(session, owner_id, agent_id, expected_revisions)
    if agent.status == DEPRECATED:
        return False
    _set_status(session, agent, DEPRECATED)
    _touch(session, agent)
    return True


def prepare_fork(
    reader: Connection | Session,
    owner_id: str,
    source_id: str,
    namespace: str,
    new_slug: str,
    max_bytes: int,
) -> Fork:
    """Copy the manifest of an agent's latest version, before anything is locked.

    Only ``identity.id`` changes. All else is taken as it was published, under the rules of then;
    only its size is checked anew. Raises ``NamespaceTaken``, ``AgentNotFound`` and
    ``ManifestTooLarge``.
    """
    may_use_namespace(reader, owner_id, namespace)
    source = find_versions(reader, source_id, find_agent(reader, source_id).latest_version)[0]
    encoded = with_member(source.manifest.encode(), ("identity", "id"), new_slug)
    manifest = Canonical(orjson.loads(encoded), encoded)
    if len(encoded) > max_bytes:
        raise ManifestTooLarge(rules.too_large(manifest, max_bytes)["detail"])
    return Fork(manifest, Lineage(source_id, source.version, source.digest))


def register_fork(
    session: Session, owner_id: str, namespace: str, fork: Fork, quotas: Quotas
) -> str:
    """Register a copy as a new agent and return its id; raises as ``register_agent`` does."""
    return register_agent(session, owner_id, namespace, fork.manifest, quotas, fork.lineage)


def record_evaluation(
    session: Session, owner_id: str, agent_id: str, version: str, result: EvaluationResult
) -> Evaluation:
    """Store an evaluation of one version, which becomes the one its summary shows.

    Raises ``AgentNotFound``, ``NotOwner`` and ``VersionNotFound``.
    """
    agent = _lock_agent(session, owner_id, agent_id, None)
    find_versions(session, agent_id, version)
    evaluation = Evaluation(
        id=ids.new_id(),
        agent_id=agent_id,
        version=version,
        suite=result.suite,
        metrics=canonical_json(dict(result.metrics)).decode(),
        cases_passed=result.cases_passed,
        cases_total=result.cases_total,
        evaluated_at=result.evaluated_at,
        recorded_at=clock.now(),
        recorded_by=owner_id,
    )
    session.add(evaluation)
    session.flush()
    _summarize(session, evaluation)
    agent.eval_cases_passed += result.cases_passed
    agent.eval_cases_total += result.cases_total
    _touch(session, agent)
    return evaluation


def _summarize(session: Session, evaluation: Evaluation) -> None:
    """Show ``evaluation`` as its version's latest one."""
    summary = session.get(EvaluationSummary, (evaluation.agent_id, evaluation.version))
    if summary is None:
        summary = EvaluationSummary(
            agent_id=evaluation.agent_id, version=evaluation.version, evaluations=0
        )
        session.add(summary)
    summary.evaluations += 1
    document = {
        "status": "evaluated",
        "evaluation_id": evaluation.id,
        "evaluations": summary.evaluations,
        "suite": evaluation.suite,
        "evaluated_at": clock.isoformat(evaluation.evaluated_at),
        "cases": {"passed": evaluation.cases_passed, "total": evaluation.cases_total},
        "metrics": orjson.loads(evaluation.metrics),
    }
    summary.summary = orjson.dumps(document).decode()
    session.flush()


def _lock_agent(
    session: Session,
    owner_id: str,
    agent_id: str,
    expected_revisions: Collection[int] | None,
) -> Agent:
    """Return the agent, locked until the transaction ends, if the owner may change it."""
    agent = session.get(Agent, agent_id, with_for_update=True) if is_agent_id(agent_id) else None
    if agent is None:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    holder = session.scalar(select(Namespace.owner_id).where(Namespace.name == agent.namespace))
    if holder != owner_id:
        raise NotOwner(f"{agent_id} belongs to another owner")
    if expected_revisions is not None and agent.revision not in expected_revisions:
        raise AgentChanged(f"{agent_id} has changed since the state that If-Match names")
    return agent


def _add_version(session: Session, agent_id: str, publication: Publication) -> int:
    """Add a version to a locked agent and return how many it has. Raises ``VersionExists``."""
    manifest = publication.manifest
    version = manifest.document["identity"]["version"]
    last = select(func.max(Version.sequence)).where(Version.agent_id == agent_id)
    sequence = (session.scalar(last) or 0) + 1
    inserted = insert_if_absent(
        session,
        Version,
        agent_id=agent_id,
        version=version,
        sequence=sequence,
        precedence=semver.precedence_key(version),
        prerelease=semver.parse(version).is_prerelease,
        manifest=manifest.encoded.decode(),
        digest=manifest.digest,
        impact_from_previous=publication.impact,
        published_at=clock.now(),
    )
    if not inserted:
        raise VersionExists(
            f"{agent_id} has version {version} already, or one that differs only in build "
            "metadata; a published version never changes, publish a higher one",
            **_existing(session, agent_id, manifest),
        )
    if publication.above is not None:
        session.merge(
            VersionImpact(
                agent_id=agent_id, version=publication.above, impact=publication.impact_above
            )
        )
    return sequence


def _existing(session: Session, agent_id: str, manifest: Canonical) -> dict[str, Any]:
    """Return what a manifest that comes too late finds: so a client sees if it was its own.

    ``existing_version`` has the precedence of the manifest's; None of the members if none has.
    """
    precedence = semver.precedence_key(manifest.document["identity"]["version"])
    found = session.execute(
        select(Version.version, Version.digest).where(
            Version.agent_id == agent_id, Version.precedence == precedence
        )
    ).one_or_none()
    return {
        "existing_version": found.version if found else None,
        "existing_digest": found.digest if found else None,
        "identical": found is not None and found.digest == manifest.digest,
    }


def _use(session: Session, owner_id: str, quotas: Quotas, **added: int) -> None:
    """Add to what the owner has. Raises ``QuotaExceeded``.

    The owner's row stays locked until the transaction ends, so of two writes at once none is let
    by. Every write takes it after all else that it locks in the registry.
    """
    insert_if_absent(session, OwnerUsage, owner_id=owner_id, **NO_USAGE)
    columns = [getattr(OwnerUsage, name) for name in added]
    used = session.execute(
        update(OwnerUsage)
        .where(OwnerUsage.owner_id == owner_id)
        .values({column: column + added[column.key] for column in columns})
        .returning(*columns)
        .execution_options(synchronize_session=False)
    ).one()
    for name, now in used._mapping.items():
        if added[name]:
            require_room(name, getattr(quotas, name), now - added[name], added[name])


def _touch(session: Session, agent: Agent) -> None:
    agent.revision += 1
    # Later than before, whatever the clock says.
    agent.updated_at = max(clock.now(), agent.updated_at + timedelta(microseconds=1))
    # Written now, so that the document read next in this transaction shows it.
    session.flush()


def _set_status(session: Session, agent: Agent, status: str) -> None:
    if agent.status != status:
        _count(session, agent.id, {agent.status: -1, status: +1})
        agent.status = status


def count_buckets(agent_id: str) -> tuple[str, str]:
    """Return the two buckets that count an agent: its shard of all agents and its namespace."""
    return f"#{zlib.crc32(agent_id.encode()) % COUNT_SHARDS}", agent_id.partition(":")[0]


def _count(session: Session, agent_id: str, changes: Mapping[str, int]) -> None:
    """Add to the agent's counters by status; every write locks them in the same order."""
    for bucket in count_buckets(agent_id):
        for status, change in sorted(changes.items()):
            insert_if_absent(session, AgentCount, bucket=bucket, status=status, agents=0)
            session.execute(
                update(AgentCount)
                .where(AgentCount.bucket == bucket, AgentCount.status == status)
                .values(agents=AgentCount.agents + change)
            )
