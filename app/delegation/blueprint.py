"""Delegation's endpoints. The owners of both sides see a delegation, and operators see all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import orjson
from flask import Response, request
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock
from app.access.service import Principal, find_own_keys, find_owner_ids
from app.canonical import canonical_json, digest
from app.delegation import (
    acceptance,
    answers,
    contract,
    creation,
    documents,
    queries,
    schemas,
    service,
    work,
)
from app.delegation.announcements import offers_of, progress_of
from app.delegation.errors import (
    AcceptanceRulesChanged,
    DelegationNotFound,
    NotAParty,
    NoTaskOffered,
    NotYourAgent,
)
from app.delegation.legacy import answers as legacy
from app.delegation.lifecycle import SETTLED
from app.delegation.models import Delegation
from app.delegation.payloads import Demand, Verdicts
from app.delegation.transitions import Actor
from app.errors import DomainError
from app.http import pagination
from app.http.blueprint import Blueprint
from app.http.context import services
from app.http.errors import ValidationFailed
from app.http.pagination import PageQuery
from app.http.problems import domain_problem
from app.http.responses import accepts_tag, event_stream, json_response
from app.http.schemas import Schema
from app.http.waiting import Watch, goes_on, wait_for, waiter
from app.ledger.metering import list_delegation_events
from app.money import to_usd
from app.registry.errors import AgentNotFound
from app.registry.queries import Party, find_namespace_owners, find_parties

blueprint = Blueprint(
    "delegation",
    __name__,
    url_prefix="/v1/delegations",
    description="Tasks that agents hand to each other under a budget.",
)

rules_blueprint = Blueprint(
    "acceptance",
    __name__,
    url_prefix="/v1/agents",
    description="What delegates take from other owners.",
)
blueprints = (blueprint, rules_blueprint)

# Events that a stream sends at once; a further look follows for those behind them.
MAX_STREAMED = 500
Body = dict[str, Any]
Awaited = Mapping[str, Sequence[Any]]


def _actor(principal: Principal) -> Actor:
    return Actor(principal.owner_id, principal.key_id, principal.has_role("admin"))


def _response(session: Session, delegation: Any, **more: Any) -> Response:
    document = documents.delegation_document(
        delegation, queries.list_events(session, delegation.id)
    )
    return json_response(document | more, location=f"/v1/delegations/{delegation.id}")


def _created(one: creation.Created) -> Body:
    row, events = SimpleNamespace(**one.row), [SimpleNamespace(**event) for event in one.events]
    return documents.delegation_document(row, events)


Checked = tuple[Body, Verdicts]


def _verdicts(principal: Principal, demands: Callable[..., list[Demand]]) -> Verdicts:
    """Hold what goes in or out to the demands that a read finds, on the caller's account."""
    with services().database.read() as connection:
        found = demands(connection, _actor(principal))
    return Verdicts(services().checks, principal.owner_id, found)


def _checked_inputs(principal: Principal, body: Body) -> Checked:
    bodies = body.get("delegations", [body])

    def demands(connection: Connection, actor: Actor) -> list[Demand]:
        return creation.input_demands(connection, actor, bodies)

    return body, _verdicts(principal, demands)


def _checked_output(principal: Principal, body: Body, delegation_id: str) -> Checked:
    def demands(connection: Connection, actor: Actor) -> list[Demand]:
        return work.output_demands(connection, actor, delegation_id, body["lease_token"], body)

    return body, _verdicts(principal, demands)


@blueprint.write(
    "POST",
    "",
    body=schemas.CreateDelegation(),
    returns=answers.DelegationOut(),
    problems=(404, 422),
    prepare=_checked_inputs,
)
def create_delegation(session: Session, principal: Principal, checked: Checked) -> Response:
    """Delegate a task to another agent under a budget.

    `inline` reports work that is done, and is settled at once. `remote` offers the work to the
    delegate's own workers, while the estimate is held in escrow. The delegate is pinned to its
    latest version.
    """
    body, verdicts = checked
    (result,) = creation.create(session, _actor(principal), [body], verdicts)
    if isinstance(result, DomainError):
        raise result
    return json_response(_created(result), location=f"/v1/delegations/{result.row['id']}")


