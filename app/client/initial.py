"""The first manifest of an agent: from answers, from an OpenAPI document, or from another agent."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.client import openapi
from app.client.hub import Hub, HubError, JsonObject
from app.client.manifests import find_version
from app.registry.manifest_format import schema

# Asks a person a question, with what is taken where nothing is said.
Ask = Callable[[str, str | None], str]
TYPES: tuple[str, ...] = tuple(schema()["$defs"]["identity"]["properties"]["type"]["enum"])
FIRST_VERSION = "1.0.0"


def build(hub: Hub, given: Mapping[str, Any], ask: Ask | None) -> JsonObject:
    """Return a namespace and a manifest, as the API takes them.

    ``given`` are the options by name; ``ask`` is None where there is nobody to ask. Raises
    ``HubError`` where something is neither said nor known.
    """
    source = _source(hub, given)
    told: dict[str, str] = {}

    def find(name: str, question: str, default: str | None = None) -> str:
        known = given.get(name) or source.get(name)
        if known:
            return str(known)
        if ask is None and default is None:
            option = "--id" if name == "slug" else f"--{name}"
            raise HubError(f"say it with {option}: {question}")
        return ask(question, default) if ask is not None else str(default)

    told["namespace"] = find("namespace", "Namespace, such as @acme")
    told["name"] = find("name", "Name for people")
    told["slug"] = find("slug", "Name within the namespace", _slug(told["name"]))
    described = f"{told['name']}, an agent of {told['namespace']}."
    told["description"] = find("description", "What it does", described)
    told["owner"] = find("owner", "Who answers for it", _user())
    told["kind"] = find("kind", f"Kind ({', '.join(TYPES)})", "tool")
    endpoint = given.get("endpoint") or source.get("endpoint")
    interfaces = source.get("interfaces") or [_interface(endpoint, source.get("auth", "none"))]
    manifest: JsonObject = {
        "schema_version": "0.1",
        "identity": {
            "id": told["slug"],
            "name": told["name"],
            "version": source.get("version", FIRST_VERSION),
            "description": told["description"],
            "owner": told["owner"],
            "type": told["kind"],
        },
        "capabilities": source.get("capabilities") or [_capability(told)],
        "interfaces": interfaces,
        **source.get("more", {}),
    }
    return {"namespace": f"@{told['namespace'].removeprefix('@')}", "manifest": manifest}


def _source(hub: Hub, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an OpenAPI document, or another agent, says of the new one."""
    path: Path | None = given.get("from_openapi")
    if path is not None and given.get("from_agent"):
        raise HubError("choose one of --from-openapi and --from-agent")
    if path is not None:
        document = openapi.read_document(path)
        about = document.get("info") or {}
        return {
            "name": about.get("title"),
            "description": str(about.get("description") or "").strip()[:4000] or None,
            "kind": "service",
            "endpoint": openapi.endpoint_of(document),
            "auth": openapi.auth_of(document),
            "capabilities": openapi.capabilities_of(document),
        }
    if given.get("from_agent"):
        found = find_version(hub, given["from_agent"]).manifest
        identity = found["identity"]
        own = ("schema_version", "identity", "capabilities", "interfaces", "provenance")
        return {
            "name": identity["name"],
            "slug": identity["id"],
            "description": identity["description"],
            "owner": identity["owner"],
            "kind": identity["type"],
            "version": identity["version"],
            "capabilities": found["capabilities"],
            "interfaces": found["interfaces"],
            "more": {name: value for name, value in found.items() if name not in own},
        }
    return {}


def _interface(endpoint: str | None, auth: str) -> JsonObject:
    if endpoint:
        return {"name": "rest", "protocol": "HTTP", "endpoint": endpoint, "auth": auth}
    # Work reaches it through the service alone.
    return {"name": "worker", "protocol": "INTERNAL", "auth": "none"}


def _capability(told: Mapping[str, str]) -> JsonObject:
    return {
        "id": told["slug"],
        "name": told["name"],
        "category": "transformation",
        "description": told["description"],
        "input_schema": {"type": "object"},
        "output_schema": {"type": "object"},
        "protocols": ["HTTP"],
        "side_effect_level": "none",
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "agent"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
