"""What people read of an agent or of work shows something and hides nothing, wherever it is."""

from __future__ import annotations

from typing import Any

import pytest

from app.registry import manifest as rules
from tests.client import Api
from tests.delegation.conftest import CLERK, accept, offer, request
from tests.delegation.conftest import agents as agents
from tests.delegation.conftest import operator as operator
from tests.registry.manifests import build_full_manifest

LIES = {
    "   ": "invisible_text",
    "abc\u202edef\u202c and so on": "bidi_control",
    "abc\x07def and so on": "control_character",
    "\u200e\u200f\u200e \u200f\u200e\u200f\u200e\u200f": "invisible_text",
    "abcdef and so \U000e0041\U000e0042": "hidden_character",
}
NAMES = (
    "/identity/name",
    "/identity/owner",
    "/identity/tags/0",
    "/capabilities/0/name",
    "/capabilities/0/cost/unit",
    "/interfaces/0/name",
    "/trust/policy/human_approval_actions/0",
    "/requirements/dependencies/0/name",
    "/requirements/secrets/0/id",
    "/composition/steps/0/id",
)
DESCRIPTIONS = ("/identity/description", "/capabilities/0/description")
SCHEMA = "/capabilities/0/input_schema"


def edited(pointer: str, value: object) -> dict[str, Any]:
    """Return the fullest manifest with one value set."""
    manifest = build_full_manifest()
    *path, last = pointer.split("/")[1:]
    node: Any = manifest
    for name in path:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[int(last) if isinstance(node, list) else last] = value
    return manifest


def found(pointer: str, value: object) -> list[tuple[str, str]]:
    """Return where the manifest breaks which rule."""
    return [(one.pointer, one.code) for one in rules.validate(edited(pointer, value))]


@pytest.mark.parametrize("pointer", [*NAMES, *DESCRIPTIONS])
def test_text_of_a_manifest(pointer: str) -> None:
    for text, code in LIES.items():
        assert (pointer, code) in found(pointer, text * 4), text
    assert found(pointer, "क्\u200dष 👩\u200d🚀 and more") == []
    lines = found(pointer, "first line of it\nand a second")
    assert lines == ([] if pointer in DESCRIPTIONS else [(pointer, "control_character")])


def test_in_a_schema_it_is_what_people_read() -> None:
    for name in ("title", "description", "$comment"):
        assert found(f"{SCHEMA}/{name}", "") == []
        assert found(f"{SCHEMA}/{name}", "one\ntwo") == []
        assert found(f"{SCHEMA}/{name}", "pay\u202e") == [(f"{SCHEMA}/{name}", "bidi_control")]
        inner = {"x": {name: "\x1b[2J"}}
        assert found(f"{SCHEMA}/properties", inner) == [
            (f"{SCHEMA}/properties/x/{name}", "control_character")
        ]
    # What is data may be anything that can be stored.
    for name in ("default", "const", "x-note"):
        assert found(f"{SCHEMA}/{name}", "\t\u202e \x07") == []
    assert found(f"{SCHEMA}/enum", ["\t", " ", "\n"]) == []
    assert found(f"{SCHEMA}/properties", {"description": {"type": "string"}}) == []


def test_a_broken_rule_of_the_format_is_said_alone() -> None:
    assert found("/identity/id", "a\n") == [("/identity/id", "pattern")]
    assert found("/identity/name", "") == [("/identity/name", "min_length")]


def assert_named(answer: Any, pointer: str, code: str) -> None:
    """Fail unless the answer is 422 and names the member and what is wrong with it."""
    assert answer.status_code == 422, answer.get_json()
    assert (pointer, code) in {
        (one.get("pointer"), one["code"]) for one in answer.get_json()["errors"]
    }


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize(("text", "code"), list(LIES.items()))
def test_text_of_work_and_of_everything_else(
    acme: Api, globex: Api, operator: Api, text: str, code: str
) -> None:
    body = request(task_spec=text)
    assert_named(acme.post("/v1/delegations", body), "/task_spec", code)
    batch = acme.post("/v1/delegations/batch", {"delegations": [request(), body]})
    assert_named(batch, "/delegations/1/task_spec", code)
    path = f"/v1/delegations/{offer(acme)['delegation_id']}"
    assert_named(globex.post(f"{path}/decline", {"reason": text}), "/reason", code)
    worker = accept(globex, path.rpartition("/")[2])
    assert_named(worker.send("fail", reason=text), "/reason", code)
    assert_named(worker.send("ask", question=text), "/question", code)
    assert_named(acme.post(f"{path}/answer", {"answer": text}), "/answer", code)
    assert_named(acme.post(f"{path}/cancel", {"reason": text}), "/reason", code)
    assert_named(acme.post(f"{path}/dispute", {"reason": text}), "/reason", code)
    resolve = {"reason": text, "charge_usd": 0}
    assert_named(operator.post(f"{path}/resolve", resolve), "/reason", code)
    usage = {"outcome": "success", "note": text}
    assert_named(globex.post(f"/v1/agents/{CLERK}/trust/usage", usage), "/note", code)
    reversal = f"/v1/ledger/transactions/{'0' * 36}/reversal"
    assert_named(operator.post(reversal, {"reason": text}), "/reason", code)
    if code != "invisible_text":
        hook = {"url": "https://example.com/", "description": text}
        assert_named(acme.post("/v1/webhooks", hook), "/description", code)
