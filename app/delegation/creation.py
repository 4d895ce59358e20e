"""Creating delegations: offers of remote work, and inline work that is done and settled at once.

One function creates any number of them with the same few statements, so that a single delegation
and a batch of a hundred take the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app import clock, ids
from app.delegation import breaker, lifecycle, payloads, policy, queries
from app.delegation.acceptance import (
    Rules,
    check_terms,
    find_rules,
    min_deadline_seconds,
    require_place,
)
from app.delegation.announcements import announce
from app.delegation.capabilities import find_capability, permissions
from app.delegation.errors import (
    DelegateInactive,
    DelegateVersionMismatch,
    NotYourAgent,
    PolicyDenied,
    PolicyForbidden,
)
from app.delegation.models import Delegation, DelegationEvent
from app.delegation.payloads import Demand, Verdicts
from app.delegation.settlement import metering_source, movement_of_close
from app.delegation.track_record import record_turnover
from app.delegation.transitions import Actor
from app.errors import DomainError, Overtaken
from app.ledger import service as ledger
from app.ledger.errors import InsufficientFunds
from app.ledger.metering import SERVICE, MeteringEvent, record_events
from app.ledger.service import Leg, Movement
from app.money import to_usd
from app.registry.errors import AgentNotFound
from app.registry.queries import Party, find_parties
from app.statements import RowInsert

# What inline work without a report is taken to have cost, in per cent of the estimate, and how that
# is split between a call of a model and one of a tool.
REHEARSAL_PER_CENT = 92
REHEARSAL_MODEL_PER_CENT = 40

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Permit:
    """What registry and policy allow, whatever goes in."""

    requester: Party
    delegate: Party
    capability: dict[str, Any] | None
    decision: policy.Decision
    min_deadline_seconds: int


@dataclass(frozen=True)
class Admitted:
    """A request that registry and policy allow; only funds can still refuse it."""

    body: Body
    requester: Party
    delegate: Party
    decision: policy.Decision
    min_deadline_seconds: int


@dataclass
class Created:
    """Everything a new delegation writes, and its row for the answer."""

    row: dict[str, Any]
    events: list[dict[str, Any]]
    movements: list[Movement]
    metering: list[MeteringEvent] = field(default_factory=list)


def create(
    session: Session, actor: Actor, bodies: Sequence[Body], verdicts: Verdicts
) -> list[Created | DomainError]:
    """Create a delegation for each request, in order; one that is refused leaves its error.

    A request sees the funds that those before it left. The number of statements does not depend on
    the number of inline requests; remote work is offered one by one. ``verdicts`` holds what was
    found of the ``input_demands``.
    """
    parties, rules = _find_sides(session, bodies)
    admitted = [_caught(_admit, session, actor, body, parties, rules, verdicts) for body in bodies]
    # All accounts are locked at once and in order, so that no two writers wait for each other.
    balances = ledger.lock_balances(
        session,
        {
            party.id
            for request in admitted
            if isinstance(request, Admitted)
            for party in (request.requester, request.delegate)
        },
    )
    now = clock.now()
    moment = queries.next_moment(session, now)
    results: list[Created | DomainError] = []
    for request in admitted:
        if isinstance(request, Admitted):
            results.append(_caught(_open, actor, request, balances, now, moment))
        else:
            results.append(request)
    _write(session, actor, [result for result in results if isinstance(result, Created)])
    return results


def _caught(function: Any, *arguments: Any) -> Any:
    """Return the function's result, or the domain error it raises. Raises ``Overtaken``."""
    try:
        return function(*arguments)
    except Overtaken:
        raise
    except DomainError as error:
        return error


def input_demands(reader: Connection, actor: Actor, bodies: Sequence[Body]) -> list[Demand]:
    """Return what the inputs have to match of the requests that are allowed but for that."""
    named = [body for body in bodies if body["capability_id"] is not None]
    parties, rules = _find_sides(reader, named)
    permits = [_caught(_permit, actor, body, parties, rules) for body in named]
    return [
        (permit.capability["input_schema"], body["task_input"])
        for body, permit in zip(named, permits, strict=True)
        if isinstance(permit, Permit) and permit.capability is not None
    ]


