"""The registry's endpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Response
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock
from app.access.service import Principal
from app.canonical import Canonical
from app.http.blueprint import Blueprint
from app.http.context import services
from app.http.errors import ValidationFailed
from app.http.pagination import (
    MAX_PAGE_BYTES,
    PageQuery,
    decode_cursor,
    encode_cursor,
    page_response,
)
from app.http.responses import expected_revisions, json_response
from app.ledger.metering import record_operation
from app.ledger.service import open_agent_account
from app.notification.service import Event, publish
from app.registry import answers, documents, evidence, queries, schemas, service
from app.registry import manifest as rules
from app.registry.errors import NamespaceNotFound
from app.registry.names import normalize_namespace

blueprint = Blueprint(
    "registry", __name__, url_prefix="/v1", description="Agents, their versions and evaluations."
)


def _require_valid(principal: Principal, manifest: Canonical) -> None:
    """Raise ``ValidationFailed`` with all that a manifest breaks, or ``ChecksBusy``."""
    errors = [asdict(violation) for violation in rules.validate(manifest.document)]
    _refuse(errors or _schema_errors(principal, manifest), "the request breaks a rule; see errors")


def _refuse(errors: list[dict[str, Any]], detail: str) -> None:
    if errors:
        placed = [{**error, "pointer": f"/manifest{error['pointer']}"} for error in errors]
        raise ValidationFailed(detail, errors=placed[: rules.MAX_REPORTED])


def _schema_errors(principal: Principal, manifest: Canonical) -> list[dict[str, Any]]:
    """Return what the schemas of a manifest's capabilities may not be. Raises ``ChecksBusy``."""
    schemas = dict(rules.capability_schemas(manifest.document))
    judged = services().checks.judge(principal.owner_id, list(schemas.values()))
    return [
        {"pointer": f"{at}{pointer}", "code": "invalid_json_schema", "detail": detail}
        for at, faults in zip(schemas, judged, strict=True)
        for pointer, detail in faults
    ]


