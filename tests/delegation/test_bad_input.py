"""Hostile requests to delegation's endpoints: each is refused and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import inspect

from app.canonical import canonical_json, digest
from app.http.context import Services
from app.plain_text import text_fault
from tests.client import Api
from tests.delegation.conftest import (
    CLERK,
    DELEGATIONS,
    READER,
    accept,
    balance,
    offer,
    problem,
    request,
)
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import contents
from tests.reliability.hostile import HOSTILE, OPEN, assert_refused, changed, json_type, places

LEASE = {"lease_token": "1.token"}
REMOTE = request(
    execution="remote",
    capability_id="summarize-invoice",
    delegate_version="1.0.0",
    delegate_digest=digest(canonical_json(build_manifest(slug="reader"))),
    task_input={"invoice_text": "Total 5"},
    auto_reauthorize=False,
    min_delegate_trust_score=0.5,
    required_permissions=["invoice.read"],
    accept_within_seconds=60,
    lease_seconds=60,
    deadline_seconds=60,
    review_within_seconds=60,
)
INLINE = request(
    simulated_actual_cost_usd=1.5,
    metering_events=[{"operation": "llm_call", "cost_usd": 1.5, "metadata": {"model": "small"}}],
)
EVENT = {
    "event_id": "call-1",
    "operation": "llm_call",
    "quantity": 3,
    "unit_price_usd": 0.25,
    "metadata": {"model": "small"},
    "occurred_at": "2026-11-20T09:30:00Z",
}
# Every write: its path below /v1/delegations and a body with every member it knows.
WRITES: dict[str, tuple[str, dict[str, Any]]] = {
    "offer": ("", REMOTE),
    "inline": ("", INLINE),
    "batch": ("/batch", {"delegations": [INLINE]}),
    "claim": ("/claim", {"agent_id": READER}),
    "accept": ("/{id}/accept", {}),
    "decline": ("/{id}/decline", {"reason": "no capacity"}),
    "heartbeat": ("/{id}/heartbeat", LEASE),
    "meter": ("/{id}/meter", {**LEASE, "source": "run-1", "events": [EVENT]}),
    "ask": ("/{id}/ask", {**LEASE, "question": "Which currency?"}),
    "deliver": ("/{id}/deliver", {**LEASE, "output": {"summary": "x", "total": 5}}),
    "deliver elsewhere": (
        "/{id}/deliver",
        {**LEASE, "output_uri": "https://a.example/x", "output_sha256": "0a" * 32},
    ),
    "fail": ("/{id}/fail", {**LEASE, "reason": "the document is encrypted"}),
    "answer": ("/{id}/answer", {"answer": "Euros"}),
    "accept-result": ("/{id}/accept-result", {}),
    "dispute": ("/{id}/dispute", {"reason": "wrong total"}),
    "resolve": ("/{id}/resolve", {"charge_usd": 1.5, "reason": "half usable"}),
    "reauthorize": ("/{id}/reauthorize", {"new_estimate_usd": 12}),
    "cancel": ("/{id}/cancel", {**LEASE, "reason": "no longer needed"}),
}
# Members that say "not given" with null, or that take any JSON value.
NULLABLE = {
    "capability_id",
    "task_input",
    "simulated_actual_cost_usd",
    "metering_events",
    "min_delegate_trust_score",
    "quantity",
    "unit_price_usd",
    "occurred_at",
    "source",
    "output",
}
OPTIONAL_REASON = {"decline", "cancel"}
AMOUNTS = (
    ("offer", "/estimated_cost_usd"),
    ("offer", "/max_budget_usd"),
    ("inline", "/simulated_actual_cost_usd"),
    ("inline", "/metering_events/0/cost_usd"),
    ("batch", "/delegations/0/estimated_cost_usd"),
    ("batch", "/delegations/0/metering_events/0/cost_usd"),
    ("resolve", "/charge_usd"),
    ("reauthorize", "/new_estimate_usd"),
)


class Attacker:
    """Callers on all sides of one live delegation that hostile requests are aimed at."""

    def __init__(self, acme: Api, globex: Api, operator: Api) -> None:
        self.delegation_id = offer(acme)["delegation_id"]
        self.worker = accept(globex, self.delegation_id)
        assert self.worker.meter(1).status_code == 200
        self.acme, self.globex, self.operator = acme, globex, operator

    def send(self, name: str, body: Any, **arguments: Any) -> Any:
        """Send a write with another body: bytes as they are, anything else as JSON."""
        path = WRITES[name][0].format(id=self.delegation_id)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        caller = self.operator if name == "resolve" else self.acme
        return caller.post(DELEGATIONS + path, data=data, **arguments)


@pytest.fixture
def attacker(agents: None, acme: Api, globex: Api, operator: Api) -> Attacker:
    """Somebody with the keys of both sides, and a delegation in progress."""
    return Attacker(acme, globex, operator)


@pytest.fixture
def untouched(services: Services, attacker: Attacker) -> Iterator[None]:
    """Fail unless every row of every table is as it was before the test."""
    before = contents(services.database)
    yield
    assert contents(services.database) == before


def set_to(value: Any) -> Callable[[Any, Any], None]:
    """Return a change that puts another value in a place."""

    def change(parent: Any, name: Any) -> None:
        parent[name] = value

    return change


def allowed(name: str, pointer: str, value: Any) -> bool:
    """Tell whether a value of another type is a way to say something at a place."""
    member = pointer.rpartition("/")[2]
    if member in ("task_input", "output"):
        return True
    if value is not None:
        return False
    return (
        member in NULLABLE
        or (member, name) == ("lease_token", "cancel")
        or (member == "reason" and name in OPTIONAL_REASON)
    )


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("untouched")
def test_another_type_at_any_position_is_refused(attacker: Attacker, name: str) -> None:
    body = WRITES[name][1]
    for pointer, value in places(body):
        for other in (None, True, 7, "text", [], {"a": 1}):
            if json_type(other) == json_type(value) or allowed(name, pointer, other):
                continue
            document = changed(body, pointer, set_to(other))
            assert_refused(attacker.send(name, document), 422, at=pointer)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("untouched")
def test_an_unknown_member_is_refused(attacker: Attacker, name: str) -> None:
    body = WRITES[name][1]
    # A report of inline work keeps what it does not know as metadata.
    closed = [
        pointer
        for pointer, value in places(body)
        if isinstance(value, dict)
        and not pointer.endswith(OPEN)
        and "/metering_events/" not in pointer
    ]
    assert closed
    for pointer in closed:
        for unknown in ("extra", "status", "code", "_schema", "a/b~c", ""):
            at = f"{pointer}/{unknown.replace('~', '~0').replace('/', '~1')}"

            def add(parent: Any, key: Any, unknown: str = unknown) -> None:
                parent[key][unknown] = 1

            assert_refused(attacker.send(name, changed(body, pointer, add)), 422, at=at)


@pytest.mark.usefixtures("untouched")
def test_a_missing_member_is_named(attacker: Attacker) -> None:
    required = {
        "offer": [name for name in request() if name != "execution"],
        "batch": ["delegations"],
        "claim": ["agent_id"],
        "heartbeat": ["lease_token"],
        "meter": ["lease_token", "events"],
        "ask": ["lease_token", "question"],
        "deliver": ["lease_token"],
        "fail": ["lease_token", "reason"],
        "answer": ["answer"],
        "dispute": ["reason"],
        "resolve": ["charge_usd", "reason"],
        "reauthorize": ["new_estimate_usd"],
    }
    for name, members in required.items():
        for member in members:
            body = {key: value for key, value in WRITES[name][1].items() if key != member}
            assert_refused(attacker.send(name, body), 422, at=f"/{member}")


RAW = (
    b"",
    b"not json",
    b"\xff\xfe{}",
    b'{"reason":"\xc3"}',
    b'{"charge_usd":NaN}',
    b'{"estimated_cost_usd":-Infinity}',
    b'{"new_estimate_usd":1e400}',
    b'{"task_input":' + b"9" * 10_000 + b"}",
    b'{"task_spec":"\\ud800"}',
    b'{"\\udfff":1}',
    b'{"question":"\\u0000"}',
    b'{"reason":"a","reason":"b"}',
    b'{"output":' + b"[" * 65 + b"]" * 65 + b"}",
    b"[" * 100_000,
    b"null",
    b"[]",
    b'"text"',
    b"7",
)


@pytest.mark.parametrize("name", WRITES)
def test_a_body_that_is_no_request_changes_nothing(
    attacker: Attacker, services: Services, name: str
) -> None:
    before = contents(services.database)
    for data in RAW:
        assert_refused(attacker.send(name, data, idempotency_key="the key"), 400, 422)
    large = {"reason": "x" * 2**20}
    assert_refused(attacker.send(name, large, idempotency_key="the key"), 413)
    text = {"Content-Type": "text/plain"}
    assert_refused(attacker.send(name, WRITES[name][1], headers=text), 415)
    assert contents(services.database) == before
    # None of them has used the key up.
    answer = attacker.send(name, WRITES[name][1], idempotency_key="the key")
    assert "Idempotent-Replayed" not in answer.headers
    assert answer.status_code < 500
    assert problem(answer)[1] != "idempotency_key_reused" if answer.status_code > 200 else True


@pytest.mark.usefixtures("untouched")
def test_amounts_that_are_none(attacker: Attacker) -> None:
    wrong = (-1, -0.000001, 1.0000001, 1e-7, 1e9 + 1, 1e15, 1e308, -1e308, True, "5", "", [5], {})
    positive = ("estimated_cost_usd", "max_budget_usd", "new_estimate_usd")
    for name, pointer in AMOUNTS:
        for amount in (*wrong, *((0, -0.0) if pointer.endswith(positive) else ())):
            body = changed(WRITES[name][1], pointer, set_to(amount))
            assert_refused(attacker.send(name, body), 422, at=pointer)
        for literal in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"9" * 400):
            marked = json.dumps(changed(WRITES[name][1], pointer, set_to("@@"))).encode()
            assert_refused(attacker.send(name, marked.replace(b'"@@"', literal)), 400, 422)


@pytest.mark.usefixtures("untouched")
def test_numbers_out_of_range(attacker: Attacker) -> None:
    for name, pointer, values in (
        ("offer", "/min_delegate_trust_score", (-0.1, 1.1, 1e308)),
        ("offer", "/accept_within_seconds", (0, -1, 1.5, 30 * 86400 + 1, 2**53 - 1)),
        ("offer", "/lease_seconds", (0, -1, 1.5, 86401, 2**53 - 1)),
        ("offer", "/deadline_seconds", (0, -1, 1.5, 90 * 86400 + 1, 2**53 - 1)),
        ("offer", "/review_within_seconds", (-1, 0.5, 30 * 86400 + 1, 2**53 - 1)),
        ("meter", "/events/0/quantity", (-1, 1.5, 10**12 + 1, 2**53 - 1, 2**63)),
        ("meter", "/events/0/unit_price_usd", (-1, 1e-13, 1e9 + 1, 1e308)),
    ):
        for value in values:
            body = changed(WRITES[name][1], pointer, set_to(value))
            assert_refused(attacker.send(name, body), 422, at=pointer)
    dear = {**EVENT, "quantity": 10**12, "unit_price_usd": 10**9}
    assert_refused(
        attacker.send("meter", {**LEASE, "events": [dear]}), 422, at="/events/0/quantity"
    )


@pytest.mark.usefixtures("untouched")
def test_costs_are_given_in_one_way(attacker: Attacker) -> None:
    for members in (
        {},
        {"quantity": 1},
        {"unit_price_usd": 1},
        {"cost_usd": 1, "quantity": 1},
        {"cost_usd": 1, "quantity": 1, "unit_price_usd": 1},
        {"cost_usd": None, "quantity": None, "unit_price_usd": None},
    ):
        body = {**LEASE, "events": [{"event_id": "call-1", **members}]}
        assert_refused(attacker.send("meter", body), 422, at="/events/0/cost_usd")


OUT_OF_RANGE = ("1999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "2026-11-20T09:30:00Z\n")
NO_ADDRESSES = ("x", "https://" + "a" * 2000 + ".example", "https://a.example/x\n")


@pytest.mark.usefixtures("untouched")
def test_texts_that_are_none(attacker: Attacker) -> None:
    long = "x" * 10_001
    for name, pointer, texts in (
        ("offer", "/execution", ("", "INLINE", "remote\n")),
        ("offer", "/requester_agent_id", ("", "@" * 194)),
        ("offer", "/delegate_agent_id", ("", "@" * 194)),
        ("offer", "/capability_id", ("", "x" * 129)),
        ("offer", "/delegate_version", ("", "1" * 129)),
        ("offer", "/delegate_digest", ("", "sha256:", "sha256:" + "0" * 63, "0" * 64)),
        ("offer", "/task_spec", ("", "ab", long)),
        ("offer", "/required_permissions/0", ("", "x" * 129)),
        ("inline", "/metering_events/0/operation", ("", "x" * 65, "a b", "call\n", "ü")),
        ("claim", "/agent_id", ("", "@" * 194)),
        ("heartbeat", "/lease_token", ("", "x" * 65)),
        ("meter", "/source", ("", "x" * 65, "a b", "run\n", "ü")),
        ("meter", "/events/0/event_id", ("", "x" * 129, "a b", "call\n", "\x7f", "ü")),
        ("meter", "/events/0/operation", ("", "x" * 65, "a b", "call\n")),
        (
            "meter",
            "/events/0/occurred_at",
            ("", "yesterday", "2026-11-20", "2026-11-20T09:30:00", *OUT_OF_RANGE),
        ),
        ("ask", "/question", ("", long)),
        ("answer", "/answer", ("", long)),
        ("dispute", "/reason", ("", long)),
        ("fail", "/reason", ("", long)),
        ("decline", "/reason", ("", long)),
        (
            "deliver elsewhere",
            "/output_uri",
            ("", "file:///etc/passwd", "javascript:alert(1)", "http://a.example/x", *NO_ADDRESSES),
        ),
        ("deliver elsewhere", "/output_sha256", ("", "0a", "0A" * 32, "0a" * 32 + "\n")),
    ):
        for text in texts:
            body = changed(WRITES[name][1], pointer, set_to(text))
            assert_refused(attacker.send(name, body), 422, at=pointer)


@pytest.mark.usefixtures("untouched")
def test_too_many_of_something(attacker: Attacker) -> None:
    numbered = [{"event_id": f"call-{number}", "cost_usd": 0} for number in range(101)]
    for events in ([], numbered):
        assert_refused(attacker.send("meter", {**LEASE, "events": events}), 422, at="/events")
    for items in ([], [INLINE] * 101):
        assert_refused(attacker.send("batch", {"delegations": items}), 422, at="/delegations")
    reports = {**INLINE, "metering_events": [{"cost_usd": 0}] * 101}
    assert_refused(attacker.send("inline", reports), 422, at="/metering_events")
    permissions = {**REMOTE, "required_permissions": ["x"] * 101}
    assert_refused(attacker.send("offer", permissions), 422, at="/required_permissions")


@pytest.mark.usefixtures("untouched")
def test_one_bad_item_refuses_a_whole_batch(attacker: Attacker) -> None:
    good = request()
    for bad, pointer in (
        (request(execution="remote"), "/delegations/1/execution"),
        (request(delegate_agent_id=CLERK), "/delegations/1/delegate_agent_id"),
        (request(estimated_cost_usd=0), "/delegations/1/estimated_cost_usd"),
        (7, "/delegations/1"),
    ):
        body = {"delegations": [good, bad, good]}
        assert_refused(attacker.send("batch", body), 422, at=pointer)


def test_one_event_id_twice_in_one_report(attacker: Attacker, services: Services) -> None:
    event = {"event_id": "twice", "cost_usd": 1}
    same = attacker.worker.send("meter", events=[event, event, event]).get_json()
    assert [entry["result"] for entry in same["events"]] == ["accepted", "duplicate", "duplicate"]
    assert same["actual_cost_usd"] == 2
    for changes in ({"cost_usd": 2}, {"operation": "other"}, {"metadata": {"a": 1}}):
        first = {"event_id": f"other-{next(iter(changes))}", "cost_usd": 1}
        differing = attacker.worker.send("meter", events=[first, {**first, **changes}])
        assert problem(differing) == (409, "metering_event_reused")
    beat = attacker.worker.send("heartbeat").get_json()
    assert beat["actual_cost_usd"] == 2


PATHS = (
    "x",
    "00000000-0000-0000-0000-000000000000",
    "contract%0A",
    "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10%0A",
    "%00",
    "1%27%3B%20DROP%20TABLE%20delegation_delegations%3B%20--",
    "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "%F0%9F%98%80",
    "%ED%A0%80",
    "9" * 400,
    "-1",
)


@pytest.mark.usefixtures("untouched")
def test_ids_that_are_none(attacker: Attacker, services: Services) -> None:
    for text in PATHS:
        for read in ("", "/status", "/events"):
            assert_refused(attacker.acme.get(f"{DELEGATIONS}/{text}{read}"), 404)
        for name, (path, body) in WRITES.items():
            if "{id}" in path:
                caller = attacker.operator if name == "resolve" else attacker.acme
                assert_refused(caller.post(DELEGATIONS + path.format(id=text), body), 404)
    assert "delegation_delegations" in inspect(services.database.reader).get_table_names()


@pytest.mark.usefixtures("untouched")
def test_agents_that_are_none(attacker: Attacker) -> None:
    for text in (*HOSTILE, CLERK + "\n", READER + " ", "@acme", "acme:clerk", "%00"):
        if "\0" in text or len(text) > 193:
            continue
        for name, member in (
            ("offer", "requester_agent_id"),
            ("offer", "delegate_agent_id"),
            ("claim", "agent_id"),
        ):
            assert_refused(attacker.send(name, {**WRITES[name][1], member: text}), 404)
        listed = attacker.acme.get(f"{DELEGATIONS}?agent_id={quote(text)}")
        assert listed.status_code == 422 or listed.get_json()["data"] == []


@pytest.mark.usefixtures("untouched")
def test_queries_that_are_none(attacker: Attacker) -> None:
    paged = ("limit=9999999999999999999999", "limit=1e3", "limit=%00", "cursor=" + "A" * 3000)
    for query in (
        *paged,
        "cursor=OTk5OTk5OTk5OTk5OTk5OXwwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA%0A",
        "agent_id=%00",
        "agent_id=%C3%BC",
        "agent_id=@acme:clerk%0A",
        "status=offered%0A",
        "created_from=9999-12-31T23:59:59-14:00",
        "created_before=2026-11-20T09:30:00Z%0A",
    ):
        assert_refused(attacker.acme.get(f"{DELEGATIONS}?{query}"), 422)
    for query in (*paged, "after=1"):
        path = f"{DELEGATIONS}/{attacker.delegation_id}/events"
        assert_refused(attacker.acme.get(f"{path}?{query}"), 422)


def test_hostile_text_is_data(attacker: Attacker, acme: Api, globex: Api) -> None:
    text = "".join(
        one for one in HOSTILE if len(one) < 1000 and text_fault(one, lines=True) is None
    )
    assert "<" in text
    assert "'" in text
    value = {text: [text, {"'; DROP TABLE delegation_events; --": None}], "": 1e-9}
    named = offer(acme, task_spec=text, task_input=value)
    worker = accept(globex, named["delegation_id"])
    assert worker.send("ask", question=text).status_code == 200
    path = f"{DELEGATIONS}/{named['delegation_id']}"
    assert acme.post(f"{path}/answer", {"answer": text}).status_code == 200
    event = {"event_id": "';--<b>", "cost_usd": 1, "metadata": value}
    assert worker.send("meter", events=[event], source="<script>").status_code == 200
    assert worker.send("deliver", output=value).status_code == 200
    shown = acme.get(f"{path}/status")
    document = shown.get_json()
    assert (document["task_spec"], document["task_input"]) == (text, value)
    assert document["deliverable"] == {"output": value}
    details = {entry["event"]: entry["details"] for entry in document["audit_trail"]}
    assert (details["asked"], details["answered"]) == ({"question": text}, {"answer": text})
    assert details["usage"] == value
    assert shown.mimetype == "application/json"
    assert balance(acme, CLERK) == 80
