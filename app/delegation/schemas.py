"""What delegation's endpoints read. Amounts arrive in USD and leave here in micro-USD."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP
from typing import Any, ClassVar

import marshmallow as ma

from app.delegation import lifecycle
from app.delegation.acceptance import DEFAULT_LIVE_OFFERS, MAX_LIVE_OFFERS, MAX_OWNERS
from app.http.fields import (
    AnyOf,
    FullMatch,
    JsonBoolean,
    JsonDocument,
    JsonInteger,
    JsonNumber,
    Moment,
    PlainText,
    UnitPrice,
    Usd,
)
from app.http.pagination import PageQuery
from app.http.schemas import Schema
from app.http.waiting import MAX_WAIT_SECONDS
from app.money import MAX_MICROS, MICROS_PER_USD

AGENT_ID_LENGTH = 193
MAX_BATCH = 100
MAX_REPORTS = 100
MAX_TEXT = 10_000
DAY = 24 * 60 * 60
_ID_PATTERN = FullMatch("[!-~]+", "printable ASCII without spaces, such as call-17")


def _agent_id(description: str) -> ma.fields.String:
    return ma.fields.String(
        required=True,
        validate=ma.validate.Length(min=1, max=AGENT_ID_LENGTH),
        metadata={"description": description},
    )


def _moment(**arguments: Any) -> Moment:
    rule = ma.validate.Range(
        min=datetime(2000, 1, 1, tzinfo=UTC), max=datetime(2200, 1, 1, tzinfo=UTC)
    )
    return Moment(format="iso", load_default=None, validate=rule, **arguments)


def _text(*, least: int = 1, **arguments: Any) -> ma.fields.String:
    rules = [ma.validate.Length(min=least, max=MAX_TEXT), PlainText(lines=True)]
    return ma.fields.String(validate=rules, **arguments)


def _seconds(default: int, least: int, most: int, description: str) -> JsonInteger:
    return JsonInteger(
        load_default=default,
        validate=ma.validate.Range(min=least, max=most),
        metadata={"description": description},
    )


class InlineReport(Schema):
    """One operation of inline work and its cost; every other member is kept as metadata."""

    operation = ma.fields.String(
        load_default="usage", validate=[ma.validate.Length(min=1, max=64), _ID_PATTERN]
    )
    cost_usd = Usd(
        load_default=0, minimum_micros=0, metadata={"description": "0 where none is given"}
    )
    metadata = ma.fields.Dict(load_default=dict)

    class Meta:
        unknown = ma.INCLUDE

    example = {"operation": "llm_call", "cost_usd": 0.04, "model": "small"}

    @ma.post_load
    def _gather(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        known = {name: data.pop(name) for name in ("operation", "cost_usd", "metadata")}
        return {**known, "metadata": {**data, **known["metadata"]}}


class CreateDelegation(Schema):
    """A task for another agent, and what it may cost.

    ``inline`` reports work that is done; ``remote`` offers work to the delegate's own workers.
    """

    execution = ma.fields.String(
        load_default=lifecycle.INLINE,
        validate=ma.validate.OneOf((lifecycle.INLINE, lifecycle.REMOTE)),
    )
    requester_agent_id = _agent_id("The agent that pays; it must be yours")
    delegate_agent_id = _agent_id("The agent that does the work; pinned to its latest version")
    capability_id = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(min=1, max=128),
        metadata={"description": "Input and output are held to this capability's schemas"},
    )
    # Without a default: what a request does not name must not become part of its fingerprint, or
    # requests of earlier releases would not be known again.
    delegate_version = ma.fields.String(
        validate=ma.validate.Length(min=1, max=128),
        metadata={"description": "Refuse unless this is the delegate's latest version"},
    )
    delegate_digest = ma.fields.String(
        validate=FullMatch("sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits"),
        metadata={"description": "Refuse unless this is the digest of the latest version"},
    )
    task_spec = _text(least=3, required=True)
    task_input = JsonDocument({}, load_default=None, allow_none=True)
    estimated_cost_usd = Usd(required=True)
    max_budget_usd = Usd(required=True)
    simulated_actual_cost_usd = Usd(
        load_default=None,
        allow_none=True,
        minimum_micros=0,
        metadata={"description": "Inline: what the work cost, where no events are given"},
    )
    metering_events = ma.fields.List(
        ma.fields.Nested(InlineReport()),
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_REPORTS),
    )
    auto_reauthorize = JsonBoolean(load_default=True)
    min_delegate_trust_score = JsonNumber(
        load_default=None, allow_none=True, validate=ma.validate.Range(min=0, max=1)
    )
    required_permissions = ma.fields.List(
        ma.fields.String(validate=ma.validate.Length(min=1, max=128)),
        load_default=list,
        validate=ma.validate.Length(max=100),
    )
    accept_within_seconds = _seconds(
        lifecycle.DEFAULT_ACCEPT_SECONDS, 1, 30 * DAY, "Remote: the offer expires after this"
    )
    lease_seconds = _seconds(
        lifecycle.DEFAULT_LEASE_SECONDS, 1, DAY, "Remote: how often a worker gives a sign of life"
    )
    deadline_seconds = _seconds(
        lifecycle.DEFAULT_DEADLINE_SECONDS,
        1,
        90 * DAY,
        "The work must end this long after it began",
    )
    review_within_seconds = _seconds(
        lifecycle.DEFAULT_REVIEW_SECONDS, 0, 30 * DAY, "Remote: paid after this; 0 pays at delivery"
    )

    example = {
        "execution": "remote",
        "requester_agent_id": "@acme:payables-clerk",
        "delegate_agent_id": "@globex:invoice-summarizer",
        "capability_id": "summarize",
        "task_spec": "Summarize the invoice of November",
        "task_input": {"invoice": "Invoice 2026-117 ..."},
        "estimated_cost_usd": 0.5,
        "max_budget_usd": 1,
    }

    @ma.validates_schema
    def _consistent(self, data: dict[str, Any], **_: Any) -> None:
        if data["requester_agent_id"] == data["delegate_agent_id"]:
            raise ma.ValidationError(
                "expected another agent than the requester", "delegate_agent_id"
            )
        if data["execution"] == lifecycle.REMOTE:
            for name in ("simulated_actual_cost_usd", "metering_events"):
                if data[name] is not None:
                    raise ma.ValidationError("expected only for inline execution", name)


# An owner by its name, or by a namespace that it has.
OWNER_PATTERN = "@?[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _owners(description: str, **arguments: Any) -> ma.fields.List[str]:
    name = ma.fields.String(
        validate=FullMatch(OWNER_PATTERN, "an owner's name, or a namespace such as @acme")
    )
    return ma.fields.List(
        name,
        validate=ma.validate.Length(max=MAX_OWNERS),
        metadata={"description": description, "uniqueItems": True},
        **arguments,
    )


def _limit(least: int, most: int, description: str, **arguments: Any) -> JsonInteger:
    return JsonInteger(
        validate=ma.validate.Range(min=least, max=most),
        metadata={"description": description},
        **arguments,
    )


class PutAcceptanceRules(Schema):
    """All of an agent's acceptance rules; what is left out has its default."""

    allowed_owners = _owners(
        "Only these may offer; null lets every owner in that is not denied",
        load_default=None,
        allow_none=True,
    )
    denied_owners = _owners("These may not offer", load_default=list)
    takes_inline = JsonBoolean(
        load_default=True,
        metadata={"description": "Whether others may report inline work as the agent's"},
    )
    smallest_estimate_usd = Usd(load_default=1)
    shortest_deadline_seconds = _limit(
        1, 90 * DAY, "Remote: null takes any deadline", load_default=None, allow_none=True
    )
    shortest_lease_seconds = _limit(
        1, DAY, "Remote: null takes any lease", load_default=None, allow_none=True
    )
    most_live_offers = _limit(
        0,
        MAX_LIVE_OFFERS,
        "How many offers of one owner may wait at once; 0 takes no remote work",
        load_default=DEFAULT_LIVE_OFFERS,
    )

    example = {
        "denied_owners": ["@mallory"],
        "takes_inline": False,
        "smallest_estimate_usd": 0.05,
        "shortest_deadline_seconds": 300,
        "shortest_lease_seconds": 30,
        "most_live_offers": 20,
    }

    @ma.validates_schema
    def _named_once(self, data: dict[str, Any], **_: Any) -> None:
        for member in ("allowed_owners", "denied_owners"):
            names = data[member] or []
            faults = {
                place: ["expected each owner once"]
                for place, name in enumerate(names)
                if name in names[:place]
            }
            if faults:
                raise ma.ValidationError({member: faults})