def _find_sides(
    reader: Session | Connection, bodies: Sequence[Body]
) -> tuple[dict[str, Party], dict[str, Rules]]:
    """Return the agents of all requests, and what those of the delegates take that there are."""
    sides = ("requester_agent_id", "delegate_agent_id")
    parties = find_parties(reader, {body[side] for body in bodies for side in sides})
    delegates = {body["delegate_agent_id"] for body in bodies} & parties.keys()
    return parties, find_rules(reader, delegates)


def _admit(
    session: Session,
    actor: Actor,
    body: Body,
    parties: Mapping[str, Party],
    rules: Mapping[str, Rules],
    verdicts: Verdicts,
) -> Admitted:
    """Check all but funds. Raises what refuses the request."""
    permit = _permit(actor, body, parties, rules)
    requester, delegate = permit.requester, permit.delegate
    if permit.capability is not None:
        schema = permit.capability["input_schema"]
        payloads.check(schema, body["task_input"], "task_input", verdicts)
    if body["execution"] == lifecycle.REMOTE and delegate.owner_id != requester.owner_id:
        require_place(session, rules[delegate.id], delegate.id, requester.owner_id, clock.now())
    return Admitted(body, requester, delegate, permit.decision, permit.min_deadline_seconds)


def _permit(
    actor: Actor, body: Body, parties: Mapping[str, Party], rules: Mapping[str, Rules]
) -> Permit:
    """Check who acts, what the delegate takes and what policy says; it costs little.

    Raises what refuses the request.
    """
    requester = _party(parties, body["requester_agent_id"])
    delegate = _party(parties, body["delegate_agent_id"])
    if requester.owner_id != actor.owner_id:
        raise NotYourAgent(
            f"{requester.id} belongs to another owner, so it cannot delegate for you"
        )
    if delegate.status != "active":
        raise DelegateInactive(f"{delegate.id} is {delegate.status} and takes no new work")
    _check_pins(body, delegate)
    taken = rules[delegate.id]
    if delegate.owner_id != requester.owner_id:
        check_terms(taken, requester.owner_id, body)
    manifest = orjson.loads(delegate.manifest)
    capability = find_capability(delegate, manifest, body["capability_id"])
    rated = delegate.trust["tier"] != "unrated"
    decision = policy.decide(
        policy.PolicyInput(
            requester=requester.id,
            delegate=delegate.id,
            delegate_version=delegate.version,
            estimated_micros=body["estimated_cost_usd"],
            max_budget_micros=body["max_budget_usd"],
            minimum_trust=body["min_delegate_trust_score"],
            trust_score=delegate.trust["score"] if rated else None,
            required_permissions=tuple(body["required_permissions"]),
            granted_permissions=permissions(manifest, capability),
            auto_reauthorize=body["auto_reauthorize"],
        )
    )
    if not decision["allowed"]:
        refusal = PolicyDenied if policy.only_budget(decision) else PolicyForbidden
        violated = ", ".join(decision["violated_constraints"])
        raise refusal(f"policy refuses the delegation: {violated}", policy_decision=decision)
    return Permit(requester, delegate, capability, decision, min_deadline_seconds(taken, manifest))


def _check_pins(body: Body, delegate: Party) -> None:
    """Raise ``DelegateVersionMismatch`` unless the delegate is what the request names, if it does.

    A delegation is pinned to the latest version, so that one that another has replaced will not do.
    """
    present = {"delegate_version": delegate.version, "delegate_digest": delegate.digest}
    for name, found in present.items():
        if body.get(name, found) != found:
            raise DelegateVersionMismatch(
                f"expected the {name} {body[name]}, but that of {delegate.id} is {found} now",
                **present,
            )


def _party(parties: Mapping[str, Party], agent_id: str) -> Party:
    if agent_id not in parties:
        raise AgentNotFound(f"no agent has the id {agent_id!r}")
    return parties[agent_id]


def _open(
    actor: Actor, request: Admitted, balances: dict[str, int], now: datetime, moment: datetime
) -> Created:
    """Hold the estimate and, inline, do all the rest; ``balances`` is left as it is then.

    Raises ``InsufficientFunds``.
    """
    body, payer = request.body, request.requester.id
    estimate = body["estimated_cost_usd"]
    if balances[payer] < estimate:
        raise InsufficientFunds(
            f"the balance of {payer} does not cover the estimate",
            balance_usd=to_usd(balances[payer]),
            needed_usd=to_usd(estimate),
        )
    created = _offer(actor, request, now, moment)
    balances[payer] -= estimate
    if created.row["execution"] == lifecycle.INLINE:
        _run_inline(actor, request, created, balances, now)
    created.metering.append(_own_operation(actor, created.row))
    return created


