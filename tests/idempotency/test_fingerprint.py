"""What makes two requests the same request."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from app.idempotency.service import fingerprint

AGENTS, AGENT = "/v1/agents", "/v1/agents/<agent_id>"
PATH = {"agent_id": "@acme:a"}
BODY = {"namespace": "@acme", "manifest": {"b": [1, 2.5, None, True, "ü€"], "a": {}}}

# The hash, what it is computed from, and the canonical text. A changed hash would make every key
# that was ever stored unknown, so a difference here is a mistake and never a new expectation.
VECTORS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    (
        "7c97e35a48bf29d1639766aee206c7eaa520e8234df2cd2b389e1465f06f86ec",
        ("POST", AGENTS, {}, [], BODY),
        '{"body":{"manifest":{"a":{},"b":[1,2.5,null,true,"ü€"]},"namespace":"@acme"},'
        '"method":"POST","path":{},"query":[],"route":"/v1/agents"}',
    ),
    (
        "43d5fe68152ba7338740264a53db6ae7ee2a113d647f19c2a79f2efe9dfd0b35",
        ("DELETE", AGENT, PATH, [], None),
        '{"body":null,"method":"DELETE","path":{"agent_id":"@acme:a"},"query":[],'
        '"route":"/v1/agents/<agent_id>"}',
    ),
    (
        "17e2a98a4f8477ba803c9e4aae5f7ba7584077190d3650dca7c3cb183bd73eb0",
        ("PUT", AGENT, PATH, [("b", "2"), ("a", "1"), ("a", "0")], {"m": {"n": 1e-7, "b": 1e21}}),
        '{"body":{"m":{"b":1e+21,"n":1e-7}},"method":"PUT","path":{"agent_id":"@acme:a"},'
        '"query":[["a","0"],["a","1"],["b","2"]],"route":"/v1/agents/<agent_id>"}',
    ),
)


@pytest.mark.parametrize(("expected", "request_parts", "text"), VECTORS)
def test_golden_vectors(expected: str, request_parts: tuple[Any, ...], text: str) -> None:
    assert fingerprint(*request_parts) == expected
    assert hashlib.sha256(text.encode()).hexdigest() == expected


@pytest.mark.parametrize(
    "same",
    [
        ("POST", AGENT, PATH, [("a", "1"), ("b", "2")], {"x": 1, "y": [1, {"p": 0, "q": 1}]}),
        ("POST", AGENT, PATH, [("b", "2"), ("a", "1")], {"x": 1, "y": [1, {"p": 0, "q": 1}]}),
        ("POST", AGENT, PATH, [("a", "1"), ("b", "2")], {"y": [1, {"q": 1, "p": 0}], "x": 1}),
        (
            "POST",
            AGENT,
            PATH,
            [("a", "1"), ("b", "2")],
            {"x": 1.0, "y": [1e0, {"p": -0.0, "q": 1}]},
        ),
    ],
)
def test_order_and_spelling_make_no_difference(same: tuple[Any, ...]) -> None:
    first = ("POST", AGENT, PATH, [("a", "1"), ("b", "2")], {"x": 1, "y": [1, {"p": 0, "q": 1}]})
    assert fingerprint(*same) == fingerprint(*first)


def test_every_part_makes_a_difference() -> None:
    requests: list[tuple[Any, ...]] = [
        ("POST", AGENT, PATH, [], {"a": 1}),
        ("PUT", AGENT, PATH, [], {"a": 1}),
        ("POST", AGENTS, PATH, [], {"a": 1}),
        ("POST", AGENT, {"agent_id": "@acme:b"}, [], {"a": 1}),
        ("POST", AGENT, {}, [], {"a": 1}),
        ("POST", AGENT, PATH, [("a", "1")], {"a": 1}),
        ("POST", AGENT, PATH, [("a", "1"), ("a", "1")], {"a": 1}),
        ("POST", AGENT, PATH, [], {"a": 2}),
        ("POST", AGENT, PATH, [], {"a": "1"}),
        ("POST", AGENT, PATH, [], {"a": True}),
        ("POST", AGENT, PATH, [], {"a": [1]}),
        ("POST", AGENT, PATH, [], {"a": None}),
        ("POST", AGENT, PATH, [], {}),
        ("POST", AGENT, PATH, [], []),
        ("POST", AGENT, PATH, [], None),
        ("POST", AGENT, PATH, [], {"b": [1, 2]}),
        ("POST", AGENT, PATH, [], {"b": [2, 1]}),
        ("POST", AGENT, PATH, [], {"b": "é"}),
        ("POST", AGENT, PATH, [], {"b": "e\u0301"}),
    ]
    assert len({fingerprint(*parts) for parts in requests}) == len(requests)