class CreateBatch(Schema):
    """Up to 100 inline delegations; each succeeds or is refused on its own."""

    delegations = ma.fields.List(
        ma.fields.Nested(CreateDelegation()),
        required=True,
        validate=ma.validate.Length(min=1, max=MAX_BATCH),
    )

    example = {
        "delegations": [
            {
                "requester_agent_id": "@acme:payables-clerk",
                "delegate_agent_id": "@globex:invoice-summarizer",
                "task_spec": "Summarize the invoice of November",
                "estimated_cost_usd": 0.5,
                "max_budget_usd": 1,
                "simulated_actual_cost_usd": 0.45,
            }
        ]
    }

    @ma.validates_schema
    def _all_inline(self, data: dict[str, Any], **_: Any) -> None:
        faults = {
            number: {"execution": ["expected inline; offer remote work one by one"]}
            for number, one in enumerate(data["delegations"])
            if one["execution"] != lifecycle.INLINE
        }
        if faults:
            raise ma.ValidationError({"delegations": faults})


class Claim(Schema):
    """The agent that a worker works for."""

    agent_id = _agent_id("An agent of yours")
    # Without a default, as `delegate_version`.
    wait_seconds = JsonInteger(
        validate=ma.validate.Range(min=0, max=MAX_WAIT_SECONDS),
        metadata={"description": "How long to wait for a task where none waits for the agent"},
    )

    example = {"agent_id": "@globex:invoice-summarizer", "wait_seconds": 20}


