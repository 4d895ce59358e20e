"""Schemas that publishers bring, which may be hostile: what they can do is end their own check."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest

from app.canonical import Canonical
from app.delegation import payloads
from app.delegation.errors import PayloadInvalid
from app.errors import Overtaken
from app.http.context import Services
from app.json_schema.pool import Check, ChecksBusy, Pool
from app.registry import service as registry
from app.registry.queries import find_owner
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, accept, offer, problem, request
from tests.json_schema.schemas import (
    CIRCLES,
    ENDLESS,
    EXPLOSIVE,
    LIST,
    TWICE,
    USELESS,
    Schema,
    about,
    chain,
    nested,
)
from tests.registry.manifests import Document, build_capability, build_manifest
from tests.reliability.evidence import contents
from tests.reliability.hostile import assert_refused

NO_LIMITS = registry.Quotas(*[0] * 5)


def evil(version: str, schema: Schema, member: str) -> Document:
    """Return a manifest of the delegate whose capability ``evil`` has a schema."""
    plain = {"input_schema": {"type": "object"}, "output_schema": {"type": "object"}}
    capability = build_capability("evil", **(plain | {member: schema}))
    return build_manifest("reader", version, capabilities=[capability])


def publish(globex: Api, version: str, schema: Schema, member: str = "input_schema") -> None:
    """Publish a version of the delegate whose capability ``evil`` has a schema."""
    body = {"manifest": evil(version, schema, member)}
    response = globex.put(f"/v1/agents/{READER}", body)
    assert response.status_code == 200, response.text


def publish_formerly(services: Services, version: str, schema: Schema) -> None:
    """Have such a version there, as an earlier release published it, which judged no schema."""
    manifest = Canonical.of(evil(version, schema, "input_schema"))
    with services.database.transaction() as session:
        owner_id = find_owner(session, READER)
        publication = registry.prepare_version(session, owner_id, READER, manifest)
        registry.publish_version(session, owner_id, READER, publication, NO_LIMITS)


def delegate(acme: Api, payload: Any, **more: Any) -> Any:
    """Ask for the capability ``evil``."""
    return acme.post(DELEGATIONS, request(capability_id="evil", task_input=payload, **more))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The values that were held to schemas, in order."""
    values: list[Any] = []
    run = Pool.run

    def noted(pool: Pool, owner_id: str, checks: Sequence[Check]) -> Any:
        values.extend(check.value for check in checks)
        return run(pool, owner_id, checks)

    monkeypatch.setattr(Pool, "run", noted)
    return values


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.usefixtures("agents")
class TestHostileSchemas:
    def test_an_endless_check_is_ended(self, acme: Api, globex: Api, services: Services) -> None:
        for number, (name, (schema, payload)) in enumerate((EXPLOSIVE | ENDLESS).items()):
            publish_formerly(services, f"2.{number}.0", schema)
            response = delegate(acme, payload)
            assert problem(response) == (409, "capability_schema_unusable"), name
            assert "2 seconds" in response.get_json()["detail"]
        # The service goes on as if nothing had been.
        publish(globex, "3.0.0", about({"type": "string"}))
        assert delegate(acme, {"x": "text"}).status_code == 200
        assert_refused(delegate(acme, {"x": 1}), 422, at="/task_input/x")

    def test_a_batch_has_one_budget(
        self, acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_formerly(services, "2.0.0", chain(60, "allOf"))
        spent = []
        ask = services.checks.run

        def run(owner_id: str, checks: Sequence[Check]) -> Any:
            spent.append(len(checks))
            return ask(owner_id, checks)

        monkeypatch.setattr(services.checks, "run", run)
        entries = [request(capability_id="evil", task_input={"x": number}) for number in range(100)]
        answer = acme.post(f"{DELEGATIONS}/batch", {"delegations": entries}).get_json()
        assert answer["failed"] == 100
        codes = {result["problem"]["code"] for result in answer["results"]}
        assert codes == {"capability_schema_unusable"}
        assert spent == [100]

    def test_what_cost_too_much_is_not_tried_again(
        self, acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_formerly(services, "2.0.0", chain(60, "allOf"))
        refusal = delegate(acme, {"x": 1})
        assert problem(refusal) == (409, "capability_schema_unusable")

        def start(*_: object) -> None:
            raise AssertionError("a process was asked")

        monkeypatch.setattr(Pool, "_turn", start)
        again = delegate(acme, {"x": 2})
        assert again.get_json()["detail"] == refusal.get_json()["detail"]

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

    def test_a_schema_without_use_is_refused(self, acme: Api, services: Services) -> None:
        for number, (name, (schema, _)) in enumerate(USELESS.items()):
            publish_formerly(services, f"2.{number}.0", schema)
            response = delegate(acme, {"x": "text"})
            assert problem(response) == (409, "capability_schema_unusable"), name
            assert "stands alone" in response.get_json()["detail"]

    def test_circles_come_to_an_end(self, acme: Api, services: Services) -> None:
        circles = CIRCLES | {"a list": (LIST, "")}
        for number, (name, (schema, _)) in enumerate(circles.items()):
            publish_formerly(services, f"2.{number}.0", schema)
            assert delegate(acme, nested(30)).status_code == 200, name

    def test_a_slow_pattern_is_not(self, acme: Api, globex: Api) -> None:
        publish(globex, "2.0.0", about({"pattern": "^(a+)+$"}))
        assert_refused(delegate(acme, {"x": "a" * 900_000 + "!"}), 422, at="/task_input/x")

    def test_a_busy_pool_is_429_and_leaves_the_key_unused(
        self, acme: Api, globex: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(globex, "2.0.0", about({"type": "string"}))

        def busy(*_: object) -> None:
            raise ChecksBusy("others' checks are under way", retry_after=1)

        body = request(capability_id="evil", task_input={"x": "a"})
        with monkeypatch.context() as patched:
            patched.setattr(Pool, "_await", busy)
            response = acme.post(DELEGATIONS, body, idempotency_key="again")
            assert problem(response) == (429, "checks_busy")
            assert response.headers["Retry-After"] == "1"
        assert acme.post(DELEGATIONS, body, idempotency_key="again").status_code == 200


@pytest.mark.usefixtures("agents")
class TestWhoIsServed:
    """No check is made for whoever may not do what it is for."""

    def test_no_check_for_what_is_refused_anyway(
        self, acme: Api, globex: Api, asked: list[Any], caller: Callable[..., Api]
    ) -> None:
        publish(globex, "2.0.0", about({"type": "string"}))
        stranger = caller("stranger")
        assert problem(delegate(stranger, {"x": 1})) == (403, "not_your_agent")
        named = {"capability_id": "evil", "task_input": {"x": 1}}
        batch = stranger.post(f"{DELEGATIONS}/batch", {"delegations": [request(**named)] * 3})
        assert batch.get_json()["failed"] == 3
        refusals = {
            "agent_not_found": {"delegate_agent_id": "@globex:nobody"},
            "policy_denied": {"max_budget_usd": 1},
            "policy_forbidden": {"required_permissions": ["root"]},
            "capability_unknown": {"capability_id": "none"},
        }
        for code, changes in refusals.items():
            refused = acme.post(DELEGATIONS, request(**(named | changes)))
            assert refused.get_json()["code"] == code
        assert globex.delete(f"/v1/agents/{READER}").status_code == 200
        assert delegate(acme, {"x": 1}).get_json()["code"] == "delegate_inactive"
        assert asked == []

    def test_no_check_of_what_nobody_may_deliver(
        self, acme: Api, globex: Api, asked: list[Any], caller: Callable[..., Api]
    ) -> None:
        publish(globex, "2.0.0", about({"type": "string"}), "output_schema")
        named = offer(acme, capability_id="evil", task_input={})
        path = f"{DELEGATIONS}/{named['delegation_id']}/deliver"
        asked.clear()
        body = {"lease_token": "1.guessed", "output": {"x": 1}}
        assert problem(globex.post(path, body)) == (409, "command_not_allowed")
        worker = accept(globex, named["delegation_id"])
        for api in (acme, caller("stranger")):
            assert problem(api.post(path, body)) == (403, "not_a_party")
        assert problem(globex.post(path, body)) == (409, "lease_lost")
        missing = f"{DELEGATIONS}/01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10/deliver"
        assert problem(globex.post(missing, body)) == (404, "delegation_not_found")
        assert asked == []
        assert_refused(worker.send("deliver", output={"x": 1}), 422, at="/output/x")
        assert asked == [{"x": 1}]

    def test_a_replay_is_not_checked_again(self, acme: Api, globex: Api, asked: list[Any]) -> None:
        publish(globex, "2.0.0", about({"type": "string"}))
        body = request(capability_id="evil", task_input={"x": "a"})
        first = acme.post(DELEGATIONS, body, idempotency_key="one")
        again = acme.post(DELEGATIONS, body, idempotency_key="one")
        assert again.data == first.data
        assert asked == [{"x": "a"}]

    def test_no_lock_is_held_during_a_check(
        self,
        acme: Api,
        globex: Api,
        services: Services,
        dialect: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if dialect != "sqlite":
            pytest.skip("asks for the one write lock of SQLite")
        checked = []
        ask = Pool.run

        def run(pool: Pool, owner_id: str, checks: Sequence[Check]) -> Any:
            with closing(sqlite3.connect(services.settings.url.database or "", timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
            checked.extend(check.value for check in checks)
            return ask(pool, owner_id, checks)

        monkeypatch.setattr(Pool, "run", run)
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
        # What is the same is asked once.
        assert values == [1, "a", "b", 2, "c"]

    def test_a_schema_that_changes_meanwhile_is_asked_anew(
        self, acme: Api, globex: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(globex, "2.0.0", about({"type": "string"}))
        ask, versions = Pool.run, iter(("3.0.0",))

        def run(pool: Pool, owner_id: str, checks: Sequence[Check]) -> Any:
            for version in versions:
                publish(globex, version, about({"type": "integer"}))
            return ask(pool, owner_id, checks)

        monkeypatch.setattr(Pool, "run", run)
        found = delegate(acme, {"x": 1})
        assert found.status_code == 200
        assert found.get_json()["delegate_version"] == "3.0.0"

    def test_one_that_never_stays_the_same_is_unavailable(
        self, acme: Api, globex: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(globex, "2.0.0", about({"type": "string"}))
        ask, number = Pool.run, [1]

        def run(pool: Pool, owner_id: str, checks: Sequence[Check]) -> Any:
            number[0] += 1
            publish(globex, f"2.{number[0]}.0", about({"minimum": number[0]}))
            return ask(pool, owner_id, checks)

        monkeypatch.setattr(Pool, "run", run)
        response = delegate(acme, {"x": 1})
        assert problem(response) == (503, "overtaken")
        assert response.headers["Retry-After"] == "1"


CLOSED = {
    "type": "object",
    "properties": {"invoice": {"type": "string"}, "lines": {"items": {"type": "integer"}}},
    "required": ["invoice"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.usefixtures("agents")
class TestWhatIsSaid:
    """An error names the rule that is broken and the member it is about, and never the value."""

    @pytest.mark.parametrize(
        ("schema", "payload", "expected"),
        [
            (CLOSED, {}, [("/invoice", "required")]),
            (
                CLOSED,
                {"a/b": 1},
                [("/a~1b", "additional_properties"), ("/invoice", "required")],
            ),
            (CLOSED, {"invoice": 1}, [("/invoice", "type")]),
            (CLOSED, {"invoice": "", "lines": [1, "x"]}, [("/lines/1", "type")]),
            (about({"minLength": 3}), {"x": "s3"}, [("/x", "min_length")]),
            (
                about({"type": "array", "uniqueItems": True}),
                {"x": ["s3cr3t", "s3cr3t"]},
                [("/x", "unique_items")],
            ),
        ],
    )
    def test_the_rule_and_the_member(
        self, acme: Api, globex: Api, schema: Schema, payload: Any, expected: list[Any]
    ) -> None:
        publish(globex, "2.0.0", schema)
        errors = assert_refused(delegate(acme, payload), 422)["errors"]
        found = [(error["pointer"], error["code"]) for error in errors]
        assert found == [(f"/task_input{pointer}", code) for pointer, code in expected]
        assert "s3" not in str([error["detail"] for error in errors])

    def test_what_is_reported_is_limited(self, acme: Api, globex: Api) -> None:
        rule = {"items": {"type": "string", "pattern": "^" + "b" * 400}}
        publish(globex, "2.0.0", about(rule))
        response = delegate(acme, {"x": ["x" * 5_000] * 150})
        errors = assert_refused(response, 422, at="/task_input/x/0")["errors"]
        assert len(errors) == 100
        assert max(len(error["detail"]) for error in errors) <= 300


def test_what_nobody_asked_is_not_known(services: Services) -> None:
    demands = [({"type": "string"}, {"x": 1}), ({"type": "object"}, {"x": 1})]
    verdicts = payloads.Verdicts(services.checks, "owner", demands)
    payloads.check({"type": "object"}, {"x": 1}, "task_input", verdicts)
    with pytest.raises(PayloadInvalid):
        payloads.check({"type": "string"}, {"x": 1}, "task_input", verdicts)
    with pytest.raises(Overtaken):
        payloads.check({"type": "array"}, {"x": 1}, "task_input", verdicts)


def test_a_schema_elsewhere_demands_nothing() -> None:
    verdicts = payloads.Verdicts()
    payloads.check({"$ref_uri": "https://x.example/schema.json"}, CLERK, "task_input", verdicts)
