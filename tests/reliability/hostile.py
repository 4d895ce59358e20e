"""Requests that attack the service, and what a refusal must look like."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from werkzeug.test import TestResponse

from tests.client import Api
from tests.registry.manifests import Document, build_full_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"
EVALS = AGENT + "/versions/1.0.0/evals"
EVALUATION: Document = {
    "suite": "invoices-2026-11",
    "metrics": {"accuracy": 0.94, "p95_latency_ms": 830},
    "cases": {"passed": 47, "total": 50},
    "evaluated_at": "2026-01-20T09:30:00Z",
}


def full_manifest(**identity: str) -> Document:
    """Return a manifest with every member present and some of its identity replaced."""
    manifest = build_full_manifest()
    manifest["identity"].update(identity)
    return manifest


# Every write with a body: its method, its path, and a body that succeeds once.
WRITES: dict[str, tuple[str, str, Document]] = {
    "register": (
        "POST",
        "/v1/agents",
        {"namespace": "@acme", "manifest": full_manifest(id="another")},
    ),
    "publish": ("PUT", AGENT, {"manifest": full_manifest(version="2.0.0")}),
    "fork": ("POST", AGENT + "/fork", {"namespace": "@acme", "new_slug": "copy"}),
    "evaluate": ("POST", EVALS, EVALUATION),
    "report": ("POST", f"{AGENT}/trust/usage", {"outcome": "success", "count": 3}),
}

READS = (
    "/v1/agents/{agent}",
    "/v1/agents/{agent}/capabilities",
    "/v1/agents/{agent}/trust",
    "/v1/agents/{agent}/versions",
    "/v1/agents/{agent}/versions/{version}",
    "/v1/agents/{agent}/versions/{version}/evals",
    "/v1/agents/{agent}/versions/1.0.0/behavioral-diff/{version}",
    "/v1/agents/{agent}/versions/{version}/behavioral-diff/1.0.0",
    "/v1/agents/{agent}/compare/1.0.0/{version}",
    "/v1/agents/{agent}/compare/{version}/1.0.0",
    "/v1/namespaces/{agent}",
    "/problems/{agent}",
)

HOSTILE = (
    "\0",
    "\n",
    "\r\nX-Injected: 1",
    "\x7f",
    "' OR '1'='1",
    "1'; DROP TABLE registry_agents; --",
    '"><script>alert(1)</script>',
    "{{7*7}}${7*7}<%= 7*7 %>",
    "..",
    "%",
    "_",
    "*",
    "\\",
    "?#&=+;",
    "\u202e\u0130\ufeff\U0001f600",
    "٣",
    "x" * 5000,
)


def assert_refused(response: TestResponse, *statuses: int, at: str | None = None) -> Document:
    """Fail unless the answer is a complete problem; ``at`` is where an entry places the fault."""
    document: Document = response.get_json()
    assert response.status_code in statuses, response.text
    assert response.mimetype == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id"} <= document.keys()
    assert document["status"] == response.status_code
    assert document["type"] == f"/problems/{document['code']}"
    assert document["request_id"] == response.headers["X-Request-Id"]
    for leaked in ("Traceback", "sqlalchemy", "psycopg", "sqlite3", "SELECT ", "INSERT ", ".py"):
        assert leaked not in document["detail"].replace(response.request.path, "")
    if response.status_code == 422:
        assert document["errors"]
    if at is not None:
        places = [entry.get("pointer", entry.get("parameter")) for entry in document["errors"]]
        assert at in places, document["errors"]
    return document


def send(api: Api, name: str, body: Any = None, **arguments: Any) -> TestResponse:
    """Send the write ``name`` with another body: bytes as they are, anything else as JSON."""
    method, path, _ = WRITES[name]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.request(method, path, data=data, **arguments)


# Below these a document holds whatever its author likes.
OPEN = ("input_schema", "output_schema", "/metrics", "/task_input", "/output", "/metadata")


def places(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a document with its pointer, down to what its author likes."""
    yield pointer, value
    if pointer.endswith(OPEN):
        return
    children: Any = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        children = value.items()
    for name, child in children:
        yield from places(child, f"{pointer}/{name}")


def changed(document: Any, pointer: str, change: Callable[[Any, Any], None]) -> Any:
    """Return a copy after ``change(parent, name)`` of the value at ``pointer``."""
    result = {"": copy.deepcopy(document)}
    parent: Any = result
    name: Any = ""
    for part in pointer.split("/")[1:]:
        parent = parent[name]
        name = int(part) if isinstance(parent, list) else part
    change(parent, name)
    return result[""]


def json_type(value: Any) -> str:
    """Return the JSON type of a value."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object" if isinstance(value, dict) else "null")