class Empty(Schema):
    """Nothing needs to be said."""

    example: ClassVar[dict[str, Any]] = {}


class Lease(Schema):
    """Proof that the caller is the worker that holds the task."""

    lease_token = ma.fields.String(required=True, validate=ma.validate.Length(min=1, max=64))

    example = {"lease_token": "1.h0fXzv0aIhA1q3kqkPq8SHo0Zs9rJv6y1bq0m8y2n3c"}


class Reason(Schema):
    """Why, for the other side and for the record."""

    reason = _text(load_default=None, allow_none=True)

    example = {"reason": "no longer needed"}


class Cancel(Reason):
    """Why; a worker that confirms a cancellation gives its lease token, too."""

    lease_token = ma.fields.String(
        load_default=None, allow_none=True, validate=ma.validate.Length(min=1, max=64)
    )


class Fail(Lease):
    """Why the task is given up."""

    reason = _text(required=True)

    example = {**Lease.example, "reason": "the document is encrypted"}


class MeteredUse(Schema):
    """One use of something that costs: the cost, or a quantity and its unit price.

    A price times a quantity is rounded half up to micro-USD; charged is the sum of stored costs.
    """

    event_id = ma.fields.String(
        required=True,
        validate=[ma.validate.Length(min=1, max=128), _ID_PATTERN],
        metadata={"description": "Counts once, however often it is reported"},
    )
    operation = ma.fields.String(
        load_default="usage", validate=[ma.validate.Length(min=1, max=64), _ID_PATTERN]
    )
    cost_usd = Usd(load_default=None, allow_none=True, minimum_micros=0)
    quantity = JsonInteger(
        load_default=None, allow_none=True, validate=ma.validate.Range(min=0, max=10**12)
    )
    unit_price_usd = UnitPrice(load_default=None, allow_none=True)
    metadata = ma.fields.Dict(load_default=dict)
    occurred_at = _moment(allow_none=True)

    example = {
        "event_id": "call-17",
        "operation": "llm_call",
        "quantity": 1800,
        "unit_price_usd": 0.0000025,
        "metadata": {"model": "small"},
    }

    @ma.validates_schema
    def _one_way(self, data: dict[str, Any], **_: Any) -> None:
        by_price = (data["quantity"] is not None, data["unit_price_usd"] is not None)
        if any(by_price) == (data["cost_usd"] is not None) or len(set(by_price)) > 1:
            raise ma.ValidationError(
                "expected cost_usd, or quantity and unit_price_usd", "cost_usd"
            )
        if cost_of(data) > MAX_MICROS:
            raise ma.ValidationError("expected a cost of at most 1000000000 USD", "quantity")


