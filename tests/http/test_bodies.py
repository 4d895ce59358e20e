"""Bodies that are not what they should be, in our own words; and commands without any."""

from __future__ import annotations

import gzip

import pytest

from tests.client import Api
from tests.delegation.conftest import DELEGATIONS, offer, problem
from tests.delegation.conftest import agents as agents
from tests.delegation.conftest import operator as operator
from tests.registry.manifests import build_manifest


def test_a_compressed_body_is_not_read(acme: Api) -> None:
    for encoding in ("gzip", "br", "x", "gzip, identity"):
        refused = acme.post(
            "/v1/agents", data=gzip.compress(b"{}"), headers={"Content-Encoding": encoding}
        )
        assert problem(refused) == (415, "unsupported_media_type"), encoding
        assert refused.headers["Accept-Encoding"] == "identity"
        assert "Content-Encoding" in refused.get_json()["detail"]
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert (
        acme.post("/v1/agents", body, headers={"Content-Encoding": "identity"}).status_code == 200
    )


def test_a_byte_order_mark_is_named(acme: Api) -> None:
    refused = acme.post("/v1/agents", data=b"\xef\xbb\xbf{}")
    assert problem(refused) == (400, "malformed_json")
    assert "byte order mark" in refused.get_json()["detail"]
    assert "utf-8-sig" not in refused.get_json()["detail"]


@pytest.mark.usefixtures("agents")
def test_a_command_that_demands_nothing_needs_no_body(acme: Api, globex: Api) -> None:
    path = f"{DELEGATIONS}/{offer(acme)['delegation_id']}"
    accepted = globex.post(f"{path}/accept", idempotency_key="one")
    assert accepted.status_code == 200
    # It says the same as an empty object.
    replay = globex.post(f"{path}/accept", {}, idempotency_key="one")
    assert (replay.headers["Idempotent-Replayed"], replay.data) == ("true", accepted.data)
    # An empty text is no JSON, and what demands a member demands a body.
    assert problem(globex.post(f"{path}/accept", data=b""))[0] == 400
    assert problem(acme.post(DELEGATIONS)) == (400, "malformed_json")


@pytest.mark.parametrize("key", ["", " ", "\t"])
def test_a_blank_key_is_told_so(acme: Api, key: str) -> None:
    refused = acme.post("/v1/agents", {}, headers={"Idempotency-Key": key})
    assert problem(refused) == (400, "idempotency_key_missing")
    assert "blank" in refused.get_json()["detail"]


def test_times_may_be_written_in_lower_case(acme: Api) -> None:
    body = {"namespace": "@acme", "manifest": build_manifest()}
    assert acme.post("/v1/agents", body).status_code == 200
    path = "/v1/agents/@acme:invoice-summarizer/versions/1.0.0/evals"
    for text in ("2026-01-20t09:30:00z", "2026-01-20T09:30:00z", "2026-01-20t09:30:00+01:00"):
        result = {"suite": "s", "metrics": {"m": 1}, "evaluated_at": text}
        assert acme.post(path, result).status_code == 200, text
    for text in ("2026-01-20t09:30:00", "now", "2026-01-20tz"):
        result = {"suite": "s", "metrics": {"m": 1}, "evaluated_at": text}
        assert acme.post(path, result).status_code == 422, text
