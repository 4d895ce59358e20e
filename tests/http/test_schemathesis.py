"""Property-based requests made from the OpenAPI document itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import (
    ensure_resource_availability,
    ignored_auth,
    positive_data_acceptance,
    use_after_free,
)

from app import create_app
from app.access.service import create_key
from app.http.context import EXTENSION
from app.ops.tracks import upgrade_all
from tests.client import Api, Contract
from tests.conftest import settings_for
from tests.registry.manifests import build_manifest

EXAMPLES = 25
load_all_checks()
# A manifest obeys rules that no JSON Schema expresses, and a deleted agent stays readable;
# these checks know neither. The check of authentication sends the key it is given once more, so it
# always finds it accepted; tests/access covers what it means.
EXCLUDED = [positive_data_acceptance, use_after_free, ensure_resource_availability, ignored_auth]


@dataclass(frozen=True)
class Live:
    """An application in use, and a caller whose agents work for each other."""

    app: Flask
    acme: Api

    def offer(self) -> str:
        """Offer a task, so that commands find a delegation, and return its id."""
        response = self.acme.post("/v1/delegations", OFFER)
        assert response.status_code == 200, response.text
        return str(response.get_json()["delegation_id"])


CLERK, READER = "@acme:clerk", "@acme:reader"
OFFER = {
    "execution": "remote",
    "requester_agent_id": CLERK,
    "delegate_agent_id": READER,
    "task_spec": "Read the invoices of November",
    "estimated_cost_usd": 10,
    "max_budget_usd": 20,
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One application with agents and money in it, shared by all generated requests."""
    folder: Path = tmp_path_factory.mktemp("schemathesis")
    settings = settings_for(f"sqlite:///{folder / 'agenthub.db'}", folder)
    upgrade_all(settings)
    app = create_app(settings)
    services = app.extensions[EXTENSION]
    with services.database.transaction() as session:
        key = create_key(session, services.pepper, "acme", "developer")
        admin = create_key(session, services.pepper, "operator", "admin")
    acme, operator = (Api(app.test_client(), Contract(app), k.secret) for k in (key, admin))
    for slug in ("invoice-summarizer", "clerk", "reader"):
        body: dict[str, Any] = {"namespace": "@acme", "manifest": build_manifest(slug)}
        registered = acme.post("/v1/agents", body)
        assert registered.status_code == 200
    body = {"agent_id": CLERK, "amount_usd": 1_000_000}
    assert operator.post("/v1/ledger/topups", body).status_code == 200
    yield Live(app, acme)
    services.database.dispose()


def test_answers_as_documented(live: Live, subtests: pytest.Subtests) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", live.app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:
        with subtests.test(operation.label):
            hold_to_the_document(operation, live)


def hold_to_the_document(operation: Any, live: Live) -> None:
    """Send valid and invalid requests of one operation and check every answer.

    Where an operation is about a delegation, those that follow the document find one.
    """
    modes = list(schemathesis.GenerationMode)
    known = live.offer() if "{delegation_id}" in operation.label else None

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.sampled_from(modes).flatmap(lambda mode: cases(operation, mode)))
    def check(case: Any) -> None:
        headers = {"X-API-Key": live.acme.key}
        if known and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE:
            case.path_parameters["delegation_id"] = known
        if "Idempotency-Key" not in (case.headers or {}):
            headers["Idempotency-Key"] = uuid.uuid4().hex
        response = case.call(headers=headers)
        case.validate_response(response, excluded_checks=EXCLUDED)

    check()


def cases(operation: Any, mode: schemathesis.GenerationMode) -> st.SearchStrategy[Any]:
    """Return requests that follow the document, or ones that break it."""
    strategy: st.SearchStrategy[Any] = operation.as_strategy(generation_mode=mode)
    return strategy


def test_the_checks_are_the_ones_meant() -> None:
    run = {check.__name__ for check in CHECKS.get_all()} - {check.__name__ for check in EXCLUDED}
    assert {
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "missing_required_header",
        "negative_data_rejection",
    } <= run
