"""A write under a key happens once, and its answer is given again byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from app import clock
from app.http.context import Services
from app.idempotency.models import IdempotencyKey
from app.idempotency.service import drop_expired_bodies
from app.registry.models import Evaluation
from tests.client import Api
from tests.registry.manifests import Document, build_manifest
from tests.reliability.evidence import assert_consistent, contents

AGENT = "/v1/agents/@acme:invoice-summarizer"
EVALS = AGENT + "/versions/1.0.0/evals"
REGISTRATION: Document = {"namespace": "@acme", "manifest": build_manifest()}
EVALUATION: Document = {"suite": "invoices", "metrics": {"accuracy": 1}}


def register(api: Api, key: str = "register") -> TestResponse:
    """Register the agent under ``key``."""
    return api.post("/v1/agents", REGISTRATION, idempotency_key=key)


def assert_replay(first: TestResponse, again: TestResponse) -> None:
    """Fail unless ``again`` is the stored copy of ``first``."""
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.data) == (first.status_code, first.data)
    for name in ("Content-Type", "ETag", "Content-Location", "Content-Length"):
        assert again.headers.get(name) == first.headers.get(name)


def test_every_write_is_replayed_byte_for_byte(acme: Api, services: Services) -> None:
    writes = (
        ("POST", "/v1/agents", REGISTRATION),
        ("POST", EVALS, EVALUATION),
        ("POST", AGENT + "/fork", {"namespace": "@acme", "new_slug": "copy"}),
        ("PUT", AGENT, {"manifest": build_manifest(version="1.1.0")}),
        ("DELETE", AGENT, None),
    )
    first = {m + p: acme.request(m, p, json=b, idempotency_key=m + p) for m, p, b in writes}
    assert {answer.status_code for answer in first.values()} == {200}
    after = contents(services.database)
    for method, path, body in writes:
        again = acme.request(method, path, json=body, idempotency_key=method + path)
        assert_replay(first[method + path], again)
        assert again.headers["X-Request-Id"] != first[method + path].headers["X-Request-Id"]
    assert contents(services.database) == after
    assert first["POST/v1/agents"].headers["ETag"] == '"1"'
    assert first["POST/v1/agents"].headers["Content-Location"] == AGENT
    assert_consistent(services.database)


def test_the_answer_stays_although_the_resource_has_changed(acme: Api) -> None:
    first = register(acme)
    acme.put(AGENT, {"manifest": build_manifest(version="2.0.0")})
    acme.delete(AGENT)
    assert_replay(first, register(acme))


def test_field_order_spelling_and_defaults_make_no_difference(acme: Api) -> None:
    register(acme)
    short = b'{"suite":"s","metrics":{"a":1,"b":0.5}}'
    long = (
        b'{ "evaluated_at": null, "cases": {"total": 0, "passed": 0},\n'
        b'"metrics": {"b": 5e-1, "a": 1.0}, "suite": "\\u0073" }'
    )
    first = acme.post(EVALS, data=short, idempotency_key="k")
    assert_replay(first, acme.post(EVALS, data=long, idempotency_key="k"))


def test_a_key_used_for_another_request_is_refused(acme: Api, services: Services) -> None:
    register(acme)
    acme.post(EVALS, EVALUATION, idempotency_key="k")
    before = contents(services.database)
    for method, path, body in (
        ("POST", EVALS, EVALUATION | {"suite": "other"}),
        ("POST", AGENT + "/versions/9.0.0/evals", EVALUATION),
        ("POST", "/v1/agents", REGISTRATION),
        ("DELETE", AGENT, None),
    ):
        refused = acme.request(method, path, json=body, idempotency_key="k")
        assert (refused.status_code, refused.get_json()["code"]) == (409, "idempotency_key_reused")
        assert "Idempotent-Replayed" not in refused.headers
    # A write takes no parameters, whatever its key.
    refused = acme.post(EVALS + "?x=1", EVALUATION, idempotency_key="k")
    assert (refused.status_code, refused.get_json()["errors"][0]["parameter"]) == (422, "x")
    assert contents(services.database) == before


def test_keys_belong_to_owners(caller: Callable[..., Api], services: Services) -> None:
    one, two, other = caller("acme"), caller("acme", "admin"), caller("globex")
    assert_replay(register(one, "k"), register(two, "k"))
    theirs = {"namespace": "@globex", "manifest": build_manifest()}
    answer = other.post("/v1/agents", theirs, idempotency_key="k")
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers
    with services.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(IdempotencyKey)) == 2


def test_keys_differ_by_case(acme: Api) -> None:
    register(acme)
    first = acme.post(EVALS, EVALUATION, idempotency_key="key")
    second = acme.post(EVALS, EVALUATION, idempotency_key="KEY")
    assert first.get_json()["id"] != second.get_json()["id"]


def test_a_settled_refusal_is_stored_and_replayed(acme: Api, services: Services) -> None:
    register(acme)
    exists = register(acme, "again")
    version = acme.put(AGENT, {"manifest": build_manifest()}, idempotency_key="version")
    assert exists.get_json()["code"] == "agent_exists"
    assert version.get_json()["code"] == "version_exists"
    acme.delete(AGENT)
    before = contents(services.database)
    assert_replay(exists, register(acme, "again"))
    again = acme.put(AGENT, {"manifest": build_manifest()}, idempotency_key="version")
    assert_replay(version, again)
    # The replay is the stored document, so it names the request that was refused first.
    assert again.get_json()["request_id"] == version.headers["X-Request-Id"]
    assert contents(services.database) == before
    assert_consistent(services.database)


def test_a_settled_refusal_undoes_its_effect(
    acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.registry import service
    from app.registry.errors import VersionExists

    def refuse(*_: object) -> None:
        raise VersionExists("refused after the agent was inserted")

    before = contents(services.database)
    monkeypatch.setattr(service, "_add_version", refuse)
    refused = register(acme, "k")
    assert refused.status_code == 409
    after = contents(services.database)
    assert len(after.pop("idempotency_keys")) == 1
    assert after == {name: rows for name, rows in before.items() if name != "idempotency_keys"}
    monkeypatch.undo()
    assert_replay(refused, register(acme, "k"))
    assert register(acme, "fresh").status_code == 200


def test_an_expired_answer_is_refused_and_never_runs_again(acme: Api, services: Services) -> None:
    register(acme)
    first = acme.post(EVALS, EVALUATION, idempotency_key="k")
    begun = clock.now()
    almost = begun + services.idempotency_retention - timedelta(seconds=10)
    late = begun + services.idempotency_retention + timedelta(seconds=1)
    with clock.frozen(lambda: almost):
        assert_replay(first, acme.post(EVALS, EVALUATION, idempotency_key="k"))
        with services.database.transaction() as session:
            assert drop_expired_bodies(session) == 0
    with clock.frozen(lambda: late):
        _assert_expired(acme.post(EVALS, EVALUATION, idempotency_key="k"))
        with services.database.transaction() as session:
            assert drop_expired_bodies(session, limit=1) == 1
            assert drop_expired_bodies(session) == 1
            assert drop_expired_bodies(session) == 0
    # Even a clock that is set back brings no dropped answer back, and runs nothing again.
    for moment in (begun, late, late + timedelta(days=3650)):
        with clock.frozen(lambda moment=moment: moment):  # type: ignore[misc]
            _assert_expired(acme.post(EVALS, EVALUATION, idempotency_key="k"))
            other = acme.post(EVALS, EVALUATION | {"suite": "x"}, idempotency_key="k")
            assert other.get_json()["code"] == "idempotency_key_reused"
    with services.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(Evaluation)) == 1
        rows = connection.execute(select(IdempotencyKey)).all()
    assert [(row.response_body, row.response_headers) for row in rows] == [(None, None)] * 2
    assert {row.resource for row in rows} == {AGENT, EVALS}


def _assert_expired(response: TestResponse) -> None:
    document = response.get_json()
    assert (response.status_code, document["code"]) == (409, "idempotency_response_expired")
    assert document["resource"] == EVALS
    assert "Retry-After" not in response.headers


def test_the_stored_answer_is_what_was_sent(acme: Api, services: Services) -> None:
    sent = register(acme, "k")
    with services.database.read() as connection:
        row = connection.execute(select(IdempotencyKey)).one()
    assert row.response_body == sent.data
    assert json.loads(row.response_headers).keys() == {"Content-Type", "ETag", "Content-Location"}
    assert (row.method, row.route, row.status_code) == ("POST", "/v1/agents", 200)
    assert row.body_expires_at - row.created_at == services.idempotency_retention
