"""Hostile paths, queries, methods and headers: each is refused, and nothing is stored."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from flask import Flask

from app.http.pagination import list_tag, pack_cursor
from tests.client import Api
from tests.reliability.hostile import (
    AGENT,
    EVALS,
    EVALUATION,
    HOSTILE,
    READS,
    WRITES,
    assert_refused,
    send,
)

BAD_QUERIES: tuple[tuple[str, str | None], ...] = (
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=-1", "limit"),
    ("limit=1.5", "limit"),
    ("limit=abc", "limit"),
    ("limit=", "limit"),
    ("limit=1_0", "limit"),
    ("limit=%2B5", "limit"),
    ("limit=%205", "limit"),
    ("limit=5%0A", "limit"),
    ("limit=5%00", "limit"),
    ("limit=%D9%A3", "limit"),
    ("limit=1e1", "limit"),
    ("limit=0x10", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("limit=5&limit=x", "limit"),
    ("offset=-1", "offset"),
    ("offset=" + "9" * 30, "offset"),
    ("offset=1.0", "offset"),
    ("offset=0%0A", "offset"),
    ("status=deleted", "status"),
    ("status=active%00", "status"),
    ("status=active%0A", "status"),
    ("namespace=@@acme", "namespace"),
    ("namespace=@acme%0A", "namespace"),
    ("namespace=%00", "namespace"),
    ("namespace=@acme'--", "namespace"),
    ("cursor=", "cursor"),
    ("cursor=%00", "cursor"),
    ("cursor=!!!!", "cursor"),
    ("cursor=" + "A" * 513, "cursor"),
    ("cursor=QGFjbWU%3D", "cursor"),
    ("cursor=QGFjbWU%0A", "cursor"),
    ("cursor=gICA", "cursor"),
    ("cursor=AAAA", "cursor"),
    ("cursor=QGFjbWU&offset=0", "cursor"),
    ("unknown=1", "unknown"),
    ("code=1&detail=2", "code"),
    ("value=1", "value"),
    ("_schema=1", "_schema"),
    ("%00=1", "\0"),
    ("%ff=1", None),
    ("limit[]=5", "limit[]"),
    ("&&&=&=", ""),
)


def test_a_bad_query_parameter_is_named(anyone: Api) -> None:
    for query, at in BAD_QUERIES:
        assert_refused(anyone.get(f"/v1/agents?{query}"), 422, at=at)


def test_a_forged_cursor_selects_no_more_than_an_honest_one(app: Flask, registry: Api) -> None:
    for position in ("~", "@acme:a", "' OR 1=1 --", "@", "-1", "99999999999999999999", "1;x"):
        for path in ("/v1/agents", "/v1/namespaces/acme", AGENT + "/versions", EVALS):
            rule, named = app.url_map.bind("").match(path, return_rule=True)
            cursor = pack_cursor(list_tag(str(rule), dict(named), {}), position)
            response = registry.get(f"{path}?cursor={cursor}")
            if response.status_code != 200:
                assert_refused(response, 422, at="cursor")
    assert registry.get("/v1/agents?offset=1000000000").get_json()["data"] == []


@pytest.mark.usefixtures("untouched")
def test_hostile_path_segments_find_nothing(registry: Api) -> None:
    for text in HOSTILE:
        segment = quote(text, safe="")
        for path in READS:
            if "{version}" in path:
                found = registry.get(path.format(agent="@acme:invoice-summarizer", version=segment))
                assert_refused(found, 404)
            assert_refused(registry.get(path.format(agent=segment, version="1.0.0")), 404)
        for method, path, body in (
            ("PUT", f"/v1/agents/{segment}", WRITES["publish"][2]),
            ("DELETE", f"/v1/agents/{segment}", None),
            ("POST", f"/v1/agents/{segment}/fork", WRITES["fork"][2]),
            ("POST", f"/v1/agents/{segment}/versions/1.0.0/evals", EVALUATION),
            ("POST", f"{AGENT}/versions/{segment}/evals", EVALUATION),
        ):
            assert_refused(registry.request(method, path, json=body), 404)


@pytest.mark.usefixtures("untouched")
def test_an_unusable_idempotency_key_is_refused(registry: Api) -> None:
    for key in ("", " ", "\t", "k" * 256, "k" * 10_000, "schlüssel", "a\x7f", "a\tb", "\xa0"):
        for method, path, body in (*WRITES.values(), ("DELETE", AGENT, None)):
            headers = {"Idempotency-Key": key}
            answer = registry.request(method, path, json=body, headers=headers)
            assert assert_refused(answer, 400)["code"].startswith("idempotency_key_m")


def test_a_key_of_255_characters_with_a_space_inside_is_usable(registry: Api) -> None:
    key = "k" * 127 + " " + "~" * 127
    first = registry.delete(AGENT, idempotency_key=key)
    again = registry.delete(AGENT, idempotency_key=f"  {key}  ")
    assert (first.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")


@pytest.mark.usefixtures("untouched")
def test_another_media_type_is_refused(registry: Api) -> None:
    for media_type in ("text/plain", "application/xml", "", "application/jsonp", "a\x7fb", "json"):
        for method, path, body in WRITES.values():
            headers = {"Content-Type": media_type}
            data = json.dumps(body).encode()
            assert_refused(registry.request(method, path, data=data, headers=headers), 415)


def test_a_json_media_type_with_parameters_is_read(registry: Api) -> None:
    headers = {"Content-Type": 'Application/JSON; charset="utf-16"'}
    answer = send(registry, "evaluate", EVALUATION, headers=headers)
    assert answer.status_code == 200, answer.text


def test_the_body_of_a_deprecation_does_not_matter(registry: Api) -> None:
    answer = registry.request("DELETE", AGENT, data=b"\xff" * 1000, idempotency_key="k")
    assert answer.status_code == 200
    again = registry.request("DELETE", AGENT, idempotency_key="k")
    assert again.headers["Idempotent-Replayed"] == "true"


def test_another_method_is_refused_with_the_methods_there_are(registry: Api) -> None:
    for method, path, allowed in (
        ("PATCH", AGENT, {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}),
        ("POST", AGENT, {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}),
        ("DELETE", "/v1/agents", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("GET", AGENT + "/fork", {"POST", "OPTIONS"}),
        ("PUT", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/readyz", {"GET", "HEAD", "OPTIONS"}),
        ("X" * 100, "/v1/agents", {"GET", "HEAD", "POST", "OPTIONS"}),
    ):
        response = registry.client.open(path, method=method)
        assert_refused(response, 405)
        assert set(response.headers["Allow"].split(", ")) == allowed


UNKNOWN_PATHS = (
    "/nothing",
    "/v1/",
    "/v1/agents/",
    "/V1/agents",
    "/v1/agents/..%2f..%2fetc%2fpasswd",
    "/assets/..%2f..%2fconfig.py",
    "/assets/%2e%2e/config.py",
    "/assets/%00",
    "/assets/" + "a" * 5000,
    "/%ff%fe",
    "/v1/agents/%ed%a0%80",
    "/v1/agents/" + "a" * 60_000,
    "/v1/agents" + "/x" * 5000,
)


def test_an_unknown_path_is_not_found(anyone: Api) -> None:
    for path in UNKNOWN_PATHS:
        assert_refused(anyone.get(path), 404)


def test_garbage_in_conditions_matches_nothing(registry: Api) -> None:
    before = registry.get(AGENT)
    weak = f"W/{before.headers['ETag']}"
    for garbage in (
        '"',
        '""',
        '"2',
        'W/"2"',
        '"2."',
        '".2"',
        '"2.0.0"',
        '"2.x"',
        weak,
        '"99999999999999999999"',
        '"٢"',
        ",,,",
        "",
        '"x",',
        "x" * 9000,
    ):
        answer = registry.put(AGENT, WRITES["publish"][2], headers={"If-Match": garbage})
        assert_refused(answer, 412)
        read = registry.get(AGENT, headers={"If-None-Match": garbage})
        # The present revision is 2, and If-None-Match compares weakly.
        assert read.status_code == (304 if garbage == weak else 200)
    assert registry.get(AGENT).data == before.data
    assert registry.get(AGENT, headers={"If-None-Match": before.headers["ETag"]}).status_code == 304


def test_a_head_answers_as_a_get_without_the_body(registry: Api) -> None:
    read = registry.get(AGENT)
    head = registry.client.head(AGENT)
    assert (head.status_code, head.data) == (200, b"")
    for name in ("ETag", "Cache-Control", "Content-Type"):
        assert head.headers[name] == read.headers[name]
    headers = {"If-None-Match": read.headers["ETag"]}
    assert registry.client.head(AGENT, headers=headers).status_code == 304


def test_an_answer_without_a_tag_is_not_kept(registry: Api) -> None:
    for path in ("/v1/agents?limit=1", f"{AGENT}/trust", "/problems/not_found", "/v1/nothing"):
        answer = registry.get(path)
        assert "ETag" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store", path
    assert registry.get(AGENT).headers["Cache-Control"] != "no-store"


def test_an_unusable_request_id_is_replaced(anyone: Api) -> None:
    for offered in ("", "a b", "x" * 129, "a;b", "ü", "'", "x" * 50_000):
        answer = anyone.get("/healthz", headers={"X-Request-Id": offered})
        assert answer.headers["X-Request-Id"] != offered
        assert len(answer.headers["X-Request-Id"]) == 36


@pytest.mark.usefixtures("untouched")
def test_an_unknown_api_key_is_refused_before_anything_is_read(anyone: Api) -> None:
    for key in ("", " ", "x", "ah_", "ah_0000000000000000_" + "A" * 43, "ü", "x" * 50_000):
        for method, path, _ in (*WRITES.values(), ("DELETE", AGENT, None)):
            response = anyone.request(method, path, data=b"[" * 1000, headers={"X-API-Key": key})
            assert_refused(response, 401)
            assert response.headers["WWW-Authenticate"].startswith("ApiKey ")
            assert len(key) < 20 or key not in response.text