def _valid(principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    with services().database.read() as connection:
        service.may_use_namespace(connection, principal.owner_id, body["namespace"])
    _require_valid(principal, body["manifest"])
    return body


@blueprint.write(
    "POST",
    "/agents",
    body=schemas.RegisterAgent(),
    returns=answers.AgentOut(),
    problems=(422,),
    prepare=_valid,
)
def register_agent(session: Session, principal: Principal, body: dict[str, Any]) -> Response:
    """Register an agent with its first version.

    The namespace becomes yours with the first agent in it. Members of the manifest that have a
    default may be left out; what is stored is complete. The agent gets an account in the ledger.
    """
    agent_id = service.register_agent(
        session, principal.owner_id, body["namespace"], body["manifest"], _quotas()
    )
    _open_account(session, principal, agent_id)
    _meter(session, principal, "agent.register", agent_id=agent_id)
    version = body["manifest"].document["identity"]["version"]
    _tell(session, principal, "agent.registered", agent_id=agent_id, version=version)
    return _agent_response(session, agent_id)


def _quotas() -> service.Quotas:
    settings = services().settings
    return service.Quotas(
        namespaces=settings.quota_namespaces,
        agents=settings.quota_agents,
        versions=settings.quota_versions,
        agent_versions=settings.quota_agent_versions,
        manifest_bytes=settings.quota_manifest_bytes,
    )


def _open_account(session: Session, principal: Principal, agent_id: str) -> None:
    """Open a new agent's account in the transaction that makes the agent."""
    credit = services().settings.opening_credit_usd
    open_agent_account(session, agent_id, credit, principal.owner_id)


def _meter(session: Session, principal: Principal, operation: str, **metadata: str) -> None:
    """Record what was done for the caller, in the transaction that does it."""
    record_operation(session, principal.owner_id, principal.owner_name, operation, metadata)


def _tell(session: Session, principal: Principal, event_type: str, **data: str) -> None:
    """Tell the agent's owner's webhooks, in the transaction that does it."""
    event = Event(event_type, (principal.owner_id,), clock.now(), lambda: data)
    publish(session, event.owner_ids, [event])


def _tell_status(session: Session, principal: Principal, agent_id: str, status: str) -> None:
    _tell(session, principal, "agent.status_changed", agent_id=agent_id, status=status)


@blueprint.read("/agents", query=schemas.AgentListQuery(), returns=answers.AgentListOut())
def list_agents(connection: Connection, query: dict[str, Any]) -> Response:
    """List agents by ascending id.

    Pages by `offset` carry a total and shift when agents are registered meanwhile; pages by
    `cursor` do not shift.
    """
    filters = {"namespace": query["namespace"], "status": query["status"]}
    limit, cursor = query["limit"], query["cursor"]
    after = decode_cursor(cursor) if cursor else None
    offset = query["offset"] or 0
    rows = queries.list_agents(
        connection,
        **filters,
        limit=limit + 1,
        max_bytes=MAX_PAGE_BYTES,
        offset=offset,
        after=after,
    )
    pagination: dict[str, Any] = {}
    if after is None:
        total = queries.count_agents(connection, **filters)
        pagination = {"mode": "offset", "offset": offset, "total": total}
    return page_response(
        rows,
        documents.agent_document,
        lambda row: encode_cursor(row.id),
        limit=limit,
        **pagination,
    )


@blueprint.read("/agents/<agent_id>", returns=answers.AgentOut(), problems=(404,), conditional=True)
def get_agent(connection: Connection, agent_id: str) -> Response:
    """Show an agent with its latest version's manifest.

    The latest version is the highest release, or the highest prerelease where there is no
    release. Send the `ETag` as `If-None-Match` to get 304 while nothing has changed.
    """
    row = queries.find_agent(connection, agent_id)
    document = documents.agent_document(row)
    return json_response(document, etag=documents.agent_tag(row, document))


def _agent_response(session: Session, agent_id: str) -> Response:
    row = queries.find_agent(session, agent_id)
    document = documents.agent_document(row)
    tag = documents.agent_tag(row, document)
    return json_response(document, etag=tag, location=f"/v1/agents/{agent_id}")


def _require_owner(connection: Connection, principal: Principal, agent_id: str) -> None:
    service.require_owner(connection, principal.owner_id, agent_id)


def _compared(principal: Principal, body: dict[str, Any], agent_id: str) -> service.Publication:
    _require_valid(principal, body["manifest"])
    with services().database.read() as connection:
        return service.prepare_version(connection, principal.owner_id, agent_id, body["manifest"])


@blueprint.write(
    "PUT",
    "/agents/<agent_id>",
    body=schemas.PublishVersion(),
    returns=answers.AgentOut(),
    problems=(404, 422),
    conditional=True,
    admit=_require_owner,
    prepare=_compared,
)
def publish_version(
    session: Session, principal: Principal, publication: service.Publication, agent_id: str
) -> Response:
    """Publish a further version of an agent, and make the agent active.

    A published version never changes: the same number again is 409 `version_exists`, which says
    whether the content is `identical`. `If-Match` with the agent's `ETag` guards against others.
    """
    revived = service.publish_version(
        session, principal.owner_id, agent_id, publication, _quotas(), expected_revisions()
    )
    version = publication.manifest.document["identity"]["version"]
    _meter(session, principal, "agent.publish", agent_id=agent_id, version=version)
    _tell(session, principal, "version.published", agent_id=agent_id, version=version)
    if revived:
        _tell_status(session, principal, agent_id, service.ACTIVE)
    return _agent_response(session, agent_id)


@blueprint.write(
    "DELETE",
    "/agents/<agent_id>",
    returns=answers.DeprecatedOut(),
    problems=(404,),
    conditional=True,
)
def deprecate_agent(session: Session, principal: Principal, agent_id: str) -> Response:
    """Deprecate an agent.

    Its versions stay and can be read, and it takes no new delegations. Publishing a version makes
    it active again.
    """
    if service.deprecate_agent(session, principal.owner_id, agent_id, expected_revisions()):
        _tell_status(session, principal, agent_id, service.DEPRECATED)
    _meter(session, principal, "agent.deprecate", agent_id=agent_id)
    return json_response(
        {"id": agent_id, "status": service.DEPRECATED}, location=f"/v1/agents/{agent_id}"
    )


@blueprint.read(
    "/agents/<agent_id>/versions",
    query=PageQuery(),
    returns=answers.VersionListOut(),
    problems=(404,),
)
def list_versions(connection: Connection, query: dict[str, Any], agent_id: str) -> Response:
    """List an agent's versions, oldest first, each with its impact on callers.

    The impact is against the next lower version, whenever either was published.
    """
    limit, cursor = query["limit"], query["cursor"]
    after = int(decode_cursor(cursor, "[0-9]{1,9}")) if cursor else 0
    rows = queries.list_versions(connection, agent_id, limit=limit + 1, after=after)
    return page_response(
        rows,
        documents.version_entry,
        lambda row: encode_cursor(str(row.sequence)),
        limit=limit,
        member="versions",
        leading={"agent_id": agent_id},
    )


@blueprint.read(
    "/agents/<agent_id>/versions/<version>",
    returns=answers.VersionOut(),
    problems=(404,),
    conditional=True,
)
def get_version(connection: Connection, agent_id: str, version: str) -> Response:
    """Show one version with its manifest and digest.

    The digest is the SHA-256 of the manifest's canonical JSON (RFC 8785). Neither ever changes.
    """
    (row,) = queries.find_versions(connection, agent_id, version)
    return json_response(documents.version_document(agent_id, row), etag=documents.version_tag(row))


@blueprint.read(
    "/agents/<agent_id>/versions/<base_version>/behavioral-diff/<target_version>",
    returns=answers.DiffOut(),
    problems=(404,),
)
def get_behavioral_diff(
    connection: Connection, agent_id: str, base_version: str, target_version: str
) -> Response:
    """Show what changes for callers from one version to another.

    Compares capabilities: which are gone or new, required members of input and output, protocols
    and side effects. `breaking` means that some callers have to change.
    """
    base, target = queries.find_versions(connection, agent_id, base_version, target_version)
    return json_response(documents.diff_document(agent_id, base, target))


@blueprint.read(
    "/agents/<agent_id>/compare/<base_version>/<target_version>",
    returns=answers.ComparisonOut(),
    problems=(404,),
)
def compare_versions(
    connection: Connection, agent_id: str, base_version: str, target_version: str
) -> Response:
    """Show two versions' behavioral difference beside their evaluations.

    Both evaluation summaries are those that were stored last.
    """
    base, target = queries.find_versions(connection, agent_id, base_version, target_version)
    return json_response(documents.comparison_document(agent_id, base, target))


@blueprint.write(
    "POST",
    "/agents/<agent_id>/versions/<version>/evals",
    body=schemas.RecordEvaluation(),
    returns=answers.EvaluationOut(),
    problems=(404,),
)
def record_evaluation(
    session: Session, principal: Principal, body: dict[str, Any], agent_id: str, version: str
) -> Response:
    """Store the result of an evaluation of a version.

    Only the agent's owner may. The version's summary shows the result that was stored last, and
    all of them count a little in the agent's trust.
    """
    result = service.EvaluationResult(
        suite=body["suite"],
        metrics=body["metrics"],
        cases_passed=body["cases"]["passed"],
        cases_total=body["cases"]["total"],
        evaluated_at=body["evaluated_at"] or clock.now(),
    )
    evaluation = service.record_evaluation(session, principal.owner_id, agent_id, version, result)
    known = {"agent_id": agent_id, "version": version, "evaluation_id": evaluation.id}
    _tell(session, principal, "evaluation.recorded", **known)
    return json_response(
        documents.evaluation_document(evaluation),
        location=f"/v1/agents/{agent_id}/versions/{version}/evals",
    )


@blueprint.read(
    "/agents/<agent_id>/versions/<version>/evals",
    query=PageQuery(),
    returns=answers.EvaluationListOut(),
    problems=(404,),
)
def list_evaluations(
    connection: Connection, query: dict[str, Any], agent_id: str, version: str
) -> Response:
    """List a version's evaluations, newest first.

    Each is as its publisher stored it.
    """
    limit, cursor = query["limit"], query["cursor"]
    before = decode_cursor(cursor) if cursor else None
    rows = queries.list_evaluations(connection, agent_id, version, limit=limit + 1, before=before)
    return page_response(
        rows,
        documents.evaluation_document,
        lambda row: encode_cursor(row.id),
        limit=limit,
        member="evaluations",
        leading={"agent_id": agent_id, "version": version},
    )


@blueprint.read("/agents/<agent_id>/trust", returns=answers.TrustReportOut(), problems=(404,))
def get_trust(connection: Connection, agent_id: str) -> Response:
    """Show the trust in an agent: its score, and the evidence it is computed from.

    `limits` say what keeps the score down, `flags` what is to be known beside it.
    """
    return json_response(documents.trust_document(queries.find_agent(connection, agent_id)))


@blueprint.write(
    "POST",
    "/agents/<agent_id>/trust/usage",
    body=schemas.ReportUsage(),
    returns=answers.UsageReportOut(),
    problems=(404,),
)
def report_usage(
    session: Session, principal: Principal, body: dict[str, Any], agent_id: str
) -> Response:
    """Report how using an agent went.

    Reports count in the agent's trust where their owner has paid for work with money of its own.
    Those of the agent's own publisher are kept and do not count.
    """
    report, dealings = evidence.report_usage(
        session, principal.owner_id, agent_id, body["outcome"], body["count"], body["note"]
    )
    rating = documents.agent_rating(queries.find_agent(session, agent_id))
    return json_response(
        documents.usage_document(report, dealings, rating), location=f"/v1/agents/{agent_id}/trust"
    )


def _copied(principal: Principal, body: dict[str, Any], agent_id: str) -> tuple[str, service.Fork]:
    where = body["namespace"]
    limit = services().settings.max_manifest_bytes
    with services().database.read() as connection:
        fork = service.prepare_fork(
            connection, principal.owner_id, agent_id, where, body["new_slug"], limit
        )
    # Such a copy is published now, and a schema that cannot be used is of no use to its owner.
    detail = f"{agent_id} has schemas of capabilities that cannot be published any more; see errors"
    _refuse(_schema_errors(principal, fork.manifest), detail)
    return where, fork


@blueprint.write(
    "POST",
    "/agents/<agent_id>/fork",
    body=schemas.ForkAgent(),
    returns=answers.ForkOut(),
    problems=(404, 422),
    prepare=_copied,
)
def fork_agent(
    session: Session, principal: Principal, copied: tuple[str, service.Fork], agent_id: str
) -> Response:
    """Copy an agent's latest version into a namespace of yours, or one nobody has.

    The copy is an agent of its own, under `new_slug`, and says in `forked_from` what it was copied
    from. Its capabilities' schemas have to meet today's rules.
    """
    namespace, fork = copied
    forked_id = service.register_fork(session, principal.owner_id, namespace, fork, _quotas())
    _open_account(session, principal, forked_id)
    _meter(session, principal, "agent.fork", agent_id=forked_id, source_agent_id=agent_id)
    forked = documents.agent_document(queries.find_agent(session, forked_id))
    _tell(
        session,
        principal,
        "agent.registered",
        agent_id=forked_id,
        version=forked["latest_version"],
        forked_from=agent_id,
    )
    return json_response(
        {"source_agent_id": agent_id, "forked_agent": forked}, location=f"/v1/agents/{forked_id}"
    )


@blueprint.read(
    "/agents/<agent_id>/capabilities", returns=answers.CapabilityListOut(), problems=(404,)
)
def list_capabilities(connection: Connection, agent_id: str) -> Response:
    """List what an agent's latest version can do.

    Each with the schemas of its input and output, its side effects and its price.
    """
    row = queries.find_agent(connection, agent_id)
    return json_response(
        {
            "agent_id": agent_id,
            "version": row.latest_version,
            "capabilities": documents.capability_entries(row.manifest),
        }
    )


@blueprint.read(
    "/namespaces/<namespace>",
    query=PageQuery(),
    returns=answers.NamespaceOut(),
    problems=(404,),
)
def get_namespace(connection: Connection, query: dict[str, Any], namespace: str) -> Response:
    """List a namespace's agents by ascending id.

    The `@` may be left out. A namespace that nobody has is 404.
    """
    name = normalize_namespace(namespace)
    if name is None:
        raise NamespaceNotFound("a namespace is @ and 2 to 63 of a-z, 0-9, _ and -")
    limit, cursor = query["limit"], query["cursor"]
    after = decode_cursor(cursor) if cursor else None
    rows = queries.list_agents(
        connection, namespace=name, limit=limit + 1, max_bytes=MAX_PAGE_BYTES, after=after
    )
    return page_response(
        rows,
        documents.agent_document,
        lambda row: encode_cursor(row.id),
        limit=limit,
        leading={"namespace": name},
    )