# The columns of work that nothing has happened to yet.
_UNTOUCHED = {
    "revision": 1,
    "events": 0,
    "metered_micros": 0,
    "charged_micros": None,
    "released_micros": 0,
    "settlement": lifecycle.OPEN,
    "settled_by": None,
    "breaker_level": 0,
    "simulated": False,
    "lease_number": 0,
    "silent_takeovers": 0,
    "lease_token": None,
    "lease_expires_at": None,
    "deadline_at": None,
    "cancel_requested_at": None,
    "deliverable": None,
    "closed_at": None,
    "evidence": None,
    "own_micros": None,
}


def _offer(actor: Actor, request: Admitted, now: datetime, moment: datetime) -> Created:
    body, delegate = request.body, request.delegate
    delegation_id = ids.new_id()
    estimate = body["estimated_cost_usd"]
    hold = Leg(
        ledger.agent_account(request.requester.id), ledger.escrow_account(delegation_id), estimate
    )
    task_input = body["task_input"]
    row = {
        **_UNTOUCHED,
        "id": delegation_id,
        "execution": body["execution"],
        "status": lifecycle.OFFERED,
        "requester_agent_id": request.requester.id,
        "requester_owner_id": request.requester.owner_id,
        "delegate_agent_id": delegate.id,
        "delegate_owner_id": delegate.owner_id,
        "delegate_version": delegate.version,
        "delegate_digest": delegate.digest,
        "capability_id": body["capability_id"],
        "task_spec": body["task_spec"],
        "task_input": None if task_input is None else orjson.dumps(task_input).decode(),
        "estimated_micros": estimate,
        "max_budget_micros": body["max_budget_usd"],
        "authorized_micros": estimate,
        "held_micros": estimate,
        "auto_reauthorize": body["auto_reauthorize"],
        "policy_decision": orjson.dumps(request.decision).decode(),
        "lease_seconds": body["lease_seconds"],
        "deadline_seconds": body["deadline_seconds"],
        "delegate_min_deadline_seconds": request.min_deadline_seconds,
        "review_seconds": body["review_within_seconds"],
        "due_at": now + timedelta(seconds=body["accept_within_seconds"]),
        "created_at": moment,
        "updated_at": moment,
    }
    movement = Movement("hold", f"hold:{delegation_id}", [hold], delegation_id)
    created = Created(row, [], [movement])
    _add_event(created, "created", request.requester.id, actor, held_usd=to_usd(estimate))
    return created


def _add_event(
    created: Created, kind: str, actor_id: str, actor: Actor | None, **details: Any
) -> None:
    """Add an event in the row's present status; ``actor`` None is the system."""
    row = created.row
    row["events"] += 1
    created.events.append(
        {
            "delegation_id": row["id"],
            "number": row["events"],
            "kind": kind,
            "status": row["status"],
            "actor": actor_id,
            "key_id": actor.key_id if actor else None,
            "details": orjson.dumps(details).decode(),
            "at": row["updated_at"],
        }
    )


def _own_operation(actor: Actor, row: dict[str, Any]) -> MeteringEvent:
    """Meter the service's own part in a new delegation, which costs nothing."""
    return MeteringEvent(
        source=SERVICE,
        event_id=f"delegation.create:{row['id']}",
        operation="delegation.create",
        cost_micros=0,
        actor=row["requester_agent_id"],
        owner_id=actor.owner_id,
        payer_owner_id=None,
        delegation_id=None,
        metadata={"delegation_id": row["id"], "execution": row["execution"]},
        occurred_at=row["created_at"],
    )


def _reports(body: Body) -> tuple[list[dict[str, Any]], bool]:
    """Return what inline work cost, one report an operation, and whether that is a rehearsal."""
    if body["metering_events"] is not None:
        return list(body["metering_events"]), False
    if body["simulated_actual_cost_usd"] is not None:
        return [
            {"operation": "reported_cost", "cost_usd": body["simulated_actual_cost_usd"]}
        ], False
    # Half up, in integers.
    total = (body["estimated_cost_usd"] * REHEARSAL_PER_CENT + 50) // 100
    model = (total * REHEARSAL_MODEL_PER_CENT + 50) // 100
    return [
        {"operation": "llm_call", "cost_usd": model},
        {"operation": "tool_call", "cost_usd": total - model},
    ], True


