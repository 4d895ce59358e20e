"""An API key as a Bearer token, which is the same key in another header."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from tests.client import Api
from tests.registry.test_defaults import TINY

BODY = {"namespace": "@acme", "manifest": TINY}
WHO = "/v1/webhooks"


def send(app: Flask, **headers: str) -> Any:
    """Ask for what only the holder of a key may see."""
    return app.test_client().get(
        WHO, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_a_write_with_a_token_is_that_of_the_key(app: Flask, acme: Api) -> None:
    headers = {"Authorization": f"Bearer {acme.key}", "Idempotency-Key": "once"}
    first = app.test_client().post("/v1/agents", json=BODY, headers=headers)
    assert first.status_code == 200
    again = acme.post("/v1/agents", BODY, idempotency_key="once")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.data == first.data


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
def test_the_scheme_is_read_in_any_case(app: Flask, acme: Api, scheme: str) -> None:
    assert send(app, Authorization=f"{scheme} {acme.key}").status_code == 200


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer\t{key}", "Digest {key}"]
)
def test_what_is_no_token_is_no_key(app: Flask, acme: Api, value: str) -> None:
    refused = send(app, Authorization=value.format(key=acme.key))
    assert (refused.status_code, refused.get_json()["code"]) == (401, "api_key_missing")
    assert "Bearer realm=" in refused.headers["WWW-Authenticate"]


def test_a_wrong_token_is_a_wrong_key(app: Flask, acme: Api) -> None:
    refused = send(app, Authorization=f"Bearer {acme.key}x")
    assert (refused.status_code, refused.get_json()["code"]) == (401, "api_key_invalid")


def test_another_scheme_beside_the_key_is_for_somebody_else(app: Flask, acme: Api) -> None:
    found = send(app, X_API_Key=str(acme.key), Authorization="Basic cHJveHk6c2VjcmV0")
    assert found.status_code == 200


def test_the_same_key_twice_is_one_key_and_two_keys_are_none(
    app: Flask, acme: Api, globex: Api
) -> None:
    same = send(app, X_API_Key=str(acme.key), Authorization=f"Bearer {acme.key}")
    assert same.status_code == 200
    other = send(app, X_API_Key=str(acme.key), Authorization=f"Bearer {globex.key}")
    assert (other.status_code, other.get_json()["code"]) == (400, "credentials_conflict")