def cost_of(report: Mapping[str, Any]) -> int:
    """Return the cost of a loaded usage report in micro-USD."""
    if report["cost_usd"] is not None:
        return int(report["cost_usd"])
    exact = report["quantity"] * report["unit_price_usd"] * MICROS_PER_USD
    return int(exact.to_integral_value(ROUND_HALF_UP))


class Meter(Lease):
    """Up to 100 reports of use."""

    source = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=[ma.validate.Length(min=1, max=64), _ID_PATTERN],
        metadata={
            "description": "What event ids are unique in, for your agent; else the delegation"
        },
    )
    events = ma.fields.List(
        ma.fields.Nested(MeteredUse()),
        required=True,
        validate=ma.validate.Length(min=1, max=MAX_REPORTS),
    )

    example = {**Lease.example, "events": [MeteredUse.example]}


class Ask(Lease):
    """A question that the work waits for."""

    question = _text(required=True)

    example = {**Lease.example, "question": "Which currency do you want totals in?"}


class AnswerQuestion(Schema):
    """The answer to the delegate's question."""

    answer = _text(required=True)

    example = {"answer": "In euros"}


class Deliver(Lease):
    """The result: a JSON value, or where it lies and its SHA-256."""

    output = JsonDocument({}, allow_none=True)
    output_uri = ma.fields.Url(validate=ma.validate.Length(max=2000), schemes={"https", "s3", "gs"})
    output_sha256 = ma.fields.String(validate=FullMatch("[0-9a-f]{64}", "64 hexadecimal digits"))

    example = {**Lease.example, "output": {"summary": "Due on 1 December", "total": 118.4}}

    @ma.validates_schema
    def _one_way(self, data: dict[str, Any], **_: Any) -> None:
        by_address = ("output_uri" in data, "output_sha256" in data)
        if any(by_address) == ("output" in data) or len(set(by_address)) > 1:
            raise ma.ValidationError("expected output, or output_uri and output_sha256", "output")


class Dispute(Schema):
    """What is wrong with the result."""

    reason = _text(required=True)

    example = {"reason": "the total is that of another invoice"}


class Resolve(Schema):
    """An operator's decision on a dispute."""

    charge_usd = Usd(required=True, minimum_micros=0)
    reason = _text(required=True)

    example = {"charge_usd": 0.2, "reason": "half of the work was usable"}


class Reauthorize(Schema):
    """A new estimate, above what is used and at most the maximum budget."""

    new_estimate_usd = Usd(required=True)

    example = {"new_estimate_usd": 0.9}


class WaitQuery(Schema):
    """Whether to wait for a change."""

    wait_seconds = ma.fields.Integer(
        load_default=0,
        validate=ma.validate.Range(min=0, max=MAX_WAIT_SECONDS),
        metadata={
            "description": "How long to wait until the delegation is not as `If-None-Match` knows"
            " it, or without that header until something happens to it. Answers at once where"
            " nothing more will happen."
        },
    )

    example = {"wait_seconds": 20}


class StreamQuery(Schema):
    """Where a stream begins for clients that cannot send `Last-Event-ID`."""

    last_event_id = ma.fields.String(
        load_default=None,
        validate=ma.validate.Length(min=1, max=200),
        metadata={"description": "Only what comes after this event; the header counts before it"},
    )

    example: ClassVar[dict[str, Any]] = {}


class DelegationListQuery(PageQuery):
    """Which delegations, newest first."""

    agent_id = ma.fields.String(
        load_default=None, validate=[ma.validate.Length(min=1, max=AGENT_ID_LENGTH), _ID_PATTERN]
    )
    role = ma.fields.String(
        load_default=None,
        validate=ma.validate.OneOf((lifecycle.REQUESTER, lifecycle.DELEGATE)),
        metadata={"description": "The side that the agent, or your agents, must be on"},
    )
    status = AnyOf(
        lifecycle.STATUSES,
        load_default=None,
        metadata={"description": "One state or several: repeated, or with commas between"},
    )
    settlement = ma.fields.String(
        load_default=None, validate=ma.validate.OneOf(lifecycle.SETTLEMENTS)
    )
    created_from = _moment()
    created_before = _moment()

    example = {"role": "delegate", "status": "offered", "limit": 20}