@blueprint.write(
    "POST",
    "/batch",
    body=schemas.CreateBatch(),
    returns=answers.BatchOut(),
    prepare=_checked_inputs,
)
def create_delegations(session: Session, principal: Principal, checked: Checked) -> Response:
    """Report up to 100 pieces of inline work.

    Each is settled, or refused, on its own; `results` has one entry for each, in the same order.
    """
    body, verdicts = checked
    results = creation.create(session, _actor(principal), body["delegations"], verdicts)
    entries = [_batch_entry(index, result) for index, result in enumerate(results)]
    succeeded = sum(entry["succeeded"] for entry in entries)
    return json_response(
        {"succeeded": succeeded, "failed": len(entries) - succeeded, "results": entries}
    )


def _batch_entry(index: int, result: creation.Created | DomainError) -> Body:
    if isinstance(result, DomainError):
        problem = orjson.loads(domain_problem(result).get_data())
        return {"index": index, "succeeded": False, "delegation": None, "problem": problem}
    return {"index": index, "succeeded": True, "delegation": _created(result), "problem": None}


@blueprint.write(
    "POST",
    "/claim",
    body=schemas.Claim(),
    returns=answers.LeasedDelegationOut(),
    problems=(404,),
)
def claim_delegation(session: Session, principal: Principal, body: Body) -> Response:
    """Take on a task that waits for an agent of yours.

    The owners whose tasks wait take turns, and each gets its oldest task done first. The answer has
    the `lease_token` that every further command of the worker needs. Where none waits it is 404
    `no_task_offered`, after `wait_seconds` if given; the key stays unused.
    """
    agent_id = body["agent_id"]
    try:
        return _leased(session, work.claim(session, _actor(principal), agent_id))
    except NoTaskOffered:
        # What is raised undoes the transaction, whether or not the request then waits.
        wait_for(Watch(offers_of(agent_id), _new_tasks, agent_id), body.get("wait_seconds"))
        raise


def _new_tasks(connection: Connection, known: Mapping[str, Sequence[None]]) -> Awaited:
    """Return as many workers of each agent as tasks wait for it."""
    tasks = queries.count_waiting(connection, known, clock.now())
    return {agent_id: [None] * number for agent_id, number in tasks.items()}


def _leased(session: Session, delegation: Delegation) -> Response:
    assert delegation.lease_expires_at is not None  # noqa: S101 (a lease was just given)
    return _response(
        session,
        delegation,
        lease_token=delegation.lease_token,
        lease_expires_at=clock.isoformat(delegation.lease_expires_at),
    )


Step = Callable[[Session, Actor, str, Any], Response]


def _command(name: str, body: Schema, returns: Schema, **more: Any) -> Callable[[Step], Step]:
    """Declare a command to one delegation; ``more`` is of ``Blueprint.write``."""

    def declare(step: Step) -> Step:
        def view(session: Session, principal: Principal, body: Any, delegation_id: str) -> Response:
            return step(session, _actor(principal), delegation_id, body)

        view.__name__, view.__doc__ = step.__name__, step.__doc__
        path = f"/<delegation_id>/{name}"
        declared = blueprint.write(
            "POST", path, body=body, returns=returns, problems=(404, 422), **more
        )
        declared(view)
        return step

    return declare


@_command("accept", schemas.Empty(), answers.LeasedDelegationOut())
def accept_delegation(session: Session, actor: Actor, delegation_id: str, _: Body) -> Response:
    """Take on one task that is offered to an agent of yours.

    Or one whose worker let its lease run out. Gives a new lease; an earlier one is worth nothing.
    """
    return _leased(session, work.accept(session, actor, delegation_id))


