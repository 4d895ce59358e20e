"""The manifest validator: every fact of format 0.1, from both sides of each boundary."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.json_values import walk
from app.registry import manifest as manifest_module
from app.registry.manifest import (
    MAX_CAPABILITIES,
    MAX_REPORTED,
    validate,
)
from app.registry.manifest_format import complete, request_schema, schema
from tests.registry.manifests import (
    build_capability,
    build_full_manifest,
    build_interface,
    build_manifest,
)

Document = dict[str, Any]
ABSENT = object()
CAPABILITY = "/capabilities/0"
INTERFACE = "/interfaces/0"
TRUST = "/trust"
INPUT = "/capabilities/0/input_schema"
MANY = [f"p{number}" for number in range(200)]
INT_MAX = 2147483647


def found(manifest: object) -> list[tuple[str, str]]:
    return [(violation.pointer, violation.code) for violation in validate(manifest)]


def edited(pointer: str, value: object) -> Document:
    """Return a full valid manifest with the value at the pointer replaced, added or removed."""
    manifest = build_full_manifest()
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    node: Any = manifest
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    key = int(last) if isinstance(node, list) else last
    if value is ABSENT:
        del node[key]
    else:
        node[key] = value
    return manifest


def object_pointers(node: object, pointer: str = "") -> Iterator[str]:
    """Yield the pointers of all objects of a manifest that its format closes."""
    if isinstance(node, dict):
        yield pointer
        for name, member in node.items():
            if name not in ("input_schema", "output_schema"):
                yield from object_pointers(member, f"{pointer}/{name}")
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from object_pointers(item, f"{pointer}/{index}")


def repeated(count: int, item: object) -> list[object]:
    return [copy.deepcopy(item) for _ in range(count)]


STEP = {"id": "s", "capability_ref": "c", "on_failure": "abort"}
SLUG_BAD = ["", "A", "a b", "-a", "a-", "a--b", "a._b", "ä", "a\n", "a/b", "@a"]
SEMVER_BAD = ["", "1", "1.0", "01.0.0", "1.0.0-01", "1.0.0-", "v1.0.0", "1.0.0\n", "1.\u0660.0"]
PERMISSION_BAD = ["", "A", "1a", "_a", "a b", "a\n", "ä", "a/b"]

# Each row: where, values that are accepted there, and values refused there with one code.
FACTS: list[tuple[str, list[object], list[object], str]] = [
    ("/schema_version", ["0.1"], ["0.2", "0.1\n", 0.1, None], "const"),
    # identity
    ("/identity/id", ["a", "0", "a.b_c-d", "a" * 128], SLUG_BAD, "pattern"),
    ("/identity/id", [], ["a" * 129], "max_length"),
    ("/identity/id", [], [1, None, []], "type"),
    ("/identity/name", ["abc", "ä" * 200], ["", "ab"], "min_length"),
    ("/identity/name", [], ["a" * 201], "max_length"),
    ("/identity/version", ["0.0.0", "1.2.3-rc.1+b.01", "1.0.0--"], SEMVER_BAD, "pattern"),
    ("/identity/version", ["1.0." + "9" * 124], ["1.0." + "9" * 125], "max_length"),
    ("/identity/description", ["a" * 12, "a" * 4000], ["a" * 11], "min_length"),
    ("/identity/description", [], ["a" * 4001], "max_length"),
    ("/identity/owner", ["ab", "a" * 200], ["a"], "min_length"),
    ("/identity/owner", [], ["a" * 201], "max_length"),
    (
        "/identity/type",
        ["tool", "service", "orchestrator", "pipeline", "assistant"],
        ["Tool", "tool\n", "", None, 1],
        "enum",
    ),
    ("/identity/tags", [ABSENT, [], ["ab"], ["ab", "Ab"]], [["ab", "ab"]], "unique_items"),
    ("/identity/tags", [[f"t{i}" for i in range(50)]], [[f"t{i}" for i in range(51)]], "max_items"),
    ("/identity/tags/0", ["ab", "a" * 128], ["a", ""], "min_length"),
    ("/identity/tags/0", [], ["a" * 129], "max_length"),
    # capabilities
    ("/capabilities", [], [[]], "min_items"),
    ("/capabilities", [], [{}, "x", None], "type"),
    (f"{CAPABILITY}/id", ["a", "read.invoice"], SLUG_BAD, "pattern"),
    (f"{CAPABILITY}/id", ["a" * 128], ["a" * 129], "max_length"),
    (f"{CAPABILITY}/name", ["abc", "a" * 200], ["ab"], "min_length"),
    (f"{CAPABILITY}/name", [], ["a" * 201], "max_length"),
    (
        f"{CAPABILITY}/category",
        [
            "reasoning",
            "retrieval",
            "transformation",
            "communication",
            "orchestration",
            "action",
        ],
        ["other", None],
        "enum",
    ),
    (f"{CAPABILITY}/description", ["a" * 12, "a" * 4000], ["a" * 11], "min_length"),
    (f"{CAPABILITY}/description", [], ["a" * 4001], "max_length"),
    (f"{CAPABILITY}/protocols", [["MCP"], ["MCP", "A2A", "HTTP", "INTERNAL"]], [[]], "min_items"),
    (f"{CAPABILITY}/protocols", [], [["MCP", "HTTP", "MCP"]], "unique_items"),
    (f"{CAPABILITY}/protocols/0", ["INTERNAL"], ["CLI", "mcp", None], "enum"),
    (f"{CAPABILITY}/idempotency_key_required", [True, False], ["yes", 1, 0, None], "type"),
    (f"{CAPABILITY}/side_effect_level", ["none"], ["medium", "None", None], "enum"),
    (f"{CAPABILITY}/permissions", [ABSENT, [], MANY], [[*MANY, "b"]], "max_items"),
    (f"{CAPABILITY}/permissions", [], [["a", "b", "a"]], "unique_items"),
    ("/requirements/permissions", [MANY], [["a", "a"]], "unique_items"),
    (f"{INTERFACE}/permissions", [MANY], [["a", "a"]], "unique_items"),
    (f"{CAPABILITY}/permissions/0", ["a", "a:b.c-d_9", "a" * 128], PERMISSION_BAD, "pattern"),
    (f"{CAPABILITY}/permissions/0", [], ["a" * 129], "max_length"),
    (f"{CAPABILITY}/idempotent", [ABSENT, True, False], ["no", 0], "type"),
    (f"{CAPABILITY}/cost", [ABSENT, {}], [5, [], None], "type"),
    (f"{CAPABILITY}/cost/mode", [ABSENT, "fixed", "token", "usage"], ["free"], "enum"),
    (f"{CAPABILITY}/cost/estimated_cost", [0, 0.0, 1e9, 10**9], [-0.000001, -1], "minimum"),
    (f"{CAPABILITY}/cost/estimated_cost", [], [1e9 + 1, 1e308, 10**15], "maximum"),
    (f"{CAPABILITY}/cost/estimated_cost", [], ["1", True, None], "type"),
    (f"{CAPABILITY}/cost/unit", ["x", "a" * 128], [""], "min_length"),
    (f"{CAPABILITY}/cost/unit", [], ["a" * 129], "max_length"),
    # schemas of capabilities
    (
        INPUT,
        [
            {"type": "object"},
            {"type": ["object", "null"], "x-note": 1},
            {"type": "string", "required": ["token"], "properties": {"token": {"type": "string"}}},
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
            {"$schema": "https://json-schema.org/draft/2019-09/schema#", "type": "object"},
            {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "items": [{}]},
            {"$schema": "http://json-schema.org/draft-06/schema", "type": "object"},
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "type": "number",
                "maximum": 1,
                "exclusiveMaximum": True,
            },
            {"type": "object", "$ref": "https://example.com/never-fetched"},
            {"$ref_uri": "https://example.com/schemas/in.json"},
            {"$ref_uri": "urn:example:" + "a" * 2036},
        ],
        ["object", True, [], None],
        "type",
    ),
    (f"{INPUT}/type", [], [ABSENT], "required"),
    (f"{INPUT}/type", [], [5, "text", [], ["string", "string"]], "invalid_json_schema"),
    (f"{INPUT}/required", [["x"]], ["x", ["x", "x"]], "invalid_json_schema"),
    (f"{INPUT}/properties/locale", [True, False, {}], [5, "string"], "invalid_json_schema"),
    (f"{INPUT}/properties/locale/minLength", [0], [-1, "x", 0.5], "invalid_json_schema"),
    (
        f"{INPUT}/$schema",
        [],
        [
            "https://example.com/schema",
            "http://json-schema.org/draft-03/schema#",
            "file:///etc/passwd",
            "urn:agenthub:manifest:0.1",
            "",
            5,
            None,
        ],
        "invalid_json_schema",
    ),
    # interfaces
    ("/interfaces", [repeated(50, build_interface())], [[]], "min_items"),
    ("/interfaces", [], [repeated(51, build_interface())], "max_items"),
    (f"{INTERFACE}/name", ["a", "a" * 200], [""], "min_length"),
    (f"{INTERFACE}/name", [], ["a" * 201], "max_length"),
    (f"{INTERFACE}/protocol", ["MCP", "A2A", "HTTP", "CLI"], ["GRPC", None], "enum"),
    (f"{INTERFACE}/protocol", [], [ABSENT], "required"),
    (
        f"{INTERFACE}/auth",
        ["none", "api_key", "oauth2", "mTLS", "signed_jwt"],
        ["mtls", "basic"],
        "enum",
    ),
    (f"{INTERFACE}/privileged", [True, False], ["true", 1, None], "type"),
    (f"{INTERFACE}/endpoint", ["https://a.example/" + "a" * 2030], [""], "min_length"),
    (f"{INTERFACE}/endpoint", [], ["https://a.example/" + "a" * 2031], "max_length"),
    (
        f"{INTERFACE}/endpoint",
        [
            "http://127.0.0.1:8080",
            "HTTPS://agents.example",
            "https://[2001:db8::1]:443/a?b=c#d",
            "https://a.example?x=user@example.com",
        ],
        [
            "invoice --json",
            "agents.example.com/mcp",
            "/mcp",
            "//agents.example.com/mcp",
            "https://",
            "https:///mcp",
            "https://:443/",
            "ftp://agents.example.com/",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "https://a b.example/",
            "https://a.example/b c",
            "https://user:hunter2@agents.example.com/",
        ],
        "pattern",
    ),
    (f"{INTERFACE}/endpoint", [], [ABSENT], "required"),
    (f"{INTERFACE}/permissions", [["a"]], [ABSENT], "required"),
    (f"{INTERFACE}/permissions", [], [[]], "min_items"),
    (f"{INTERFACE}/permissions/0", ["a"], PERMISSION_BAD, "pattern"),
    (f"{INTERFACE}/rate_limit", [ABSENT, {}], [120], "type"),
    (f"{INTERFACE}/rate_limit/requests_per_minute", [1, 1.0, INT_MAX], [0, -1], "minimum"),
    (f"{INTERFACE}/rate_limit/requests_per_minute", [], [INT_MAX + 1, 10**40], "maximum"),
    (f"{INTERFACE}/rate_limit/requests_per_minute", [], [1.5, "1", True], "type"),
    (f"{INTERFACE}/schema_ref", [ABSENT, "schemas/a.json"], [""], "min_length"),
    (f"{INTERFACE}/schema_ref", ["a" * 2048], ["a" * 2049], "max_length"),
    # trust
    (f"{TRUST}/minimum_trust_score", [0, 1, 0.5, 1.0], [-0.01, -1, -(10**15)], "minimum"),
    (f"{TRUST}/minimum_trust_score", [], [1.01, 2, 1e308, 10**15], "maximum"),
    (f"{TRUST}/minimum_trust_score", [], ["0.5", True, None], "type"),
    (
        f"{TRUST}/allowed_trust_sources",
        [["first_party", "partner", "marketplace", "verified_third_party"]],
        [[]],
        "min_items",
    ),
    (f"{TRUST}/allowed_trust_sources", [], [["partner"] * 2], "unique_items"),
    (f"{TRUST}/allowed_trust_sources/0", ["marketplace"], ["imported", "any"], "enum"),
    (
        f"{TRUST}/policy/injection_protection",
        ["strict", "moderate", "off"],
        ["on", False],
        "enum",
    ),
    (
        f"{TRUST}/policy/pii_handling",
        ["deny", "mask", "allow_with_approval"],
        ["allow"],
        "enum",
    ),
    (f"{TRUST}/policy/data_retention_days", [0, INT_MAX], [-1], "minimum"),
    (f"{TRUST}/policy/data_retention_days", [], [INT_MAX + 1], "maximum"),
    (f"{TRUST}/policy/data_retention_days", [], [0.5, "0"], "type"),
    (f"{TRUST}/policy/high_risk_approval_required", [True, False], [1, "no"], "type"),
    (f"{TRUST}/policy/human_approval_actions", [ABSENT, []], ["pay"], "type"),
    (f"{TRUST}/policy/human_approval_actions", [["a"] * 200], [["a"] * 201], "max_items"),
    (f"{TRUST}/policy/human_approval_actions/0", ["a"], [""], "min_length"),
    (f"{TRUST}/budget_guardrails/soft_alert_pct", [80, 80.0], [79, 81, "80"], "const"),
    (f"{TRUST}/budget_guardrails/reauthorization_pct", [100], [99, 101], "const"),
    (f"{TRUST}/budget_guardrails/hard_stop_pct", [120], [119, 121], "const"),
    (f"{TRUST}/credential_policy/short_lived_credentials", [True], [False, 1], "const"),
    (f"{TRUST}/credential_policy/max_ttl_minutes", [1, 1440], [0, -1], "minimum"),
    (f"{TRUST}/credential_policy/max_ttl_minutes", [], [1441], "maximum"),
    (f"{TRUST}/credential_policy/max_ttl_minutes", [], [1.5], "type"),
    # runtime
    (
        "/runtime/execution_mode",
        ["deterministic_workflow", "autonomous_loop"],
        ["loop"],
        "enum",
    ),
    ("/runtime/sandbox", ["container", "vm", "firecracker"], ["none"], "enum"),
    ("/runtime/max_retries", [0, INT_MAX], [-1], "minimum"),
    ("/runtime/max_retries", [], [INT_MAX + 1, 2**63, 10**15], "maximum"),
    ("/runtime/timeout_seconds", [1, INT_MAX], [0], "minimum"),
    ("/runtime/timeout_seconds", [], [INT_MAX + 1], "maximum"),
    ("/runtime/timeout_seconds", [], [1.5, "30", None], "type"),
    ("/runtime/idempotency_required", [True], [False, 1], "const"),
    ("/runtime/replay_safe", [True], [False, 1], "const"),
    ("/runtime/observability/log_privileged_actions", [True], [False], "const"),
    ("/runtime/observability/emit_cost_metrics", [True], [False], "const"),
    ("/runtime/observability/emit_latency_metrics", [True], [False], "const"),
    # requirements
    ("/requirements", [ABSENT, {}], [[], None], "type"),
    ("/requirements/dependencies", [ABSENT, []], [{}], "type"),
    ("/requirements/dependencies/0/name", ["a"], [""], "min_length"),
    ("/requirements/dependencies/0/version_constraint", ["*"], [""], "min_length"),
    ("/requirements/dependencies/0/optional", [ABSENT, False], ["no"], "type"),
    ("/requirements/permissions", [ABSENT, []], ["a"], "type"),
    ("/requirements/permissions/0", ["a"], PERMISSION_BAD, "pattern"),
    ("/requirements/secrets", [ABSENT, []], [{}], "type"),
    ("/requirements/secrets/0/id", ["a", "a" * 128], ["a" * 129], "max_length"),
    (
        "/requirements/secrets/0/secret_ref",
        ["env://A", "vault://a/b", "kms://a"],
        ["", "env://", "http://a", "xenv://a", "ENV://A", "env://a\n", "sk-12345"],
        "pattern",
    ),
    ("/requirements/secrets/0/secret_ref", [], ["env://" + "a" * 2043], "max_length"),
    ("/requirements/budget", [ABSENT, {}], [5], "type"),
    ("/requirements/budget/currency", [ABSENT, "EUR"], ["", "US", "U$D", "123"], "pattern"),
    ("/requirements/budget/per_task_limit", [ABSENT, 0, 1e9], [-1], "minimum"),
    ("/requirements/budget/monthly_limit", [ABSENT, 0, 1e9], [1e9 + 1, 1e308], "maximum"),
    # composition
    ("/composition", [ABSENT, {"type": "single", "deterministic": False}], [[]], "type"),
    ("/composition/type", ["single", "pipeline", "graph"], ["loop"], "enum"),
    ("/composition/deterministic", [True, False], [1], "type"),
    ("/composition/steps", [[STEP] * 2, [STEP] * 200], [[], [STEP]], "min_items"),
    ("/composition/steps", [], [[STEP] * 201], "max_items"),
    ("/composition/steps", [], [ABSENT], "required"),
    ("/composition/steps/0/on_failure", ["abort", "continue", "retry"], ["stop"], "enum"),
    ("/composition/steps/0/capability_ref", ["a"], [""], "min_length"),
    # provenance
    ("/provenance", [ABSENT], ["x"], "type"),
    (
        "/provenance/created_at",
        ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+05:30"],
        ["2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00Z\n", "now", ""],
        "format",
    ),
    ("/provenance/updated_at", [ABSENT, "2026-01-01T00:00:00Z"], ["yesterday"], "format"),
    (
        "/provenance/source",
        ["first_party", "partner", "marketplace", "imported"],
        ["verified_third_party"],
        "enum",
    ),
    ("/provenance/source_repo", [ABSENT, "git@host:a/b.git"], [""], "min_length"),
    (
        "/provenance/commit",
        [ABSENT, "0123abc", "a" * 40, "ABCDEF0"],
        ["0123ab", "g123456", "0123abc\n", ""],
        "pattern",
    ),
    ("/provenance/commit", [], ["a" * 41], "max_length"),
    ("/provenance/maintainer_contact", [ABSENT, "a@example.com"], ["a", "a@", "@b"], "format"),
]

ACCEPTED = [(where, value) for where, values, _, _ in FACTS for value in values]
REFUSED = [(where, value, code) for where, _, values, code in FACTS for value in values]

# A value refused with the first code may break these rules at the same place too.
COMPANIONS = {
    "max_length": {"pattern", "format"},
    "invalid_json_schema": {"type"},
}


@pytest.mark.parametrize("build", [build_manifest, build_full_manifest])
def test_the_example_manifests_are_valid(build: Callable[[], Document]) -> None:
    assert validate(build()) == []


def test_builders_return_values_of_their_own() -> None:
    changed = build_full_manifest()
    changed["capabilities"][0]["input_schema"]["required"].append("x")
    changed["interfaces"][0]["rate_limit"].clear()
    changed["trust"]["policy"].clear()
    assert validate(build_full_manifest()) == []
    assert build_manifest("a", "2.0.0")["identity"]["version"] == "2.0.0"


@pytest.mark.parametrize(("pointer", "value"), ACCEPTED)
def test_accepted(pointer: str, value: object) -> None:
    assert found(edited(pointer, value)) == []


@pytest.mark.parametrize(("pointer", "value", "code"), REFUSED)
def test_refused(pointer: str, value: object, code: str) -> None:
    violations = found(edited(pointer, value))
    codes = {word for _, word in violations}
    assert codes - COMPANIONS.get(code, set()) == {code}
    if code == "invalid_json_schema":
        assert all(where.startswith(pointer) for where, _ in violations)
    else:
        assert {where for where, _ in violations} == {pointer}


@pytest.mark.parametrize("pointer", list(object_pointers(build_full_manifest())))
def test_every_object_is_closed(pointer: str) -> None:
    assert found(edited(f"{pointer}/x~1y~01", 1)) == [
        (f"{pointer}/x~1y~01", "additional_properties")
    ]


REQUIRED = {
    "": "identity capabilities interfaces",
    "/identity": "id name version description owner type",
    CAPABILITY: "id name category description input_schema output_schema protocols"
    " side_effect_level",
    INTERFACE: "name protocol auth",
    "/requirements/dependencies/0": "name version_constraint",
    "/requirements/secrets/0": "id secret_ref",
    "/composition": "type deterministic",
    "/composition/steps/0": "id capability_ref on_failure",
    "/provenance": "created_at source",
}
# What the format demands and fills in.
DEFAULTS: dict[str, object] = {
    "/schema_version": "0.1",
    f"{CAPABILITY}/idempotency_key_required": False,
    f"{INTERFACE}/privileged": False,
    f"{TRUST}/minimum_trust_score": 1,
    f"{TRUST}/allowed_trust_sources": ["first_party"],
    f"{TRUST}/policy/injection_protection": "strict",
    f"{TRUST}/policy/pii_handling": "deny",
    f"{TRUST}/policy/data_retention_days": 0,
    f"{TRUST}/policy/high_risk_approval_required": True,
    f"{TRUST}/budget_guardrails/soft_alert_pct": 80,
    f"{TRUST}/budget_guardrails/reauthorization_pct": 100,
    f"{TRUST}/budget_guardrails/hard_stop_pct": 120,
    f"{TRUST}/credential_policy/short_lived_credentials": True,
    f"{TRUST}/credential_policy/max_ttl_minutes": 1,
    "/runtime/execution_mode": "undeclared",
    "/runtime/sandbox": "undeclared",
    "/runtime/max_retries": 0,
    "/runtime/timeout_seconds": 3600,
    "/runtime/idempotency_required": True,
    "/runtime/replay_safe": True,
    "/runtime/observability/log_privileged_actions": True,
    "/runtime/observability/emit_cost_metrics": True,
    "/runtime/observability/emit_latency_metrics": True,
}


def at(document: Any, pointer: str) -> Any:
    """Return the value that a pointer without escapes leads to."""
    for part in pointer.split("/")[1:]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


@pytest.mark.parametrize(
    "pointer", [f"{parent}/{name}" for parent, names in REQUIRED.items() for name in names.split()]
)
def test_required_members(pointer: str) -> None:
    first, *below = found(edited(pointer, ABSENT))
    assert first == (pointer, "required")
    inner = pointer + ("/0" if pointer in ("/capabilities", "/interfaces") else "")
    expected = REQUIRED.get(inner, "").split()
    if pointer == "/interfaces":
        expected.append("endpoint")
    if pointer in ("/capabilities", f"{CAPABILITY}/input_schema", f"{CAPABILITY}/output_schema"):
        schemas = ("input_schema", "output_schema") if pointer == "/capabilities" else ("",)
        expected += [f"{name}/type".removeprefix("/") for name in schemas]
    assert sorted(below) == sorted((f"{inner}/{name}", "required") for name in expected)


@pytest.mark.parametrize(("pointer", "value"), DEFAULTS.items(), ids=DEFAULTS)
def test_members_that_are_filled_in(pointer: str, value: object) -> None:
    incomplete = edited(pointer, ABSENT)
    if pointer.startswith(INTERFACE):
        # The one that is edited is privileged and names its permissions.
        assert incomplete["interfaces"][0]["permissions"]
    before = copy.deepcopy(incomplete)
    assert found(incomplete) == []
    assert at(complete(incomplete), pointer) == value
    assert incomplete == before


@pytest.mark.parametrize("name", ["trust", "runtime"])
def test_whole_sections_are_filled_in(name: str) -> None:
    section = at(complete(edited(f"/{name}", ABSENT)), f"/{name}")
    for pointer, value in DEFAULTS.items():
        if pointer.startswith(f"/{name}/"):
            assert at(section, pointer.removeprefix(f"/{name}")) == value
    assert complete(edited(f"/{name}", {})) == complete(edited(f"/{name}", ABSENT))


def test_every_default_is_one_of_the_format() -> None:
    """What is filled in is valid, and nothing that has a default is missing above."""
    closed = [rule for _, _, rule in walk(schema(), 50) if isinstance(rule, dict)]
    names = {
        name
        for rule in closed
        for name, inner in (rule.get("properties") or {}).items()
        if isinstance(inner, dict) and ("default" in inner or "const" in inner)
    }
    assert names - {"permissions", "optional", "protocol"} == {
        pointer.rpartition("/")[2] for pointer in DEFAULTS
    }


def test_a_manifest_that_is_given_in_full_stays_itself() -> None:
    for build in (build_manifest, build_full_manifest):
        manifest = build()
        assert complete(manifest) is manifest


def test_what_is_not_given_in_full_gets_its_empty_permissions_too() -> None:
    manifest = build_manifest(capabilities=[build_capability()])
    del manifest["capabilities"][0]["permissions"], manifest["runtime"]
    whole = cast("Document", complete(manifest))
    assert at(whole, f"{CAPABILITY}/permissions") == []
    assert at(whole, f"{INTERFACE}/permissions") == []
    assert found(whole) == []


@pytest.mark.parametrize(("level", "demanded"), [("none", False), ("low", True), ("high", True)])
def test_whether_a_key_is_demanded_follows_from_the_side_effect(level: str, demanded: bool) -> None:
    capability = build_capability(side_effect_level=level)
    del capability["idempotency_key_required"]
    whole = complete(build_manifest(capabilities=[capability]))
    assert at(whole, f"{CAPABILITY}/idempotency_key_required") is demanded
    assert found(whole) == []


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["identity", "capabilities", "trust", "policy", "x-a"]), inner
            )
        ),
    )
)
def test_whatever_is_completed_stays_what_it_was_and_is_completed_once(value: object) -> None:
    before = json.dumps(value)
    whole = complete(value)
    assert json.dumps(value) == before
    assert complete(whole) == whole


@pytest.mark.parametrize("pointer", list(object_pointers(build_full_manifest())))
def test_vendor_members_are_kept_in_every_object(pointer: str) -> None:
    manifest = edited(f"{pointer}/x-acme", {"team": ["mail", None, {"deep": 1}]})
    assert found(manifest) == []
    assert at(complete(manifest), f"{pointer}/x-acme") == {"team": ["mail", None, {"deep": 1}]}


def test_vendor_members_hold_no_secret_and_no_hidden_text() -> None:
    for value, code in (({"password": "hunter2"}, "inline_secret"), ("a\u202eb", "bidi")):
        (violation,) = found(build_manifest() | {"x-acme": value})
        assert violation[0].startswith("/x-acme")
        assert violation[1] == code or code == "bidi"


IN_WORDS = {
    "/identity/version": ("1", "Must be a SemVer 2.0 version such as 1.0.0."),
    "/identity/type": ("bot", 'Must be one of "tool", "service", "orchestrator", "pipeline", '),
    "/capabilities/0/permissions/0": ("A B", "Must be a lower-case letter, then lower-case "),
    "/interfaces/0/endpoint": ("nowhere", "Must be an absolute http or https URL without a "),
    "/capabilities/0/input_schema": ({"$ref_uri": "a b"}, "Must be a URI (RFC 3986) such as "),
    "/requirements/secrets/0/secret_ref": ("s", "Must be a place that keeps the secret: env://"),
    "/provenance/created_at": ("today", "Must be a date and time with an offset from UTC "),
    "/provenance/commit": ("zz", "Must be the 7 to 40 hexadecimal digits of the commit "),
    "/provenance/maintainer_contact": ("me", "Must be an e-mail address such as "),
    "/requirements/budget/currency": ("us", "Must be a three-letter currency code, such as USD."),
}


@pytest.mark.parametrize(("pointer", "case"), IN_WORDS.items(), ids=IN_WORDS)
def test_details_say_in_words_what_is_expected(pointer: str, case: tuple[object, str]) -> None:
    value, sentence = case
    (violation,) = validate(edited(pointer, value))
    assert violation.detail.startswith(sentence)
    assert violation.detail.endswith(".")


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        (
            {"composition": {"type": "graph", "deterministic": True}},
            "/composition/steps",
            "This member is required: a list of at least 2 steps.",
        ),
        (
            {"composition": {"type": "graph", "deterministic": True, "steps": []}},
            "/composition/steps",
            "Must be a list of at least 2 steps.",
        ),
        (
            {"interfaces": [build_interface(privileged=True, permissions=[])]},
            f"{INTERFACE}/permissions",
            "Must be a list of at least 1 permission, since the interface is privileged.",
        ),
        (
            {"capabilities": [build_capability(input_schema={})]},
            f"{INPUT}/type",
            'This member is required: a type of JSON Schema, such as "object", unless the schema'
            " is a $ref_uri alone.",
        ),
        (
            {"capabilities": [build_capability(input_schema={"type": "objekt"})]},
            f"{INPUT}/type",
            "Must be a type of JSON Schema: array, boolean, integer, null, number, object, string,"
            " or a list of these.",
        ),
        (
            {"capabilities": [build_capability(input_schema={"type": "object", "required": 5})]},
            f"{INPUT}/required",
            'Must be of type "array", as JSON Schema demands of this keyword.',
        ),
    ],
)
def test_conditions_say_what_they_demand_and_why(
    changes: Document, pointer: str, detail: str
) -> None:
    (violation,) = validate(build_manifest(**changes))
    assert (violation.pointer, violation.detail) == (pointer, detail)


def test_missing_members_are_told_with_what_is_expected_of_them() -> None:
    """One round tells everything: nobody has to send identity to learn what belongs there."""
    details = {violation.pointer: violation.detail for violation in validate({})}
    said = "This member is required: "
    assert details["/identity"] == f"{said}an object."
    assert details["/identity/version"] == f"{said}a SemVer 2.0 version such as 1.0.0."
    assert details["/identity/name"] == f"{said}text of 3 to 200 characters."
    assert details["/capabilities"] == f"{said}a list of 1 to 200 items."
    assert details["/capabilities/0/side_effect_level"] == f'{said}one of "none", "low", "high".'
    assert details["/interfaces/0/endpoint"].startswith(f"{said}an absolute http or https URL")
    assert len(details) == 23


@pytest.mark.parametrize("level", ["low", "high"])
def test_a_side_effect_forces_an_idempotency_key(level: str) -> None:
    capability = build_capability(side_effect_level=level)
    assert found(build_manifest(capabilities=[capability])) == [
        (f"{CAPABILITY}/idempotency_key_required", "const")
    ]
    capability["idempotency_key_required"] = True
    assert found(build_manifest(capabilities=[capability])) == []


def test_an_internal_interface_has_no_endpoint() -> None:
    internal = build_interface(protocol="INTERNAL")
    assert found(build_manifest(interfaces=[internal])) == [
        (f"{INTERFACE}/endpoint", "false_schema")
    ]
    del internal["endpoint"]
    assert found(build_manifest(interfaces=[internal])) == []


def test_only_a_privileged_interface_needs_permissions() -> None:
    assert found(build_manifest(interfaces=[build_interface(permissions=[])])) == []
    privileged = build_interface(privileged=True)
    assert found(build_manifest(interfaces=[privileged])) == [
        (f"{INTERFACE}/permissions", "required")
    ]


@pytest.mark.parametrize("steps", [{}, {"steps": []}, {"steps": [STEP]}])
def test_a_single_composition_needs_no_steps(steps: Document) -> None:
    composition = {"type": "single", "deterministic": True, **steps}
    assert found(build_manifest(composition=composition)) == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"$ref_uri": "not a uri"}, [(f"{INPUT}/$ref_uri", "format")]),
        ({"$ref_uri": "relative/path"}, [(f"{INPUT}/$ref_uri", "format")]),
        ({"$ref_uri": 5}, [(f"{INPUT}/$ref_uri", "type")]),
        ({"$ref_uri": "urn:x:" + "a" * 2043}, [(f"{INPUT}/$ref_uri", "max_length")]),
        (
            {"$ref_uri": "urn:x:y", "type": "object"},
            [(f"{INPUT}/type", "additional_properties")],
        ),
    ],
)
def test_a_schema_reference_stands_alone(
    reference: Document, expected: list[tuple[str, str]]
) -> None:
    assert found(edited(INPUT, reference)) == expected


def test_faults_of_inline_schemas_are_all_named_where_they_are() -> None:
    capability = build_capability(
        input_schema={
            "type": "object",
            "properties": {"007": {"minimum": "x"}, "": {"type": 5}, "a/b~c": 5},
            "required": "all",
        },
        output_schema={"type": "objekt"},
    )
    assert sorted(found(build_manifest(capabilities=[capability]))) == [
        (f"{INPUT}/properties//type", "invalid_json_schema"),
        (f"{INPUT}/properties/007/minimum", "invalid_json_schema"),
        (f"{INPUT}/properties/a~1b~0c", "invalid_json_schema"),
        (f"{INPUT}/required", "invalid_json_schema"),
        (f"{CAPABILITY}/output_schema/type", "invalid_json_schema"),
    ]


def test_the_network_is_never_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        remote = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        for member in ("$schema", "$ref", "$id", "$dynamicRef"):
            validate(edited(f"{INPUT}/{member}", remote))
        validate(edited(INPUT, {"$ref_uri": remote}))
        with pytest.raises(TimeoutError):
            server.accept()


def test_capability_ids_are_unique() -> None:
    ids = ["a", "b", "a", "a"]
    assert found(build_manifest(capabilities=[build_capability(one) for one in ids])) == [
        ("/capabilities/2/id", "duplicate_capability_id"),
        ("/capabilities/3/id", "duplicate_capability_id"),
    ]


def test_the_number_of_capabilities_is_bounded() -> None:
    capabilities = [build_capability(f"c{i}") for i in range(MAX_CAPABILITIES)]
    assert MAX_CAPABILITIES == 200
    assert found(build_manifest(capabilities=capabilities)) == []
    capabilities.append(build_capability("one-more"))
    assert found(build_manifest(capabilities=capabilities)) == [("/capabilities", "max_items")]


SECRET_NAMES = [
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "api_key",
    "apiKey",
    "API_KEY",
    "apikey",
    "APIKey",
    "api-key",
    "aPiKeY",
    "private_key",
    "privateKey",
    "access_key",
    "accessKeyId",
    "client-secret",
    "clientSecret",
    "authToken",
    "AUTH_TOKEN",
    "authtoken",
    "TOKENValue",
    "db_password2",
    "secretKey",
    "secretkey",
    "x.token",
    "tokenRef",
]
HARMLESS_NAMES = [
    "tokenizer",
    "secretary",
    "keyboard",
    "api",
    "key",
    "secret_ref",
    "token_ref",
    "API_KEY_ref",
    "broken",
    "foreign_key",
    "monkey",
    "public_key",
    "description",
    "idempotency_key_required",
]


@pytest.mark.parametrize("value", ["x", "", 5, 0.5, True, None, ["x"], [1, "x"]], ids=repr)
@pytest.mark.parametrize("name", SECRET_NAMES)
def test_inline_secrets_are_refused(name: str, value: object) -> None:
    default = {"deep": [{"deeper": {name: value}}]}
    where = f"{INPUT}/default"
    assert found(edited(where, default)) == [(f"{where}/deep/0/deeper/{name}", "inline_secret")]


@pytest.mark.parametrize("value", [{}, {"type": "string"}, [], [1], [{"id": "a"}]], ids=repr)
@pytest.mark.parametrize("name", SECRET_NAMES)
def test_descriptions_of_secrets_are_fine(name: str, value: object) -> None:
    assert found(edited(f"{INPUT}/default", {name: value})) == []


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_other_names_may_hold_anything(name: str) -> None:
    assert found(edited(f"{INPUT}/default", {name: "x"})) == []


@pytest.mark.parametrize("name", ["max_tokens", "maxTokens", "tokens", "secrets", "api_keys"])
def test_plurals_may_count_but_not_hold_text(name: str) -> None:
    assert found(edited(f"{INPUT}/default", {name: 4096})) == []
    for value in ("x", ["x"]):
        assert found(edited(f"{INPUT}/default", {name: value})) == [
            (f"{INPUT}/default/{name}", "inline_secret")
        ]


def test_a_secret_among_unknown_members_is_reported_for_both_reasons() -> None:
    assert found(edited("/runtime/password", "hunter2")) == [
        ("/runtime/password", "additional_properties"),
        ("/runtime/password", "inline_secret"),
    ]


def test_all_violations_are_reported_at_once_in_document_order() -> None:
    manifest = build_manifest(
        schema_version="9",
        capabilities=[build_capability(f"c{i}") for i in range(11)],
        interfaces=[],
    )
    manifest["capabilities"][2]["id"] = "c0"
    manifest["capabilities"][10]["name"] = "x"
    manifest["capabilities"][10]["output_schema"] = {"type": "objekt", "default": {"token": "t"}}
    manifest["runtime"]["max_retries"] = 10**15
    manifest["extra"] = True
    del manifest["identity"]["owner"]
    assert found(manifest) == [
        ("/capabilities/2/id", "duplicate_capability_id"),
        ("/capabilities/10/name", "min_length"),
        ("/capabilities/10/output_schema/default/token", "inline_secret"),
        ("/capabilities/10/output_schema/type", "invalid_json_schema"),
        ("/extra", "additional_properties"),
        ("/identity/owner", "required"),
        ("/interfaces", "min_items"),
        ("/runtime/max_retries", "maximum"),
        ("/schema_version", "const"),
    ]


def test_the_report_is_bounded_and_deterministic() -> None:
    manifest = build_manifest() | {f"x{i:03}": i for i in range(MAX_REPORTED + 5)}
    violations = found(manifest)
    assert violations == [(f"/x{i:03}", "additional_properties") for i in range(MAX_REPORTED)]


def test_details_state_the_rule_and_never_the_value() -> None:
    marker = "s3cr3t-marker"
    manifest = build_full_manifest()
    manifest["identity"] |= {"id": f"{marker}!", "type": marker, "tags": [marker, marker]}
    manifest["runtime"] |= {"max_retries": marker, "sandbox": [marker]}
    manifest["capabilities"][0]["input_schema"] = {"type": marker, "default": {"token": marker}}
    manifest["provenance"]["maintainer_contact"] = marker
    violations = validate(manifest)
    assert len(violations) == 8
    for violation in violations:
        assert marker not in violation.pointer + violation.detail
        assert violation.detail.endswith(".")
    details = {violation.pointer: violation.detail for violation in violations}
    assert details["/runtime/sandbox"] == (
        'Must be one of "process", "container", "vm", "firecracker", "undeclared".'
    )
    assert details["/runtime/max_retries"] == 'Must be of type "integer".'
    assert details["/identity/id"].startswith("Must be lower-case letters and digits")


@pytest.mark.parametrize("root", [None, True, 1, -1.5, "x", "", [], [{}]], ids=repr)
def test_a_root_that_is_no_object_is_refused(root: object) -> None:
    assert found(root) == [("", "type")]


def test_the_schema_is_a_fresh_valid_document_with_bounds_everywhere() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$id"] == "urn:agenthub:manifest:0.1"
    schema().clear()
    assert schema()["title"]
    bounds = {
        "string": {"maxLength"},
        "array": {"maxItems", "items"},
        "integer": {"minimum", "maximum"},
        "number": {"minimum", "maximum"},
    }
    stack: list[Any] = [schema()]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str):
                assert bounds.get(kind, set()) <= node.keys(), node
            if kind == "object" and "properties" in node:
                assert node["additionalProperties"] is False, node
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def portable(node: Any) -> Any:
    """Rewrite patterns for Python, where a dollar sign also matches before a final newline."""
    if isinstance(node, dict):
        return {
            name: value.replace("$", r"\Z") if name == "pattern" else portable(value)
            for name, value in node.items()
        }
    return [portable(item) for item in node] if isinstance(node, list) else node


ORACLE = jsonschema.Draft202012Validator(portable(request_schema()))

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53) + 1, 2**53 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "a", "abc", "a\n", "MCP", "INTERNAL", "low", "1.0.0", "env://x"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "id", "name", "$ref_uri", "0", "x"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)


@st.composite
def mutated_manifests(draw: st.DrawFn) -> Document:
    """Draw a valid manifest with up to four members or items replaced, removed or added."""
    manifest = draw(st.sampled_from([build_manifest, build_full_manifest]))()
    for _ in range(draw(st.integers(0, 4))):
        node: Any = manifest
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and draw(st.integers(0, 4)):
                node = node[key]
                continue
            change = draw(st.sampled_from(["replace", "remove", "add"]))
            if change == "replace":
                node[key] = draw(json_values)
            elif change == "remove":
                del node[key]
            elif isinstance(node, dict):
                node[draw(st.sampled_from(["x", "endpoint", "steps", "0"]))] = draw(json_values)
            else:
                node.append(copy.deepcopy(node[key]))
            break
    return manifest


OURS = (
    "format",
    "duplicate_capability_id",
    "invalid_json_schema",
    "inline_secret",
    "invisible_text",
    "control_character",
    "bidi_control",
    "hidden_character",
)


@settings(max_examples=400)
@given(mutated_manifests())
def test_verdicts_agree_with_an_independent_implementation(manifest: Document) -> None:
    """Formats and the rules beyond the schema are ours alone; everything else must agree."""
    before = json.dumps(manifest)
    ours = {(pointer, code) for pointer, code in found(manifest) if code not in OURS}
    assert json.dumps(manifest) == before
    theirs = {
        "".join(f"/{part}" for part in error.absolute_path)
        for error in ORACLE.iter_errors(manifest)
    }
    named_by_member = ("required", "additional_properties")
    places = {
        pointer.rpartition("/")[0] if code in named_by_member else pointer for pointer, code in ours
    }
    # Below a missing object, ours tells what will be demanded there, too.
    missing = {pointer for pointer, code in ours if code == "required"}
    below = {place for place in places if any(f"{place}/".startswith(f"{m}/") for m in missing)}
    assert places - below == theirs


@given(json_values)
def test_any_value_is_judged_without_raising(value: object) -> None:
    assert validate(value) != []
    for pointer in ("/capabilities", CAPABILITY, INPUT, INTERFACE, "/identity"):
        manifest_module.validate(edited(pointer, value))


def test_a_command_line_is_reached_by_a_command() -> None:
    interface = build_interface(protocol="CLI", endpoint="invoice --json")
    assert found(build_manifest(interfaces=[interface])) == []
    for protocol in ("MCP", "A2A", "HTTP"):
        interface["protocol"] = protocol
        assert found(build_manifest(interfaces=[interface])) == [
            (f"{INTERFACE}/endpoint", "pattern")
        ]
