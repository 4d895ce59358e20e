"""The reads that go to the driver directly, and what they do when that does not work."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection

from app.db import HotRead
from app.http.context import Services
from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"
PATHS = (AGENT, f"{AGENT}/versions/1.0.0", f"{AGENT}/compare/1.0.0/1.0.0")


@pytest.fixture
def agent(acme: Api) -> Api:
    """The owner of an agent."""
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    return acme


@pytest.mark.parametrize("path", PATHS)
def test_both_ways_answer_the_same(
    agent: Api, services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the other way was taken")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "execute", refuse)
        direct = agent.get(path)
    failure = services.database.reader.dialect.loaded_dbapi.OperationalError

    def fail(*_: Any) -> None:
        raise failure("the connection is broken")

    with monkeypatch.context() as patch:
        patch.setattr(HotRead, "_run", staticmethod(fail))
        ordinary = agent.get(path)
    assert direct.status_code == 200
    assert direct.data == ordinary.data
    assert direct.headers.get("ETag") == ordinary.headers.get("ETag")
