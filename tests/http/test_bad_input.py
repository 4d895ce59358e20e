"""Hostile bodies: each is refused with a problem, stores nothing, and uses no key up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import inspect

from app.config import Settings
from app.http.context import Services
from app.plain_text import text_fault
from tests.client import Api
from tests.registry.manifests import build_capability, build_manifest
from tests.reliability.evidence import contents
from tests.reliability.hostile import (
    AGENT,
    EVALS,
    EVALUATION,
    HOSTILE,
    WRITES,
    assert_refused,
    changed,
    json_type,
    places,
    send,
)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("untouched")
def test_another_type_at_any_position_is_refused(registry: Api, name: str) -> None:
    body = WRITES[name][2]
    for pointer, value in places(body):
        for other in (None, True, 7, "text", [], {"a": 1}):
            # A moment that is null is the moment of the request.
            if json_type(other) == json_type(value) or (pointer, other) == ("/evaluated_at", None):
                continue

            def replace(parent: Any, at: Any, other: Any = other) -> None:
                parent[at] = other

            document = changed(body, pointer, replace)
            assert_refused(send(registry, name, document), 422, at=pointer)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("untouched")
def test_an_unknown_member_of_any_object_is_refused(registry: Api, name: str) -> None:
    body = WRITES[name][2]
    objects = [
        pointer
        for pointer, value in places(body)
        if isinstance(value, dict)
        and not pointer.endswith(("input_schema", "output_schema", "/metrics"))
    ]
    # The names are those that the machinery in between uses itself.
    for unknown in ("extra", "code", "detail", "pointer", "key", "value", "_schema", "a/b~c", ""):
        for pointer in objects:
            at = f"{pointer}/{unknown.replace('~', '~0').replace('/', '~1')}"

            def add(parent: Any, key: Any, unknown: str = unknown) -> None:
                parent[key][unknown] = 1

            assert_refused(send(registry, name, changed(body, pointer, add)), 422, at=at)
    everything = {"code": 1, "detail": 2, "pointer": 3, "_schema": 4, "key": 5, "value": 6}
    document = assert_refused(send(registry, name, body | everything), 422)
    assert {entry["pointer"] for entry in document["errors"]} == {f"/{n}" for n in everything}


@pytest.mark.usefixtures("untouched")
def test_a_missing_member_is_named(registry: Api) -> None:
    for name, (_, _, whole) in WRITES.items():
        assert_refused(send(registry, name, {}), 422)
        for member in whole.keys() - {"cases", "evaluated_at", "count"}:
            body = {k: v for k, v in whole.items() if k != member}
            assert_refused(send(registry, name, body), 422, at=f"/{member}")


RAW = (
    b"",
    b"not json",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"namespace":NaN}',
    b'{"manifest":Infinity}',
    b'{"manifest":1e400}',
    b'{"manifest":' + b"9" * 10_000 + b"}",
    b'{"suite":"\\ud800"}',
    b'{"\\ud800":1}',
    b'{"suite":"\\u0000"}',
    b'{"manifest":{},"manifest":{}}',
    b'{"manifest":' + b"[" * 65 + b"]" * 65 + b"}",
    b"[" * 100_000,
    b"null",
    b"[]",
    b'"text"',
    b"7",
)


@pytest.mark.parametrize("name", WRITES)
def test_a_refused_body_stores_nothing_and_uses_no_key_up(
    registry: Api, services: Services, name: str
) -> None:
    before = contents(services.database)
    for data in RAW:
        assert_refused(send(registry, name, data, idempotency_key="key of the write"), 400, 422)
    assert contents(services.database) == before
    answer = send(registry, name, WRITES[name][2], idempotency_key="key of the write")
    assert answer.status_code == 200, answer.text
    assert "Idempotent-Replayed" not in answer.headers


def test_refusals_that_never_ran_use_no_key_up(
    registry: Api, caller: Callable[..., Api], services: Services
) -> None:
    before = contents(services.database)
    globex = caller("globex")
    before = contents(services.database)
    missing = "/v1/agents/@acme:missing"
    stale = {"If-Match": '"999"'}
    body = WRITES["publish"][2]
    other = {"manifest": build_manifest("other", "2.0.0")}
    refusals = [
        assert_refused(globex.put(AGENT, body, idempotency_key="k"), 403),
        assert_refused(globex.delete(AGENT, idempotency_key="k"), 403),
        assert_refused(globex.post("/v1/agents", WRITES["register"][2], idempotency_key="k"), 403),
        assert_refused(globex.post(EVALS, EVALUATION, idempotency_key="k"), 403),
        assert_refused(globex.post(AGENT + "/fork", WRITES["fork"][2], idempotency_key="k"), 403),
        assert_refused(globex.post(missing + "/fork", {}, idempotency_key="k"), 422),
        assert_refused(globex.delete(missing, idempotency_key="k"), 404),
        assert_refused(registry.delete(AGENT, headers=stale, idempotency_key="k"), 412),
        assert_refused(registry.put(AGENT, body, headers=stale, idempotency_key="k"), 412),
        assert_refused(
            registry.put(AGENT, other, idempotency_key="k"), 422, at="/manifest/identity/id"
        ),
        assert_refused(registry.put(missing, body, idempotency_key="k"), 404),
        assert_refused(
            registry.post(AGENT + "/versions/9.9.9/evals", EVALUATION, idempotency_key="k"), 404
        ),
        assert_refused(
            registry.delete(AGENT, headers={"X-API-Key": "ah_x"}, idempotency_key="k"), 401
        ),
    ]
    assert len({refusal["request_id"] for refusal in refusals}) == len(refusals)
    assert contents(services.database) == before
    fork = {"namespace": "@globex", "new_slug": "copy"}
    assert globex.post(AGENT + "/fork", fork, idempotency_key="k").status_code == 200
    assert registry.put(AGENT, body, idempotency_key="k").status_code == 200


@pytest.mark.usefixtures("untouched")
def test_names_with_a_final_newline_are_refused(registry: Api) -> None:
    evil = "\n"
    manifest = build_manifest("other")
    for name, body, at in (
        ("register", {"namespace": "@acme" + evil, "manifest": manifest}, "/namespace"),
        ("fork", {"namespace": "@acme", "new_slug": "copy" + evil}, "/new_slug"),
        ("fork", {"namespace": "@acme" + evil, "new_slug": "copy"}, "/namespace"),
        ("evaluate", EVALUATION | {"suite": "suite" + evil}, "/suite"),
        ("evaluate", EVALUATION | {"metrics": {"accuracy" + evil: 1}}, "/metrics/accuracy" + evil),
        ("evaluate", EVALUATION | {"evaluated_at": "2026-01-20T09:30:00Z" + evil}, "/evaluated_at"),
    ):
        assert_refused(send(registry, name, body), 422, at=at)
    for member in ("id", "version"):
        broken = copy.deepcopy(manifest)
        broken["identity"][member] += evil
        body = {"namespace": "@acme", "manifest": broken}
        assert_refused(send(registry, "register", body), 422, at=f"/manifest/identity/{member}")
    for path in (
        AGENT + "%0A",
        AGENT + "/versions/1.0.0%0A",
        AGENT + "/compare/1.0.0/1.0.0%0A",
        AGENT + "/versions/1.0.0%0A/evals",
        "/v1/namespaces/@acme%0A",
    ):
        assert_refused(registry.get(path), 404)
    assert_refused(registry.post(AGENT + "/versions/1.0.0%0A/evals", EVALUATION), 404)


def test_hostile_text_is_data(registry: Api, app: Flask, services: Services) -> None:
    manifest = build_manifest("hostile")
    texts = [text for text in HOSTILE if "\0" not in text and len(text) < 1000]
    # What people read shows all of itself; what is data may be anything.
    shown = [text for text in texts if text_fault(f"x{text}", lines=True) is None]
    assert len(shown) > len(texts) // 2
    manifest["identity"]["description"] = "Hostile: " + "".join(shown)
    manifest["identity"]["name"] = "'; DELETE FROM registry_agents; --"
    manifest["capabilities"][0]["input_schema"]["examples"] = texts
    manifest["capabilities"][0]["input_schema"]["properties"] |= {text: {} for text in texts}
    body = {"namespace": "@acme", "manifest": manifest}
    registered = registry.post("/v1/agents", body, headers={"X-Request-Id": "fixed"})
    assert registered.status_code == 200, registered.text
    assert registered.get_json()["manifest"] == manifest
    read = registry.get("/v1/agents/@acme:hostile/versions/1.0.0")
    assert read.get_json()["manifest"] == manifest
    assert read.mimetype == "application/json"
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    result = EVALUATION | {"suite": "'; DROP TABLE registry_evaluations; -- <b>"}
    assert registry.post(EVALS, result).get_json()["suite"] == result["suite"]
    assert "registry_evaluations" in inspect(services.database.reader).get_table_names()


@pytest.mark.usefixtures("untouched")
def test_a_secret_is_refused_and_not_repeated(registry: Api) -> None:
    secret = "sk-live-0123456789abcdef"
    manifest = build_manifest("other")
    manifest["capabilities"][0]["input_schema"]["default"] = {"api_key": secret}
    response = registry.post("/v1/agents", {"namespace": "@acme", "manifest": manifest})
    at = "/manifest/capabilities/0/input_schema/default/api_key"
    assert_refused(response, 422, at=at)
    assert secret not in response.text


@pytest.mark.usefixtures("untouched")
def test_too_many_and_repeated_capabilities_are_refused(registry: Api) -> None:
    twice: dict[str, Any] = {"capabilities": [build_capability("same"), build_capability("same")]}
    body = {"namespace": "@acme", "manifest": build_manifest("other", **twice)}
    assert_refused(registry.post("/v1/agents", body), 422, at="/manifest/capabilities/1/id")
    many = [build_capability(f"c{number}") for number in range(10_000)]
    body = {"namespace": "@acme", "manifest": build_manifest("other", capabilities=many)}
    assert_refused(registry.post("/v1/agents", body), 413)


class TestWithLargeBodies:
    """The same limit on capabilities holds where the operator allows large bodies."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Settings that allow bodies of 32 MiB."""
        return Settings(**(vars(settings) | {"max_body_bytes": 32 * 2**20}))

    @pytest.mark.usefixtures("untouched")
    def test_too_many_capabilities_are_refused(self, registry: Api) -> None:
        many = [build_capability(f"c{number}") for number in range(10_000)]
        body = {"namespace": "@acme", "manifest": build_manifest("other", capabilities=many)}
        assert_refused(registry.post("/v1/agents", body), 422)
