"""Registering and reading agents over HTTP."""

from __future__ import annotations

from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"


def test_register_and_read(acme: Api, anyone: Api) -> None:
    manifest = build_manifest()
    registered = acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest})
    assert registered.status_code == 200, registered.text
    assert anyone.get(AGENT).get_json() == registered.get_json()
