"""Schemas of capabilities are judged when they are published, for whoever may publish them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.canonical import Canonical
from app.http.context import Services
from app.json_schema.pool import Pool
from app.registry import manifest as rules
from app.registry import service
from app.registry.queries import find_owner
from tests.client import Api
from tests.json_schema.schemas import (
    CIRCLES,
    ENDLESS,
    EXPLOSIVE,
    LIST,
    USELESS,
    Schema,
    about,
    chain,
)
from tests.registry.manifests import Document, build_capability, build_manifest
from tests.reliability.hostile import assert_refused

AGENT = "/v1/agents/@acme:reader"
NO_LIMITS = service.Quotas(*[0] * 5)
AT = "/manifest/capabilities/0/input_schema"


def manifest(version: str = "1.0.0", **members: Any) -> Document:
    """Return a manifest with one capability, some of whose members are replaced."""
    return build_manifest("reader", version, capabilities=[build_capability("c", **members)])


def register(api: Api, document: Document, namespace: str = "@acme") -> Any:
    """Register an agent."""
    return api.post("/v1/agents", {"namespace": namespace, "manifest": document})


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was looked into: manifests as a whole, and schemas in the pool."""
    seen: list[Any] = []
    judge, validate = Pool.judge, rules.validate

    def noted_judge(pool: Pool, owner_id: str, schemas: Any) -> Any:
        seen.extend(schemas)
        return judge(pool, owner_id, schemas)

    def noted_validate(value: Any) -> Any:
        seen.append(value)
        return validate(value)

    monkeypatch.setattr(Pool, "judge", noted_judge)
    monkeypatch.setattr(rules, "validate", noted_validate)
    return seen


