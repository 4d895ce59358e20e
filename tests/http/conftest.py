"""Fixtures for attacks on a registry that holds something to lose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest
from tests.reliability.evidence import contents
from tests.reliability.hostile import EVALS, EVALUATION


@pytest.fixture
def registry(acme: Api) -> Api:
    """A developer whose registry holds one agent with one evaluation."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    assert acme.post(EVALS, EVALUATION).status_code == 200
    return acme


@pytest.fixture
def untouched(services: Services, registry: Api) -> Iterator[None]:
    """Fail unless every row of every table is as it was before the test."""
    before = contents(services.database)
    yield
    assert contents(services.database) == before
