"""docs/manifest.md: its tables are what the schema says, and its examples can be registered.

After a change of the schema, ``python -m tests.registry.test_manifest_docs`` prints the tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.registry.manifest_format import complete, in_words, resolved, schema
from tests.client import Api
from tests.migrations.project import ROOT

PAGE = ROOT / "docs" / "manifest.md"
SECTIONS = (
    "identity",
    "capability",
    "interface",
    "trust",
    "runtime",
    "requirements",
    "composition",
    "provenance",
)
BY_SIDE_EFFECT = "`true` with side effects, else `false`"


def rows(rule: dict[str, Any], given: Any, prefix: str = "") -> Iterator[str]:
    """Yield a row for each member of an object; ``given`` is what stands where it is left out."""
    rule = resolved(rule)
    for name, inner in rule["properties"].items():
        form = resolved(inner)
        left_out = "required" if name in rule.get("required", ()) else ""
        value = given.get(name) if isinstance(given, dict) else None
        if name == "idempotency_key_required":
            left_out = BY_SIDE_EFFECT
        elif isinstance(value, dict):
            left_out = "filled in"
        elif value is not None:
            left_out = f"`{json.dumps(value)}`"
        meaning = inner.get("description", "")
        # A form that has words of its own is told by these.
        meaning = "" if meaning.lower().startswith(in_words(inner).lower()[:12]) else meaning
        yield f"| `{prefix}{name}` | {in_words(inner)} | {left_out} | {meaning} |"
        if "properties" in form:
            yield from rows(inner, value, f"{prefix}{name}.")
        elif "properties" in resolved(form.get("items", {})):
            yield from rows(form["items"], {"optional": False}, f"{prefix}{name}[].")


def tables() -> dict[str, str]:
    """Return the table of each section of the format."""
    filled = json.loads(json.dumps(complete({"capabilities": [{}], "interfaces": [{}]})))
    given = {"capability": filled["capabilities"][0], "interface": filled["interfaces"][0]}
    head = "| member | expected | left out | meaning |\n|---|---|---|---|\n"
    return {
        name: head + "\n".join(rows(schema()["$defs"][name], given.get(name, filled.get(name))))
        for name in SECTIONS
    }


@pytest.mark.parametrize("name", SECTIONS)
def test_the_table_is_what_the_schema_says(name: str) -> None:
    assert tables()[name] in PAGE.read_text()


def examples() -> list[dict[str, Any]]:
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.S)]


def test_the_examples_can_be_registered(acme: Api) -> None:
    tiny, completed, full = examples()
    for manifest in (tiny, full):
        answer = acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest})
        assert answer.status_code == 200, answer.get_json()
        expected = completed | {"identity": tiny["identity"]} if manifest is tiny else full
        assert {name: answer.get_json()["manifest"][name] for name in expected} == expected
    assert set(full) == {*schema()["properties"], "x-acme"}
    assert len(json.dumps(tiny, indent=1).splitlines()) < 40


def test_the_agent_of_the_readme_can_be_registered(acme: Api) -> None:
    page = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"cat > agent\.json <<'END'\n(.*?)\nEND\n", page, re.S)
    answer = acme.post("/v1/agents", json.loads(shown))
    assert answer.status_code == 200, answer.get_json()
    assert answer.get_json()["id"] == "@acme:echo"


if __name__ == "__main__":
    for name, table in tables().items():
        print(f"### {name}\n\n{table}\n")