@_command("decline", schemas.Reason(), answers.DelegationOut())
def decline_delegation(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Turn down a task that is offered to an agent of yours.

    The requester gets back all that is held.
    """
    return _response(session, work.decline(session, actor, delegation_id, body["reason"]))


@_command("heartbeat", schemas.Lease(), answers.HeartbeatOut())
def send_heartbeat(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Give a sign of life while you work on a task.

    Renews the lease, and tells whether to stop: see `status` and `cancel_requested`.
    """
    delegation = work.heartbeat(session, actor, delegation_id, body["lease_token"])
    return json_response(documents.working_document(delegation))


@_command("meter", schemas.Meter(), answers.MeterResultOut())
def meter_delegation(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Report what the work on a task has used, in up to 100 events.

    Each event counts once, however often it is reported. At 100 % of what is authorized work is
    paused, unless it may grow by itself; the event that crosses 120 % ends it.
    """
    reports = [
        work.Report(
            event["event_id"],
            event["operation"],
            schemas.cost_of(event),
            event["metadata"],
            event["occurred_at"],
        )
        for event in body["events"]
    ]
    delegation, outcomes = work.meter(
        session, actor, delegation_id, body["lease_token"], reports, body["source"]
    )
    results = [
        {"event_id": report.event_id, "result": outcome, "cost_usd": to_usd(report.cost_micros)}
        for report, outcome in zip(reports, outcomes, strict=True)
    ]
    return json_response({**documents.working_document(delegation), "events": results})


@_command("ask", schemas.Ask(), answers.DelegationOut())
def ask_question(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Ask the requester something that the work waits for.

    The lease rests until the answer, the deadline does not.
    """
    delegation = work.ask(session, actor, delegation_id, body["lease_token"], body["question"])
    return _response(session, delegation)


@_command("answer", schemas.AnswerQuestion(), answers.DelegationOut())
def answer_question(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Answer the delegate's question.

    The work goes on, with a renewed lease.
    """
    return _response(session, service.answer(session, actor, delegation_id, body["answer"]))


@_command(
    "deliver",
    schemas.Deliver(),
    answers.DelegationOut(),
    prepare=_checked_output,
)
def deliver_result(
    session: Session, actor: Actor, delegation_id: str, checked: Checked
) -> Response:
    """Hand over the result of a task.

    `output` is held to the capability's schema. The requester has the review period to accept or
    dispute it; a period of 0 pays at once.
    """
    body, verdicts = checked
    names = ("output", "output_uri", "output_sha256")
    deliverable = {name: body[name] for name in names if name in body}
    token = body["lease_token"]
    return _response(
        session, work.deliver(session, actor, delegation_id, token, deliverable, verdicts)
    )


@_command("fail", schemas.Fail(), answers.DelegationOut())
def fail_delegation(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Give a task up.

    What was metered is paid after the review period, unless the requester disputes it.
    """
    delegation = work.fail(session, actor, delegation_id, body["lease_token"], body["reason"])
    return _response(session, delegation)


@_command("accept-result", schemas.Empty(), answers.DelegationOut())
def accept_result(session: Session, actor: Actor, delegation_id: str, _: Body) -> Response:
    """Accept a result, or what is charged for work without one.

    The charge is paid at once, and the rest of what was held goes back.
    """
    return _response(session, service.accept_result(session, actor, delegation_id))


@_command("dispute", schemas.Dispute(), answers.DelegationOut())
def dispute_result(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Contest a result, or what is charged for work without one.

    Nothing is paid until an operator decides.
    """
    return _response(session, service.dispute(session, actor, delegation_id, body["reason"]))


@_command("resolve", schemas.Resolve(), answers.DelegationOut(), role="admin")
def resolve_dispute(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Decide a dispute.

    For operators. `charge_usd` is paid to the delegate, at most what it has a claim to; the rest
    goes back to the requester.
    """
    return _response(
        session,
        service.resolve(session, actor, delegation_id, body["charge_usd"], body["reason"]),
    )


@_command("reauthorize", schemas.Reauthorize(), answers.DelegationOut())
def reauthorize_delegation(
    session: Session, actor: Actor, delegation_id: str, body: Body
) -> Response:
    """Authorize more money for work that is paused.

    The amount is above what is used and at most the maximum budget. Inline work, which is done
    already, is settled by it.
    """
    return _response(
        session, service.reauthorize(session, actor, delegation_id, body["new_estimate_usd"])
    )


@_command("cancel", schemas.Cancel(), answers.DelegationOut())
def cancel_delegation(session: Session, actor: Actor, delegation_id: str, body: Body) -> Response:
    """Call a delegation off.

    An offer ends at once. A worker that is at work has 30 seconds to confirm with its lease token;
    what it delivers within that time counts.
    """
    return _response(
        session,
        service.cancel(session, actor, delegation_id, body["lease_token"], body["reason"]),
    )


@blueprint.read(
    "", query=schemas.DelegationListQuery(), returns=answers.DelegationListOut(), role="viewer"
)
def list_delegations(connection: Connection, principal: Principal, query: Body) -> Response:
    """List delegations of your agents on either side, newest first.

    An operator's list has all. Input and result of a task are in the delegation itself.
    """
    limit, cursor = query.pop("limit"), query.pop("cursor")
    before = pagination.decode_moment(cursor) if cursor else None
    owner_id = None if principal.has_role("admin") else principal.owner_id
    rows = queries.list_delegations(
        connection, owner_id=owner_id, **query, limit=limit + 1, before=before
    )
    now = clock.now()
    return pagination.page_response(
        rows,
        lambda row: documents.summary_document(documents.effective(row, now)),
        lambda row: pagination.encode_moment(row.created_at, row.id),
        limit=limit,
    )


@blueprint.read("/contract", returns=answers.ContractOut(), role="viewer")
def get_delegation_contract(_: Connection, __: Principal) -> Response:
    """Show the contract that every delegation is made under.

    It says what both sides may rely on, and where the thresholds of budgets are.
    """
    return json_response(contract.CONTRACT)


@blueprint.read("/contract/schema", returns=answers.ContractSchemaOut())
def get_contract_schema(_: Connection) -> Response:
    """Show the JSON Schema of the contract.

    Answers of `GET /v1/delegations/contract` follow it.
    """
    return json_response(contract.SCHEMA)


def _may_see(principal: Principal, owner_ids: set[str]) -> bool:
    return principal.owner_id in owner_ids or principal.has_role("admin")


def _visible(connection: Connection, principal: Principal, delegation_id: str) -> Any:
    """Return a delegation as it is now, if the caller may see it. Raises ``NotAParty``."""
    row = queries.find_delegation(connection, delegation_id)
    if not _may_see(principal, {row.requester_owner_id, row.delegate_owner_id}):
        raise NotAParty("the delegation is between agents of other owners")
    return documents.effective(row, clock.now())


@blueprint.read(
    "/legacy", query=PageQuery(), returns=legacy.LegacyDelegationListOut(), role="viewer"
)
def list_legacy_delegations(connection: Connection, principal: Principal, query: Body) -> Response:
    """List imported delegations of your agents on either side.

    They were made in an earlier service, are kept as they were, and take no commands. An operator's
    list has all.
    """
    limit, cursor = query["limit"], query["cursor"]
    owner_id = None if principal.has_role("admin") else principal.owner_id
    before = pagination.decode_moment(cursor) if cursor else None
    rows = queries.list_legacy_records(
        connection, owner_id=owner_id, limit=limit + 1, before=before
    )
    return pagination.page_response(
        rows,
        documents.legacy_document,
        lambda row: pagination.encode_moment(row.created_at, row.id),
        limit=limit,
    )


@blueprint.read(
    "/<delegation_id>",
    query=schemas.WaitQuery(),
    returns=legacy.AnyDelegationOut(),
    problems=(404,),
    role="viewer",
    conditional=True,
)
def get_delegation(
    connection: Connection, principal: Principal, query: Body, delegation_id: str
) -> Response:
    """Show a delegation, or one that was imported from an earlier service.

    With `wait_seconds` the answer comes once something happens to the delegation. Send the `ETag`
    of the state that you know as `If-None-Match`, so that nothing is missed between two requests.
    """
    try:
        row = _visible(connection, principal, delegation_id)
    except DelegationNotFound:
        record = queries.find_legacy_record(connection, delegation_id)
        # Who owns the agents is asked now: when they were imported nobody may have.
        parties = find_parties(connection, (record.requester_agent_id, record.delegate_agent_id))
        if not _may_see(principal, {party.owner_id for party in parties.values()}):
            raise NotAParty("the delegation is between agents of other owners") from None
        return _tagged(documents.legacy_document(record))
    events = queries.list_events(connection, delegation_id)
    response = _tagged(documents.delegation_document(row, events))
    if response.status_code == HTTPStatus.NOT_MODIFIED or "If-None-Match" not in request.headers:
        _await_change(row, query["wait_seconds"])
    return response


def _tagged(document: Body) -> Response:
    """Return a document with a hash of it as its entity tag."""
    return json_response(document, etag=sha256(orjson.dumps(document)).hexdigest()[:32])


def _await_change(row: Any, seconds: int) -> None:
    """Have the request wait until a delegation has gone on since it came, or something is known."""
    if row.settlement == SETTLED:
        return
    progress = queries.progress(row)
    own = waiter()
    if own is None or own.memory.setdefault("progress", progress) != progress:
        return
    wait_for(Watch(progress_of(row.id), _progressed, row.id, progress), seconds)


def _progressed(connection: Connection, known: Mapping[str, Sequence[Any]]) -> Awaited:
    """Return the states that delegations are in no more."""
    found = queries.find_progress(connection, known)
    return {
        key: [one for one in states if one != found.get(key, one)] for key, states in known.items()
    }


@blueprint.read(
    "/<delegation_id>/status",
    returns=answers.DelegationWithTrailOut(),
    problems=(404,),
    role="viewer",
)
def get_delegation_status(
    connection: Connection, principal: Principal, delegation_id: str
) -> Response:
    """Show a delegation with its audit trail.

    The trail has every transition and every metering event, in the order of time: the latest 1000.
    """
    row = _visible(connection, principal, delegation_id)
    events = queries.list_events(connection, delegation_id)
    trail = documents.audit_trail(
        events, list_delegation_events(connection, delegation_id, limit=documents.MAX_TRAIL)
    )
    return json_response(documents.delegation_document(row, events) | {"audit_trail": trail})


@blueprint.read(
    "/<delegation_id>/events",
    query=PageQuery(),
    returns=answers.DelegationEventListOut(),
    problems=(404,),
    role="viewer",
)
def get_delegation_events(
    connection: Connection, principal: Principal, query: Body, delegation_id: str
) -> Response:
    """List what happened to a delegation, oldest first.

    Ids of keys are those of your own; operators see all.
    """
    _visible(connection, principal, delegation_id)
    limit, cursor = query["limit"], query["cursor"]
    after = int(pagination.decode_cursor(cursor, "[0-9]{1,9}")) if cursor else 0
    rows = queries.list_events(connection, delegation_id, limit=limit + 1, after=after)
    keys = _shown_keys(connection, principal, rows)
    return pagination.page_response(
        rows,
        lambda row: documents.event_document(row, keys),
        lambda row: pagination.encode_cursor(str(row.number)),
        limit=limit,
        member="events",
        leading={"delegation_id": delegation_id},
    )


def _shown_keys(connection: Connection, principal: Principal, events: Sequence[Any]) -> set[str]:
    """Return which of the keys of events the caller may see the ids of."""
    keys = {row.key_id for row in events if row.key_id is not None}
    if principal.has_role("admin"):
        return keys
    return find_own_keys(connection, principal.owner_id, keys)


def _last_event_id(query: Body) -> str | None:
    """Return the last event that the client of a stream has."""
    found: str | None = request.headers.get("Last-Event-ID") or query["last_event_id"]
    return found


@blueprint.read(
    "/<delegation_id>/events/stream",
    query=schemas.StreamQuery(),
    returns=answers.StreamedEventOut(),
    problems=(404,),
    role="viewer",
    streams=True,
)
def stream_delegation_events(
    connection: Connection, principal: Principal, query: Body, delegation_id: str
) -> Response:
    """Send what happens to a delegation, from its beginning, as it happens.

    Server-sent events; the `id` of each is the event's `number`. The stream ends with the event
    that settles the delegation. Whoever asks again after that gets 204, which tells a browser's
    `EventSource` to stop.
    """
    own = waiter()
    # A stream that goes on knows itself how far it is.
    last = own.memory.get("last") if own else None
    if last is None:
        last = _number(_last_event_id(query))
    row = _visible(connection, principal, delegation_id)
    events = queries.list_events(connection, delegation_id, limit=MAX_STREAMED, after=last)
    keys = _shown_keys(connection, principal, events)
    last = events[-1].number if events else last
    ended = row.settlement == SETTLED and last >= row.events
    if ended and not events:
        return Response(status=HTTPStatus.NO_CONTENT)
    if own is not None and not ended:
        own.memory["last"] = last
        goes_on(Watch(progress_of(row.id), _happened, row.id, last))
    return event_stream(
        (str(event.number), documents.event_document(event, keys)) for event in events
    )


def _number(last_event_id: str | None) -> int:
    """Return the number of an event. Raises ``ValidationFailed``."""
    if last_event_id is None:
        return 0
    if not re.fullmatch("[0-9]{1,9}", last_event_id):
        expected = "expected the id of an event of this stream, a number"
        raise ValidationFailed(
            "the request breaks a rule; see errors",
            errors=[{"parameter": "last_event_id", "code": "invalid", "detail": expected}],
        )
    return int(last_event_id)


def _happened(connection: Connection, known: Mapping[str, Sequence[int]]) -> Awaited:
    """Return the numbers of events of delegations after which there are more."""
    found = queries.find_progress(connection, known)
    return {
        key: [number for number in numbers if key in found and found[key][0] > number]
        for key, numbers in known.items()
    }


def _delegate(reader: Connection | Session, agent_id: str) -> Party:
    found = find_parties(reader, (agent_id,))
    if agent_id not in found:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    return found[agent_id]


def _own_delegate(session: Session, principal: Principal, agent_id: str) -> Party:
    delegate = _delegate(session, agent_id)
    if delegate.owner_id != principal.owner_id:
        raise NotYourAgent(f"{agent_id} belongs to another owner, so its rules are not yours")
    return delegate


def _rules_document(principal: Principal, delegate: Party, rules: acceptance.Rules) -> Body:
    whole = _may_see(principal, {delegate.owner_id})
    return documents.rules_document(delegate, rules, principal.owner_id, is_whole=whole)


def _rules_tag(document: Body) -> str:
    """Return the entity tag of rules: a hash of what is shown of them."""
    return digest(canonical_json(document)).removeprefix("sha256:")


@rules_blueprint.read(
    "/<agent_id>/acceptance-rules",
    returns=answers.AcceptanceRulesOut(),
    problems=(404,),
    role="viewer",
    conditional=True,
)
def get_acceptance_rules(connection: Connection, principal: Principal, agent_id: str) -> Response:
    """Show what an agent takes from other owners.

    `takes_your_offers` says whether you are let in. Who else is, the agent's owner and operators
    see alone.
    """
    delegate = _delegate(connection, agent_id)
    rules = acceptance.find_rules(connection, (agent_id,))[agent_id]
    document = _rules_document(principal, delegate, rules)
    return json_response(document, etag=_rules_tag(document))


@rules_blueprint.write(
    "PUT",
    "/<agent_id>/acceptance-rules",
    body=schemas.PutAcceptanceRules(),
    returns=answers.AcceptanceRulesOut(),
    problems=(404, 422),
    conditional=True,
)
def put_acceptance_rules(
    session: Session, principal: Principal, body: Body, agent_id: str
) -> Response:
    """Set all acceptance rules of an agent of yours.

    What is left out gets its default. The rules bind requests that come from then on.
    """
    delegate = _own_delegate(session, principal, agent_id)
    known = _owner_ids(session, {*(body["allowed_owners"] or ()), *body["denied_owners"]})
    rules = acceptance.Rules(
        _named("allowed_owners", body, known),
        _named("denied_owners", body, known),
        body["takes_inline"],
        body["smallest_estimate_usd"],
        body["shortest_deadline_seconds"],
        body["shortest_lease_seconds"],
        body["most_live_offers"],
    )
    return _change_rules(session, principal, delegate, rules)


def _owner_ids(session: Session, names: set[str]) -> dict[str, str]:
    """Return the ids of owners by their names, or by namespaces of theirs."""
    namespaces = {name for name in names if name.startswith("@")}
    return find_namespace_owners(session, namespaces) | find_owner_ids(session, names - namespaces)


def _named(member: str, body: Body, known: dict[str, str]) -> Any:
    """Return a member's owners: ids by the names given. Raises ``ValidationFailed``."""
    names = body[member]
    faults = [
        {
            "pointer": f"/{member}/{place}",
            "code": "unknown_owner",
            "detail": "expected the name of an owner, or a namespace that somebody has",
        }
        for place, name in enumerate(names or ())
        if name not in known
    ]
    if faults:
        raise ValidationFailed("the request breaks a rule; see errors", errors=faults)
    return None if names is None else {name: known[name] for name in names}


def _change_rules(
    session: Session, principal: Principal, delegate: Party, rules: acceptance.Rules
) -> Response:
    """Change an agent's rules, if they are still those that ``If-Match`` names."""

    def check(present: acceptance.Rules) -> None:
        if not accepts_tag(_rules_tag(_rules_document(principal, delegate, present))):
            raise AcceptanceRulesChanged("the rules are not those that If-Match names")

    acceptance.change_rules(session, delegate.id, rules, check)
    document = _rules_document(principal, delegate, rules)
    path = f"/v1/agents/{delegate.id}/acceptance-rules"
    return json_response(document, etag=_rules_tag(document), location=path)


@rules_blueprint.write(
    "DELETE",
    "/<agent_id>/acceptance-rules",
    returns=answers.AcceptanceRulesOut(),
    problems=(404,),
    conditional=True,
)
def delete_acceptance_rules(session: Session, principal: Principal, agent_id: str) -> Response:
    """Go back to the default acceptance rules of an agent of yours.

    By default every owner may offer, and report inline work.
    """
    delegate = _own_delegate(session, principal, agent_id)
    return _change_rules(session, principal, delegate, acceptance.Rules())
