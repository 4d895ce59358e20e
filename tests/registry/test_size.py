"""How large a manifest may be, and what a large one costs others: nothing while a lock is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app import canonical, db
from app.canonical import Canonical, canonical_json, with_member
from app.config import Settings
from app.http.context import Services
from app.registry import service
from app.registry.models import Version
from tests.client import Api
from tests.registry.manifests import Document, build_manifest

KIB = 1024
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def manifest_of(size: int, **arguments: Any) -> Document:
    """Return a valid manifest whose canonical form has ``size`` bytes."""
    manifest = build_manifest(**arguments)
    schema = manifest["capabilities"][0]["input_schema"]
    schema["description"] = ""
    schema["description"] = "x" * (size - len(rfc8785.dumps(manifest)))
    return manifest


@given(st.dictionaries(NAMES, VALUES), NAMES, VALUES)
def test_a_member_set_in_canonical_text_is_as_if_made_anew(
    document: dict[str, Any], name: str, value: Any
) -> None:
    assert with_member(rfc8785.dumps(document), (name,), value) == rfc8785.dumps(
        {**document, name: value}
    )
    nested = {"identity": document, **document}
    nested["identity"] = document
    expected = rfc8785.dumps({**nested, "identity": {**document, name: value}})
    assert with_member(rfc8785.dumps(nested), ("identity", name), value) == expected


@given(st.dictionaries(NAMES, VALUES))
def test_what_is_canonical_already_is_taken_as_it_is(document: dict[str, Any]) -> None:
    known = {name: Canonical.of(value) for name, value in document.items()}
    assert canonical_json({"body": document}) == canonical_json({"body": Canonical.of(known)})


def test_a_manifest_has_at_most_256_kib_in_canonical_form(acme: Api) -> None:
    body = {"namespace": "@acme", "manifest": manifest_of(256 * KIB)}
    # Neither space between members nor how a number is written counts.
    spread = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    assert acme.post("/v1/agents", data=spread).status_code == 200
    for answer in (
        acme.post("/v1/agents", {**body, "manifest": manifest_of(256 * KIB + 1, slug="b")}),
        acme.put(
            "/v1/agents/@acme:invoice-summarizer",
            {"manifest": manifest_of(256 * KIB + 1, version="1.0.1")},
        ),
    ):
        assert answer.status_code == 422
        assert answer.get_json()["errors"] == [
            {
                "pointer": "/manifest",
                "code": "too_large",
                "detail": "expected at most 262144 bytes in canonical form (RFC 8785), not 262145",
            }
        ]
    assert acme.get("/v1/agents/@acme:b").status_code == 404


def test_the_limit_is_a_setting() -> None:
    assert Settings.from_env({"AGENTHUB_MAX_MANIFEST_BYTES": "4096"}).max_manifest_bytes == 4096


def hostile() -> Document:
    """A manifest whose schema holds what looks like the identity it is published under."""
    manifest = build_manifest()
    schema = manifest["capabilities"][0]["input_schema"]
    schema["const"] = {
        "identity": dict(manifest["identity"]),
        "\u20ac\U0001f600": [1e21, 1e-7, 0.5],
    }
    schema["description"] = '{"identity":{"id":"invoice-summarizer"}}'
    schema["properties"]["identity"] = {"const": {"id": "invoice-summarizer"}}
    return manifest


def test_a_fork_has_the_digest_of_its_manifest_made_anew(acme: Api, globex: Api) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": hostile()})
    body = {"namespace": "@globex", "new_slug": "copy"}
    forked = globex.post("/v1/agents/@acme:invoice-summarizer/fork", body).get_json()
    expected = hostile()
    expected["identity"]["id"] = "copy"
    assert forked["forked_agent"]["manifest"] == expected
    version = globex.get("/v1/agents/@globex:copy/versions/1.0.0").get_json()
    assert version["manifest"] == expected
    assert version["digest"] == canonical.digest(rfc8785.dumps(expected))


def test_a_fork_of_one_larger_than_the_limit_by_now_is_refused(
    acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest_of(64 * KIB)})
    object.__setattr__(services.settings, "max_manifest_bytes", 32 * KIB)
    body = {"namespace": "@acme", "new_slug": "copy"}
    answer = acme.post("/v1/agents/@acme:invoice-summarizer/fork", body)
    assert answer.status_code == 422
    assert answer.get_json()["code"] == "manifest_too_large"
    assert acme.get("/v1/agents/@acme:copy").status_code == 404


def test_a_fork_into_a_namespace_of_others_does_not_read_the_manifest(
    acme: Api, globex: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest()})

    def refuse(*_: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(service, "find_agent", refuse)
    body = {"namespace": "@acme", "new_slug": "copy"}
    answer = globex.post("/v1/agents/@acme:invoice-summarizer/fork", body)
    assert (answer.status_code, answer.get_json()["code"]) == (403, "namespace_taken")


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with whole manifests, each with whether a transaction was open."""
    done: list[str] = []
    open_transactions = 0
    transaction = db.Database.transaction

    @contextmanager
    def counted(self: db.Database) -> Iterator[Any]:
        nonlocal open_transactions
        with transaction(self) as session:
            open_transactions += 1
            try:
                yield session
            finally:
                open_transactions -= 1

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if len(repr(arguments)) > 20 * KIB:
                done.append(f"{name} {'in' if open_transactions else 'before'}")
            return function(*arguments)

        return call

    monkeypatch.setattr(db.Database, "transaction", counted)
    monkeypatch.setattr(rfc8785, "dumps", noted("canonical", rfc8785.dumps))
    monkeypatch.setattr(service, "behavioral_diff", noted("diff", service.behavioral_diff))
    return done


def test_a_manifest_is_made_canonical_once_and_compared_before_the_transaction(
    acme: Api, costly: list[str]
) -> None:
    agent = "/v1/agents/@acme:invoice-summarizer"
    big = manifest_of(30 * KIB)
    assert acme.post("/v1/agents", {"namespace": "@acme", "manifest": big}).status_code == 200
    assert costly == ["canonical before"]
    costly.clear()
    big = manifest_of(30 * KIB, version="1.0.1")
    assert acme.put(agent, {"manifest": big}).status_code == 200
    assert costly == ["canonical before", "diff before"]
    costly.clear()
    body = {"namespace": "@acme", "new_slug": "copy"}
    assert acme.post(f"{agent}/fork", body).status_code == 200
    assert costly == []


def test_who_may_not_publish_learns_so_before_anything_is_compared(
    acme: Api, globex: Api, costly: list[str]
) -> None:
    agent = "/v1/agents/@acme:invoice-summarizer"
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest()})
    costly.clear()
    answer = globex.put(agent, {"manifest": manifest_of(30 * KIB, version="1.0.1")})
    assert answer.get_json()["code"] == "not_owner"
    assert costly == []


def test_a_version_that_came_between_is_compared_with(
    acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = "/v1/agents/@acme:invoice-summarizer"
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest()})
    prepare = service.prepare_version

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(service, "prepare_version", prepare)
        prepared = prepare(*arguments)
        added = build_manifest(version="1.1.0")
        added["capabilities"].append({**added["capabilities"][0], "id": "second"})
        assert acme.put(agent, {"manifest": added}).status_code == 200
        return prepared

    monkeypatch.setattr(service, "prepare_version", overtaken)
    assert acme.put(agent, {"manifest": build_manifest(version="1.2.0")}).status_code == 200
    with services.database.read() as connection:
        impact = connection.scalar(
            select(Version.impact_from_previous).where(Version.version == "1.2.0")
        )
    assert orjson.loads(impact or "")["capability_delta"]["removed"] == ["second"]
