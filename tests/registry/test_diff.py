"""The behavioral diff, as tables and as properties."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.registry.diff import behavioral_diff
from app.registry.manifest import validate
from tests.registry.manifests import build_capability, build_manifest

Document = dict[str, Any]


def capability(
    id: str = "one",
    *,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    protocols: tuple[str, ...] = ("MCP",),
    effect: str = "none",
) -> Document:
    return build_capability(
        id,
        input_schema={"type": "object", "required": list(reads)},
        output_schema={"type": "object", "required": list(writes)},
        protocols=list(protocols),
        side_effect_level=effect,
        idempotency_key_required=True,
    )


def diff(base: list[Document], target: list[Document]) -> Document:
    return behavioral_diff(build_manifest(capabilities=base), build_manifest(capabilities=target))


def entry(type: str, **members: Any) -> Document:
    return {"capability_id": "one", "type": type, **members}


BREAKING = [
    (
        "input required added",
        capability(reads=("a",)),
        capability(reads=("c", "a", "b")),
        entry("input_required_added", fields=["b", "c"]),
    ),
    (
        "output required removed",
        capability(writes=("b", "a")),
        capability(),
        entry("output_required_removed", fields=["a", "b"]),
    ),
    (
        "protocols removed",
        capability(protocols=("MCP", "HTTP", "A2A")),
        capability(protocols=("MCP",)),
        entry("protocols_removed", protocols=["A2A", "HTTP"]),
    ),
    (
        "side effect none to low",
        capability(),
        capability(effect="low"),
        entry("side_effect_escalated", **{"from": "none", "to": "low"}),
    ),
    (
        "side effect none to high",
        capability(),
        capability(effect="high"),
        entry("side_effect_escalated", **{"from": "none", "to": "high"}),
    ),
    (
        "side effect low to high",
        capability(effect="low"),
        capability(effect="high"),
        entry("side_effect_escalated", **{"from": "low", "to": "high"}),
    ),
    (
        "output schema moved out of sight",
        capability(writes=("a",)),
        capability() | {"output_schema": {"$ref_uri": "https://example.com/out.json"}},
        entry("output_required_removed", fields=["a"]),
    ),
]

NON_BREAKING = [
    (
        "input required removed",
        capability(reads=("b", "a")),
        capability(),
        entry("input_required_removed", fields=["a", "b"]),
    ),
    (
        "output required added",
        capability(),
        capability(writes=("b", "a")),
        entry("output_required_added", fields=["a", "b"]),
    ),
    (
        "protocols added",
        capability(),
        capability(protocols=("MCP", "INTERNAL", "A2A")),
        entry("protocols_added", protocols=["A2A", "INTERNAL"]),
    ),
]


@pytest.mark.parametrize(
    ("base", "target", "expected"), [row[1:] for row in BREAKING], ids=[row[0] for row in BREAKING]
)
def test_one_breaking_change(base: Document, target: Document, expected: Document) -> None:
    assert diff([base], [target]) == {
        "compatibility": "breaking",
        "risk_level": "low",
        "regression_risk_score": 2,
        "capability_delta": {"added": [], "removed": [], "modified": ["one"]},
        "breaking_changes": [expected],
        "non_breaking_changes": [],
    }


@pytest.mark.parametrize(
    ("base", "target", "expected"),
    [row[1:] for row in NON_BREAKING],
    ids=[row[0] for row in NON_BREAKING],
)
def test_one_non_breaking_change(base: Document, target: Document, expected: Document) -> None:
    assert diff([base], [target]) == {
        "compatibility": "backward_compatible",
        "risk_level": "low",
        "regression_risk_score": 1,
        "capability_delta": {"added": [], "removed": [], "modified": ["one"]},
        "breaking_changes": [],
        "non_breaking_changes": [expected],
    }


@pytest.mark.parametrize(
    ("before", "after"), [("low", "none"), ("high", "low"), ("high", "none"), ("low", "low")]
)
def test_a_side_effect_that_does_not_grow_is_no_change(before: str, after: str) -> None:
    document = diff([capability(effect=before)], [capability(effect=after)])
    assert document["regression_risk_score"] == 0
    assert document["capability_delta"]["modified"] == []


def test_what_the_diff_does_not_look_at_is_no_change() -> None:
    changed = capability() | {"name": "Another name", "cost": {}, "permissions": ["other"]}
    assert diff([capability()], [changed])["capability_delta"]["modified"] == []


def test_everything_at_once_in_the_promised_order() -> None:
    base = [
        capability("z-removed"),
        capability("b", reads=("old",), writes=("old",), protocols=("MCP",)),
        capability("a", protocols=("MCP", "HTTP")),
        capability("a-removed"),
    ]
    target = [
        capability("z-added"),
        capability("a", protocols=("HTTP", "A2A")),
        capability("b", reads=("new",), writes=("new",), protocols=("A2A",), effect="high"),
        capability("a-added"),
    ]
    assert diff(base, target) == {
        "compatibility": "breaking",
        "risk_level": "high",
        "regression_risk_score": 17,
        "capability_delta": {
            "added": ["a-added", "z-added"],
            "removed": ["a-removed", "z-removed"],
            "modified": ["a", "b"],
        },
        "breaking_changes": [
            {"capability_id": "a", "type": "protocols_removed", "protocols": ["MCP"]},
            {"capability_id": "b", "type": "input_required_added", "fields": ["new"]},
            {"capability_id": "b", "type": "output_required_removed", "fields": ["old"]},
            {"capability_id": "b", "type": "protocols_removed", "protocols": ["MCP"]},
            {"capability_id": "b", "type": "side_effect_escalated", "from": "none", "to": "high"},
            {"type": "capabilities_removed", "capability_ids": ["a-removed", "z-removed"]},
        ],
        "non_breaking_changes": [
            {"capability_id": "a", "type": "protocols_added", "protocols": ["A2A"]},
            {"capability_id": "b", "type": "input_required_removed", "fields": ["old"]},
            {"capability_id": "b", "type": "output_required_added", "fields": ["new"]},
            {"capability_id": "b", "type": "protocols_added", "protocols": ["A2A"]},
            {"type": "capabilities_added", "capability_ids": ["a-added", "z-added"]},
        ],
    }


@pytest.mark.parametrize(
    ("breaking", "non_breaking", "score", "level"),
    [
        (0, 0, 0, "low"),
        (1, 0, 2, "low"),
        (0, 3, 3, "medium"),
        (1, 1, 3, "medium"),
        (2, 1, 5, "medium"),
        (3, 0, 6, "high"),
        (2, 3, 7, "high"),
    ],
)
def test_score_and_risk_level(breaking: int, non_breaking: int, score: int, level: str) -> None:
    names = [f"c{number}" for number in range(breaking + non_breaking)]
    base = [capability(name) for name in names]
    target = [
        capability(name, reads=("new",)) if number < breaking else capability(name, writes=("new",))
        for number, name in enumerate(names)
    ]
    document = diff(base or [capability()], target or [capability()])
    assert (document["regression_risk_score"], document["risk_level"]) == (score, level)


names = st.sampled_from(["a", "b", "c", "d"])
some_names = st.lists(names, unique=True).map(tuple)
capabilities = st.builds(
    capability,
    names,
    reads=some_names,
    writes=some_names,
    protocols=st.lists(st.sampled_from(["MCP", "A2A", "HTTP"]), min_size=1, unique=True).map(tuple),
    effect=st.sampled_from(["none", "low", "high"]),
)
capability_lists = st.lists(capabilities, min_size=1, max_size=4, unique_by=lambda one: one["id"])


@given(capability_lists)
def test_a_manifest_does_not_differ_from_itself(base: list[Document]) -> None:
    assert validate(build_manifest(capabilities=base)) == []
    shuffled = copy.deepcopy(base[::-1])
    for one in shuffled:
        one["protocols"].reverse()
        one["input_schema"]["required"].reverse()
    document = diff(base, shuffled)
    assert document == diff([capability()], [capability()])
    assert document["regression_risk_score"] == 0


@given(capability_lists, capability_lists)
def test_swapping_the_manifests_swaps_added_and_removed(
    base: list[Document], target: list[Document]
) -> None:
    def names_by_change(document: Document) -> set[tuple[str, str, str]]:
        return {
            (change.get("capability_id", ""), change["type"], name)
            for change in document["breaking_changes"] + document["non_breaking_changes"]
            for member in ("fields", "protocols", "capability_ids")
            for name in change.get(member, ())
        }

    swap = {"added": "removed", "removed": "added"}
    forward, backward = diff(base, target), diff(target, base)
    assert names_by_change(backward) == {
        (capability_id, f"{kind.rpartition('_')[0]}_{swap[kind.rpartition('_')[2]]}", name)
        for capability_id, kind, name in names_by_change(forward)
    }
    assert forward["capability_delta"]["added"] == backward["capability_delta"]["removed"]


@given(capability_lists, capability_lists)
def test_the_summary_agrees_with_the_entries(base: list[Document], target: list[Document]) -> None:
    document = diff(base, target)
    breaking, non_breaking = document["breaking_changes"], document["non_breaking_changes"]
    assert document["regression_risk_score"] == 2 * len(breaking) + len(non_breaking)
    assert (document["compatibility"] == "breaking") == bool(breaking)
    concerned = {change.get("capability_id") for change in breaking + non_breaking} - {None}
    assert document["capability_delta"]["modified"] == sorted(concerned)
