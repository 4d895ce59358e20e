"""Schemas that publishers bring, which may be hostile: what they can do is end their own check."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from app.delegation import payloads
from app.delegation.errors import PayloadInvalid
from app.delegation.payloads import Checker, CheckStopped
from app.http.context import Services
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, accept, offer, problem, request
from tests.registry.manifests import build_capability, build_manifest
from tests.reliability.evidence import contents
from tests.reliability.hostile import assert_refused

Schema = dict[str, Any]


def chain(length: int, keyword: str) -> Schema:
    """Return a schema that applies ``keyword`` to two references, each to two, and so on."""
    steps = {
        f"s{number}": {keyword: [{"$ref": f"#/$defs/s{number + 1}"}] * 2}
        for number in range(length)
    }
    last: Schema = {f"s{length}": {"type": "integer"}}
    return about({"$ref": "#/$defs/s0"}) | {"$defs": {**steps, **last}}


def line(length: int) -> Schema:
    """Return a schema that leads from one reference to the next."""
    steps: Schema = {f"s{number}": {"$ref": f"#/$defs/s{number + 1}"} for number in range(length)}
    return about({"$ref": "#/$defs/s0"}) | {"$defs": {**steps, f"s{length}": {}}}


def about(rule: Schema) -> Schema:
    """Return a schema of objects whose member ``x`` follows a rule."""
    return {"type": "object", "properties": {"x": rule}}


def nested(depth: int) -> Any:
    """Return an object in ``x`` of an object, and so on."""
    value: Any = {}
    for _ in range(depth):
        value = {"x": value}
    return value


TWICE = about({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})
# A schema and an input that no machine gets to the end of, or that ends the process which tries.
ENDLESS: dict[str, tuple[Schema, Any]] = {
    "alternatives": (chain(60, "anyOf"), {"x": "text"}),
    "all of them": (chain(60, "allOf"), {"x": 1}),
    "one of them": (chain(60, "oneOf"), {"x": 1}),
    "a tree": (TWICE, nested(50)),
    "a large pattern": (about({"pattern": "(?:a?){90000}b"}), {"x": "a" * 900_000}),
    "a long way": (line(25_000), {"x": 1}),
}
# Schemas that cannot be applied without fetching something, or at all.
USELESS: dict[str, Schema] = {
    "remote": {"type": "object", "$ref": "https://evil.example/schema.json"},
    "a file": {"type": "object", "$ref": "file:///etc/passwd"},
    "a base elsewhere": {"type": "object", "$id": "https://evil.example/a", "$ref": "b"},
    "nowhere": {"type": "object", "$ref": "#/$defs/none"},
    "no pattern": about({"pattern": "("}),
    "a look back": about({"pattern": "(a)\\1"}),
    "a look ahead": about({"pattern": "^(?=a)"}),
    "a huge pattern": about({"pattern": "((a{0,1000}){0,1000}){0,1000}"}),
}
# Schemas that go round in circles, and are nonetheless applied.
CIRCLES: dict[str, Schema] = {
    "itself": {"type": "object", "$ref": "#"},
    "two": {"type": "object", "$ref": "#/$defs/a"}
    | {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "alternatives": {"type": "object", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "dynamic": {"type": "object", "$dynamicAnchor": "a", "$dynamicRef": "#a"},
    "a list": about({"$ref": "#"}),
}


def publish(globex: Api, version: str, schema: Schema, member: str = "input_schema") -> None:
    """Publish a version of the delegate whose capability ``evil`` has a schema."""
    plain = {"input_schema": {"type": "object"}, "output_schema": {"type": "object"}}
    capability = build_capability("evil", **(plain | {member: schema}))
    manifest = build_manifest("reader", version, capabilities=[capability])
    response = globex.put(f"/v1/agents/{READER}", {"manifest": manifest})
    assert response.status_code == 200, response.text


def delegate(acme: Api, payload: Any) -> Any:
    """Ask for the capability ``evil``."""
    return acme.post(DELEGATIONS, request(capability_id="evil", task_input=payload))


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.usefixtures("agents")
class TestOverHttp:
    def test_an_endless_check_is_ended(self, acme: Api, globex: Api) -> None:
        for number, (name, (schema, payload)) in enumerate(ENDLESS.items()):
            publish(globex, f"2.{number}.0", schema)
            response = delegate(acme, payload)
            assert problem(response) == (409, "capability_schema_unusable"), name
            assert "2 seconds" in response.get_json()["detail"]
        # The service goes on as if nothing had been.
        publish(globex, "3.0.0", about({"type": "string"}))
        assert delegate(acme, {"x": "text"}).status_code == 200
        assert_refused(delegate(acme, {"x": 1}), 422, at="/task_input/x")

    def test_a_delivery_that_ends_its_check_leaves_the_task_as_it_was(
        self, acme: Api, globex: Api, services: Services
    ) -> None:
        publish(globex, "2.0.0", TWICE, "output_schema")
        named = offer(acme, capability_id="evil", task_input={})
        worker = accept(globex, named["delegation_id"])
        before = contents(services.database)["delegation_delegations"]
        refused = worker.send("deliver", output=nested(50))
        assert problem(refused) == (409, "capability_schema_unusable")
        assert contents(services.database)["delegation_delegations"] == before
        assert worker.send("deliver", output=nested(2)).status_code == 200

    def test_no_lock_is_held_during_a_check(
        self, acme: Api, globex: Api, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked = []
        ask = Checker.errors

        def errors(checker: Checker, schema: Schema, payload: Any) -> Any:
            with closing(sqlite3.connect(services.settings.url.database or "", timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
            checked.append(payload)
            return ask(checker, schema, payload)

        monkeypatch.setattr(Checker, "errors", errors)
        rule = about({"type": "string"})
        publish(globex, "2.0.0", rule)
        assert_refused(delegate(acme, {"x": 1}), 422, at="/task_input/x")
        assert delegate(acme, {"x": "a"}).status_code == 200
        entry = request(capability_id="evil", task_input={"x": "b"})
        batch = acme.post(f"{DELEGATIONS}/batch", {"delegations": [entry, entry]})
        assert batch.get_json()["succeeded"] == 2
        publish(globex, "3.0.0", rule, "output_schema")
        worker = accept(globex, offer(acme, capability_id="evil", task_input={})["delegation_id"])
        assert_refused(worker.send("deliver", output={"x": 2}), 422, at="/output/x")
        assert worker.send("deliver", output={"x": "c"}).status_code == 200
        values = [payload["x"] for payload in checked if "x" in payload]
        assert values == [1, "a", "b", "b", 2, "c"]

    def test_a_schema_without_use_is_refused(self, acme: Api, globex: Api) -> None:
        for number, (name, schema) in enumerate(USELESS.items()):
            publish(globex, f"2.{number}.0", schema)
            response = delegate(acme, {"x": "text"})
            assert problem(response) == (409, "capability_schema_unusable"), name
            assert "stands alone" in response.get_json()["detail"]

    def test_circles_come_to_an_end(self, acme: Api, globex: Api) -> None:
        for number, (name, schema) in enumerate(CIRCLES.items()):
            publish(globex, f"2.{number}.0", schema)
            assert delegate(acme, nested(30)).status_code == 200, name

    def test_a_slow_pattern_is_not(self, acme: Api, globex: Api) -> None:
        publish(globex, "2.0.0", about({"pattern": "^(a+)+$"}))
        assert_refused(delegate(acme, {"x": "a" * 900_000 + "!"}), 422, at="/task_input/x")

    def test_what_is_reported_is_limited(self, acme: Api, globex: Api) -> None:
        publish(globex, "2.0.0", about({"items": {"type": "string", "maxLength": 0}}))
        response = delegate(acme, {"x": ["x" * 5_000] * 150})
        errors = assert_refused(response, 422, at="/task_input/x/0")["errors"]
        assert len(errors) == 100
        assert max(len(error["detail"]) for error in errors) <= 300


class TestTheProcess:
    @pytest.fixture
    def checker(self) -> Iterator[Checker]:
        """A checker of the test's own."""
        own = Checker()
        yield own
        own.stop()

    def test_it_is_kept_and_replaced_when_it_is_gone(self, checker: Checker) -> None:
        schema: Schema = {"type": "string"}
        assert checker.errors(schema, "text") == []
        first = checker.pid
        assert first is not None
        assert checker.errors(schema, "text") == []
        assert checker.pid == first
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert checker.errors(schema, "text") == []
        assert checker.pid != first
        checker.stop()
        assert checker.pid is None

    def test_memory_is_limited(self, checker: Checker) -> None:
        with pytest.raises(CheckStopped):
            checker.errors(chain(60, "allOf"), {"x": 1})
        assert checker.errors({}, {"x": 1}) == []

    def test_a_payload_of_any_size_gets_through(self, checker: Checker) -> None:
        large = {"x": ["text"] * 100_000}
        assert checker.errors(about({"items": {"type": "string"}}), large) == []
        found = checker.errors(about({"items": {"type": "integer"}}), large)
        assert found is not None
        assert len(found) == 100


def test_what_nobody_foresaw_is_checked_when_it_is_asked_for() -> None:
    verdicts = payloads.Verdicts()
    verdicts.foresee({"type": "string"}, {"x": 1})
    payloads.check({"type": "object"}, {"x": 1}, "task_input", verdicts)
    with pytest.raises(PayloadInvalid):
        payloads.check({"type": "array"}, {"x": 1}, "task_input", verdicts)


def test_a_schema_elsewhere_demands_nothing() -> None:
    verdicts = payloads.Verdicts()
    payloads.check({"$ref_uri": "https://x.example/schema.json"}, CLERK, "task_input", verdicts)
