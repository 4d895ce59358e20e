"""The OpenAPI document: equal to the routes, complete, and true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.http.problems import known_codes
from tests.client import Api, Contract

# Documents and files, not part of the API.
OPERATIONS = [
    "accept_delegation",
    "accept_result",
    "answer_question",
    "ask_question",
    "cancel_delegation",
    "claim_delegation",
    "compare_versions",
    "create_delegation",
    "create_delegations",
    "create_webhook",
    "decline_delegation",
    "delete_acceptance_rules",
    "delete_webhook",
    "deliver_result",
    "deprecate_agent",
    "dispute_result",
    "fail_delegation",
    "fork_agent",
    "get_acceptance_rules",
    "get_account",
    "get_account_statement",
    "get_agent",
    "get_behavioral_diff",
    "get_contract_schema",
    "get_dashboard",
    "get_delegation",
    "get_delegation_contract",
    "get_delegation_events",
    "get_delegation_status",
    "get_health",
    "get_ledger_digest",
    "get_namespace",
    "get_problem_code",
    "get_readiness",
    "get_reconciliation",
    "get_service",
    "get_transaction",
    "get_transaction_proof",
    "get_trust",
    "get_version",
    "get_webhook",
    "list_admin_actions",
    "list_agents",
    "list_capabilities",
    "list_delegations",
    "list_evaluations",
    "list_legacy_delegations",
    "list_metering_events",
    "list_transactions",
    "list_versions",
    "list_webhook_deliveries",
    "list_webhooks",
    "meter_delegation",
    "pay_out",
    "ping_webhook",
    "publish_version",
    "put_acceptance_rules",
    "reauthorize_delegation",
    "record_evaluation",
    "refresh_evidence",
    "register_agent",
    "replay_webhook_delivery",
    "report_usage",
    "resolve_dispute",
    "reverse_transaction",
    "rotate_webhook_secret",
    "send_heartbeat",
    "stream_delegation_events",
    "top_up",
    "update_webhook",
]
PAGES = {"/docs", "/openapi.json", "/metrics", "/assets/{filename}"}


@pytest.fixture
def document(contract: Contract) -> dict[str, Any]:
    """The served OpenAPI document."""
    return contract.document


def test_it_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_it_has_exactly_the_routes(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {
        (path, method)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    # Flask names the views of pages by their blueprint.
    pages = {
        re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith(("console.", "catalogue."))
    }
    assert documented == {route for route in routes if route[0] not in pages | set(PAGES)}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return every operation with its path and method."""
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


def test_every_operation_says_what_it_does_and_who_may(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"].endswith("."), path
        if method != "get":
            assert operation["security"] == [{"ApiKey": []}, {"Bearer": []}], path
            names = {parameter["name"] for parameter in operation["parameters"]}
            assert "Idempotency-Key" in names, path
            assert {"400", "401", "403", "409"} <= operation["responses"].keys(), path


def test_generated_clients_have_stable_names(document: dict[str, Any]) -> None:
    """A method of a client is named by its operation; a new name is a break for its users."""
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert sorted(names) == OPERATIONS
    assert document["servers"][0]["url"] == "/"


def test_every_schema_has_valid_examples(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert len(schemas) > 20
    for name, schema in schemas.items():
        if name.startswith("Manifest") and name not in ("Manifest", "ManifestRequest"):
            # A part of a manifest; the example of the whole shows it.
            continue
        assert schema.get("examples"), f"{name} has no example"
        validator = jsonschema_rs.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": document["components"]},
            validate_formats=True,
        )
        for example in schema["examples"]:
            validator.validate(example)


def test_every_operation_explains_itself(document: dict[str, Any]) -> None:
    """A short summary for lists, and a description that says what the summary cannot."""
    for path, method, operation in operations(document):
        summary, description = operation["summary"], operation["description"]
        assert summary.endswith("."), (method, path)
        assert len(summary) <= 80, (method, path, summary)
        assert len(description) > 20, (method, path)
        assert summary not in description


def test_names_do_not_depend_on_the_version_of_python(document: dict[str, Any]) -> None:
    """Python 3.13 renamed some of HTTP's reason phrases; codes and names here never change."""
    assert {"request_entity_too_large", "request_uri_too_long"} <= known_codes().keys()
    responses = document["components"]["responses"].keys()
    assert {"UNPROCESSABLE_ENTITY", "REQUEST_ENTITY_TOO_LARGE", "NOT_FOUND"} <= responses


def test_every_problem_code_is_explained(anyone: Api) -> None:
    codes = known_codes()
    assert {"agent_exists", "validation_failed", "not_found", "api_key_missing"} <= codes.keys()
    for code, (kind, description) in codes.items():
        answer = anyone.get(f"/problems/{code}").get_json()
        assert answer["status"] == kind.status
        assert answer["description"] == description != ""
    assert anyone.get("/problems/nonsense").status_code == 404


def test_the_page_needs_no_network(app: Flask, anyone: Api) -> None:
    with anyone.get("/docs") as page:
        assert page.mimetype == "text/html"
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    files = [path for path in loaded if path.startswith("/assets/")]
    assert len(files) == 3
    for path in files:
        with anyone.get(path) as response:
            assert response.status_code == 200
    assert not [path for path in loaded if re.match(r"(https?:)?//", path)]
    script = Path(app.static_folder or "") / "docs.js"
    assert "http" not in script.read_text()
