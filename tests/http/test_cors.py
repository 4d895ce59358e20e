"""Scripts of other sites: none may read the API unless the operator names their origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.config import Settings, SettingsError
from app.http.context import EXTENSION

APP, EVIL = "https://app.example.com", "https://evil.example"
ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "idempotency-key",
}
Make = Callable[..., FlaskClient]


@pytest.fixture
def make(settings: Settings) -> Iterator[Make]:
    """Make clients of applications with origins of their own."""
    apps: list[Flask] = []

    def client(*origins: str) -> FlaskClient:
        apps.append(create_app(replace(settings, cors_origins=origins or None)))
        return apps[-1].test_client()

    yield client
    for app in apps:
        app.extensions[EXTENSION].database.dispose()


def allowed(response: Any) -> str | None:
    found: str | None = response.headers.get("Access-Control-Allow-Origin")
    return found


def test_no_script_of_another_site_reads_anything_unless_told(make: Make) -> None:
    client = make()
    for method in ("GET", "OPTIONS"):
        response = client.open("/v1/agents", method=method, headers={"Origin": APP, **ASKS})
        assert allowed(response) is None


def test_the_origins_that_are_named_may_call_the_api(make: Make) -> None:
    client = make(APP, "https://other.example.com")
    for path in ("/v1/agents", "/v1", "/v1/agents/@no:body", "/openapi.json", "/v1/delegations"):
        # Refusals are read by scripts, too.
        response = client.get(path, headers={"Origin": APP})
        assert allowed(response) == APP, path
        assert "Origin" in response.headers["Vary"]
        assert "ETag" in response.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert allowed(client.get(path, headers={"Origin": EVIL})) is None
    asked = client.options("/v1/agents", headers={"Origin": APP, **ASKS})
    assert (asked.status_code, allowed(asked)) == (200, APP)
    assert "PATCH" in asked.headers["Access-Control-Allow-Methods"]
    assert asked.headers["Access-Control-Allow-Headers"] == "idempotency-key"
    assert asked.headers["Access-Control-Max-Age"] == "7200"
    assert allowed(client.options("/v1/agents", headers={"Origin": EVIL, **ASKS})) is None
    # The console is not for other sites.
    for path in ("/operator", "/operator/sign-in", "/agents"):
        assert allowed(client.get(path, headers={"Origin": APP})) is None


def test_every_origin_may_where_the_operator_says_so(make: Make) -> None:
    assert allowed(make("*").get("/v1/agents", headers={"Origin": EVIL})) == "*"


@pytest.mark.parametrize(
    "value", ["app.example.com", "https://app.example.com/", "https://*.example.com", "", "null"]
)
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="AGENTHUB_CORS_ORIGINS"):
        Settings.from_env({"AGENTHUB_CORS_ORIGINS": value})
