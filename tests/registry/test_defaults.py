"""Agents whose manifests leave out what has a default, through everything that reads manifests."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
import rfc8785

from app.canonical import Canonical
from app.registry.examples import MANIFEST
from app.registry.manifest_format import complete
from tests.client import Api
from tests.registry.manifests import build_full_manifest, build_manifest

TINY: dict[str, Any] = {
    "schema_version": "0.1",
    "identity": {
        "id": "tiny",
        "name": "Tiny agent",
        "version": "1.0.0",
        "description": "Says what it was told.",
        "owner": "me",
        "type": "tool",
    },
    "capabilities": [
        {
            "id": "echo",
            "name": "Echo",
            "category": "transformation",
            "description": "Gives back the text it got.",
            "input_schema": {"type": "object"},
            "output_schema": {"type": "object"},
            "protocols": ["HTTP"],
            "side_effect_level": "none",
        }
    ],
    "interfaces": [
        {"name": "rest", "protocol": "HTTP", "endpoint": "https://a.example.org", "auth": "none"}
    ],
}
AGENT = "/v1/agents/@acme:tiny"
# The digest of the manifest that the OpenAPI document shows.
GOLDEN = "sha256:13b83c8154c2ae122fe2040a5430bb3b55f7787851b582f15645aa000584eec6"


def digest(document: object) -> str:
    return "sha256:" + hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def version(number: str, **sections: Any) -> dict[str, Any]:
    """Return the tiny manifest as another version with other sections."""
    manifest = copy.deepcopy(TINY) | sections
    manifest["identity"]["version"] = number
    return manifest


@pytest.fixture
def tiny(acme: Api) -> Api:
    """The owner of the registered tiny agent."""
    answer = acme.post("/v1/agents", {"namespace": "@acme", "manifest": TINY}, idempotency_key="t")
    assert answer.status_code == 200, answer.get_json()
    return acme


def test_the_stored_manifest_is_complete_and_so_is_its_digest(tiny: Api) -> None:
    document = tiny.get(f"{AGENT}/versions/1.0.0").get_json()
    assert document["manifest"] == complete(TINY)
    assert document["digest"] == digest(complete(TINY))


@pytest.mark.parametrize("build", [build_manifest, build_full_manifest])
def test_what_is_given_in_full_is_stored_byte_for_byte(acme: Api, build: Any) -> None:
    manifest = build() | {"x-acme": {"kept": [1, 2.5, None]}}
    answer = acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest})
    assert answer.get_json()["manifest"] == manifest
    found = acme.get("/v1/agents/@acme:invoice-summarizer/versions/1.0.0").get_json()
    assert found["digest"] == digest(manifest)


def test_digests_are_those_of_earlier_releases() -> None:
    """Computed by the release before members could be left out."""
    assert digest(complete(MANIFEST)) == GOLDEN
    assert Canonical.of(complete(MANIFEST)).digest == GOLDEN


def test_to_spell_a_default_out_is_the_same_request(tiny: Api) -> None:
    body = {"namespace": "@acme", "manifest": complete(TINY)}
    again = tiny.post("/v1/agents", body, idempotency_key="t")
    assert again.headers["Idempotent-Replayed"] == "true"
    refused = tiny.put(AGENT, {"manifest": TINY})
    assert (refused.status_code, refused.get_json()["identical"]) == (409, True)


def test_defaults_and_vendor_members_break_nobody(tiny: Api) -> None:
    spelled_out = version("1.1.0", **{"x-acme": {"team": "mail"}})
    whole: Any = complete(spelled_out)
    assert tiny.put(AGENT, {"manifest": whole}).status_code == 200
    diff = tiny.get(f"{AGENT}/versions/1.0.0/behavioral-diff/1.1.0").get_json()["diff"]
    assert (diff["compatibility"], diff["regression_risk_score"]) == ("backward_compatible", 0)


def test_it_can_be_forked_and_given_work(tiny: Api, caller: Any) -> None:
    globex = caller("globex")
    fork = {"namespace": "@globex", "new_slug": "small"}
    forked = globex.post(f"{AGENT}/fork", fork)
    assert forked.status_code == 200
    copied = forked.get_json()["forked_agent"]["manifest"]
    assert copied == complete(TINY | {"identity": TINY["identity"] | {"id": "small"}})
    top_up = {"agent_id": "@globex:small", "amount_usd": 1}
    assert caller("operator", role="admin").post("/v1/ledger/topups", top_up).status_code == 200
    task = {
        "requester_agent_id": "@globex:small",
        "delegate_agent_id": "@acme:tiny",
        "task_spec": "Say it again",
        "estimated_cost_usd": 0.5,
        "max_budget_usd": 1,
        "execution": "remote",
        "capability_id": "echo",
        "task_input": {"text": "hello"},
    }
    offered = globex.post("/v1/delegations", task)
    assert offered.status_code == 200, offered.get_json()
    path = f"/v1/delegations/{offered.get_json()['delegation_id']}"
    token = tiny.post(f"{path}/accept", {}).get_json()["lease_token"]
    assert tiny.post(f"{path}/deliver", {"lease_token": token, "output": {}}).status_code == 200


def test_the_document_of_the_api_says_what_may_be_left_out(anyone: Api) -> None:
    schemas = anyone.get("/openapi.json").get_json()["components"]["schemas"]
    assert schemas["ManifestRequest"]["required"] == ["identity", "capabilities", "interfaces"]
    assert "trust" in schemas["Manifest"]["required"]
    capability = schemas["ManifestRequestCapability"]
    assert "idempotency_key_required" not in capability["required"]
