"""Anything at all, sent to every route: never a failure of the service, never an effect by chance.

The caller holds every answer to the OpenAPI document, so an undocumented status fails as well.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import assert_consistent
from tests.reliability.hostile import EVALS, EVALUATION, WRITES, send

# Each example is a request to a database that stays; what one leaves is there for the next.
FUZZ = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NAMES = st.sampled_from(
    ("code", "detail", "pointer", "key", "value", "_schema", "id", "version", "suite", "", "$ref")
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("@acme", "1.0.0", "a\n", "\0", "object", "2026-01-01T00:00:00Z")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
WRITE_NAMES = st.sampled_from(sorted(WRITES))
SEGMENTS = st.text(max_size=30) | st.sampled_from(
    ("@acme:invoice-summarizer", "@acme", "1.0.0", "agents", "versions", "evals", "fork", "..", "")
)
PARAMETERS = st.sampled_from(
    ("limit", "offset", "cursor", "status", "namespace", "code", "detail", "value", "_schema")
)


@pytest.fixture
def registry(acme: Api, services: Services) -> Iterator[Api]:
    """A registry that holds one agent with one evaluation, and is consistent after the attack."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    assert acme.post(EVALS, EVALUATION).status_code == 200
    yield acme
    assert_consistent(services.database)


@FUZZ
@given(name=WRITE_NAMES, body=JSON)
def test_any_json(registry: Api, name: str, body: Any) -> None:
    # A random document is never a valid body.
    assert send(registry, name, body).status_code in (400, 422)


@FUZZ
@given(name=WRITE_NAMES, body=st.binary(max_size=200))
def test_any_bytes(registry: Api, name: str, body: bytes) -> None:
    assert send(registry, name, body).status_code in (400, 422)


@FUZZ
@given(name=WRITE_NAMES, data=st.data())
def test_a_valid_body_with_anything_anywhere(registry: Api, name: str, data: st.DataObject) -> None:
    body: Any = copy.deepcopy(WRITES[name][2])
    for _ in range(data.draw(st.integers(1, 3))):
        parent: Any = body
        while True:
            places = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not places:
                break
            place = data.draw(st.sampled_from(places))
            if not isinstance(parent[place], dict | list) or data.draw(st.integers(0, 3)) == 0:
                parent[place] = data.draw(JSON)
                break
            parent = parent[place]
    assert send(registry, name, body).status_code in (200, 400, 403, 409, 422)


@FUZZ
@given(segments=st.lists(SEGMENTS, max_size=6), query=st.dictionaries(PARAMETERS, st.text()))
def test_any_path_and_query(registry: Api, segments: list[str], query: dict[str, str]) -> None:
    path = "/v1/" + "/".join(quote(s.encode("utf-8", "surrogatepass"), safe="@:") for s in segments)
    pairs = "&".join(
        f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in query.items()
    )
    assert registry.get(f"{path}?{pairs}").status_code < 500
    assert registry.client.delete(path).status_code < 500


@FUZZ
@given(query=st.dictionaries(PARAMETERS, st.text() | st.integers().map(str), min_size=1))
def test_any_query_of_the_list(registry: Api, query: dict[str, str]) -> None:
    pairs = "&".join(
        f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in query.items()
    )
    assert registry.get(f"/v1/agents?{pairs}").status_code in (200, 422)


@FUZZ
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ("If-Match", "If-None-Match", "X-Request-Id", "Content-Type", "Accept", "Range",
             "Idempotency-Key", "X-API-Key", "Content-Encoding", "X-Forwarded-For", "Cookie")
        ),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40),
        max_size=4,
    )
)  # fmt: skip
def test_any_header(registry: Api, app: Flask, headers: dict[str, str]) -> None:
    body = json.dumps(EVALUATION).encode()
    for method, path in (("GET", "/v1/agents/@acme:invoice-summarizer"), ("POST", EVALS)):
        assert registry.request(method, path, data=body, headers=headers).status_code < 500