def _run_inline(
    actor: Actor, request: Admitted, created: Created, balances: dict[str, int], now: datetime
) -> None:
    """Take reported work through acceptance, metering, delivery and settlement.

    All of it is the requester's word, so every event names the requester as who said it.
    """
    row, payer = created.row, request.requester.id
    reports, row["simulated"] = _reports(request.body)
    row.update(
        status=lifecycle.IN_PROGRESS,
        deadline_at=now + timedelta(seconds=row["deadline_seconds"]),
    )
    row["due_at"] = row["deadline_at"]
    _add_event(created, "accepted", payer, actor)
    costs = [report["cost_usd"] for report in reports]
    budget = breaker.Budget(
        authorized=row["authorized_micros"],
        maximum=row["max_budget_micros"],
        held=row["held_micros"],
        auto_reauthorize=row["auto_reauthorize"],
    )
    run = breaker.meter(budget, costs, balances[payer])
    # The work is done already, so what was used after the stop is part of the truth, too.
    budget = replace(run.budget, metered=sum(costs))
    created.metering.extend(_metering(actor, request, row, reports))
    for _, threshold in run.crossed:
        _add_event(created, "threshold", lifecycle.SYSTEM, None, threshold_pct=threshold)
    more = budget.held - row["held_micros"]
    if more:
        balances[payer] -= more
        leg = Leg(ledger.agent_account(payer), ledger.escrow_account(row["id"]), more)
        dedupe_key = f"hold:{row['id']}:{row['revision']}"
        created.movements.append(Movement("hold", dedupe_key, [leg], row["id"]))
    row.update(held_micros=budget.held, metered_micros=budget.metered, breaker_level=budget.level)
    if run.paused:
        row["status"] = lifecycle.PENDING_REAUTHORIZATION
        _add_event(created, "paused", lifecycle.SYSTEM, None)
        return
    if not run.stopped:
        row["status"] = lifecycle.DELIVERED
        _add_event(created, "delivered", payer, actor)
    _settle_inline(actor, created, balances, budget.charge, stopped=run.stopped)


def _settle_inline(
    actor: Actor, created: Created, balances: dict[str, int], charge: int, *, stopped: bool
) -> None:
    """Close and settle reported work at once."""
    row, held = created.row, created.row["held_micros"]
    payer, payee = row["requester_agent_id"], row["delegate_agent_id"]
    row.update(
        status=lifecycle.FAILED_HARD_STOP if stopped else lifecycle.COMPLETED,
        settlement=lifecycle.SETTLED,
        settled_by=lifecycle.REPORTED,
        charged_micros=charge,
        due_at=None,
        closed_at=row["updated_at"],
        evidence=0,
    )
    created.movements.append(movement_of_close(row["id"], payer, payee, charge, held))
    balances[payer] += held - charge
    balances[payee] += charge
    _add_event(
        created,
        "closed",
        lifecycle.SYSTEM if stopped else payer,
        None if stopped else actor,
        charged_usd=to_usd(charge),
        refunded_usd=to_usd(held - charge),
    )


def _metering(
    actor: Actor, request: Admitted, row: dict[str, Any], reports: Sequence[dict[str, Any]]
) -> list[MeteringEvent]:
    return [
        MeteringEvent(
            source=metering_source(request.requester.id, row["id"]),
            event_id=str(number),
            operation=report["operation"],
            cost_micros=report["cost_usd"],
            actor=request.requester.id,
            owner_id=row["requester_owner_id"],
            payer_owner_id=row["requester_owner_id"],
            delegation_id=row["id"],
            metadata=report.get("metadata") or {},
            occurred_at=row["created_at"],
        )
        for number, report in enumerate(reports, start=1)
    ]


_insert_delegations = RowInsert(Delegation.__table__)
_insert_events = RowInsert(DelegationEvent.__table__)


def _write(session: Session, actor: Actor, created: Sequence[Created]) -> None:
    """Write everything with one statement for each table."""
    if not created:
        return
    _insert_delegations.run(session, [one.row for one in created])
    _insert_events.run(session, [event for one in created for event in one.events])
    movements = [movement for one in created for movement in one.movements]
    ledger.book(session, movements, actor.owner_id)
    record_events(session, [event for one in created for event in one.metering])
    record_turnover(session, [one.row for one in created])
    announce(session, [(one.row, one.events) for one in created])