@pytest.mark.parametrize("dialect", ["sqlite"])
class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("schema", "pointer"),
        [*USELESS.values(), *CIRCLES.values()],
        ids=[*USELESS, *CIRCLES],
    )
    def test_with_the_place(self, acme: Api, schema: Schema, pointer: str) -> None:
        problem = assert_refused(register(acme, manifest(input_schema=schema)), 422)
        entry = problem["errors"][0]
        assert (entry["pointer"], entry["code"]) == (AT + pointer, "invalid_json_schema")
        assert acme.get(AGENT).status_code == 404

    @pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
    def test_what_explodes(self, acme: Api, keyword: str) -> None:
        response = register(acme, manifest(output_schema=chain(40, keyword)))
        (entry,) = assert_refused(response, 422)["errors"]
        assert entry["pointer"].startswith("/manifest/capabilities/0/output_schema/$defs/s")
        assert "10000" in entry["detail"]

    def test_in_a_further_version(self, acme: Api) -> None:
        assert register(acme, manifest()).status_code == 200
        pattern = about({"type": "string", "pattern": "(["})
        response = acme.put(AGENT, {"manifest": manifest("1.1.0", input_schema=pattern)})
        assert_refused(response, 422, at=f"{AT}/properties/x/pattern")
        assert acme.get(AGENT).get_json()["versions"] == ["1.0.0"]

    def test_in_a_fork_of_what_an_earlier_release_published(
        self, acme: Api, globex: Api, services: Services
    ) -> None:
        assert register(acme, manifest()).status_code == 200
        old = Canonical.of(manifest("1.1.0", input_schema=chain(40, "allOf")))
        with services.database.transaction() as session:
            owner_id = find_owner(session, "@acme:reader")
            publication = service.prepare_version(session, owner_id, "@acme:reader", old)
            service.publish_version(session, owner_id, "@acme:reader", publication, NO_LIMITS)
        # It is as it was, and cannot be published anew.
        assert acme.get(AGENT).get_json()["latest_version"] == "1.1.0"
        body = {"namespace": "@globex", "new_slug": "copy"}
        problem = assert_refused(globex.post(f"{AGENT}/fork", body), 422)
        assert "@acme:reader" in problem["detail"]
        assert problem["errors"][0]["pointer"].startswith(f"{AT}/$defs/s")
        assert globex.get("/v1/agents/@globex:copy").status_code == 404

    def test_what_takes_too_long_to_judge(self, acme: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.json_schema.pool.LEAST_SECONDS", 1000)
        response = register(acme, manifest(input_schema=LIST))
        (entry,) = assert_refused(response, 422, at=AT)["errors"]
        assert "2 seconds" in entry["detail"]

    def test_every_schema_and_no_more_than_a_hundred_errors(self, acme: Api) -> None:
        bad = {"type": "object", "properties": {f"p{n}": {"pattern": "("} for n in range(60)}}
        capabilities = [build_capability(f"c{n}", output_schema=bad) for n in range(3)]
        response = register(acme, build_manifest("reader", capabilities=capabilities))
        errors = assert_refused(response, 422)["errors"]
        assert len(errors) == 100
        assert errors[99]["pointer"].startswith("/manifest/capabilities/1/output_schema")


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_what_is_let_pass(acme: Api) -> None:
    schemas = [LIST, {"$ref_uri": "https://x.example/in.json"}, ENDLESS["a tree"][0]]
    capabilities = [build_capability(f"c{n}", input_schema=one) for n, one in enumerate(schemas)]
    response = register(acme, build_manifest("reader", capabilities=capabilities))
    assert response.status_code == 200


def test_nothing_is_looked_into_for_whoever_may_not_publish(
    acme: Api, globex: Api, judged: list[Any], caller: Callable[..., Api]
) -> None:
    assert register(acme, manifest()).status_code == 200
    judged.clear()
    schema, _ = EXPLOSIVE["all of them"]
    evil = manifest("1.1.0", input_schema=schema)
    refused = globex.put(AGENT, {"manifest": evil})
    assert (refused.status_code, refused.get_json()["code"]) == (403, "not_owner")
    refused = register(globex, evil)
    assert (refused.status_code, refused.get_json()["code"]) == (403, "namespace_taken")
    missing = globex.put("/v1/agents/@acme:nobody", {"manifest": evil})
    assert (missing.status_code, missing.get_json()["code"]) == (404, "agent_not_found")
    assert judged == []
    # The owner is told what is wrong.
    assert_refused(acme.put(AGENT, {"manifest": evil}), 422)
    assert len(judged) == 2


def test_a_body_for_another_owners_agent_is_not_read(acme: Api, globex: Api) -> None:
    assert register(acme, manifest()).status_code == 200
    for data in (b"{" + b" " * 900_000, b"[" * 5000, b""):
        assert globex.put(AGENT, data=data).get_json()["code"] == "not_owner"
    assert acme.put(AGENT, data=b"[" * 5000).status_code in (400, 422)


def test_a_replay_is_not_looked_into_again(acme: Api, judged: list[Any]) -> None:
    body = {"namespace": "@acme", "manifest": manifest(input_schema=LIST)}
    first = acme.post("/v1/agents", body, idempotency_key="one")
    judged.clear()
    assert acme.post("/v1/agents", body, idempotency_key="one").data == first.data
    assert judged == []


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_ordinary_schemas_need_no_process(acme: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(*_: object) -> None:
        raise AssertionError("a process was asked")

    monkeypatch.setattr(Pool, "_turn", turn)
    assert register(acme, manifest()).status_code == 200


@pytest.mark.parametrize(
    ("schema", "may_be"),
    [
        ({"type": "object"}, False),
        ({"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"}, False),
        ({"type": "object", "$defs": {"a": {"$comment": "x"}}}, False),
        ({"$ref_uri": "https://x.example/pattern"}, False),
        ({"type": "object", "$ref": "#/$defs/a"}, True),
        ({"type": "object", "not": {"$dynamicRef": "#a"}}, True),
        ({"type": "object", "not": {"$id": "a"}}, True),
        (about({"pattern": "a"}), True),
        ({"type": "object", "patternProperties": {}}, True),
        ({"type": "object", "$schema": "http://json-schema.org/draft-04/schema#"}, True),
        ({"type": "object", "$schema": "x", "not": {"$schema": "y"}}, True),
    ],
)
def test_which_may_be_at_fault(schema: Schema, may_be: bool) -> None:
    plain = {"type": "object"}
    found = dict(rules.capability_schemas(manifest(input_schema=schema, output_schema=plain)))
    assert list(found) == (["/capabilities/0/input_schema"] if may_be else [])
