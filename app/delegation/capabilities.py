"""What a delegate's manifest says of the capability that a task names."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.delegation.errors import CapabilityUnknown
from app.registry.queries import Party, find_versions

Document = dict[str, Any]


def find_capability(
    delegate: Party, manifest: Document, capability_id: str | None
) -> Document | None:
    """Return a capability of the delegate, None if none is named. Raises ``CapabilityUnknown``."""
    if capability_id is None:
        return None
    for capability in manifest["capabilities"]:
        if capability["id"] == capability_id:
            found: Document = capability
            return found
    raise CapabilityUnknown(f"{delegate.id} {delegate.version} has no capability {capability_id!r}")


def permissions(manifest: Document, capability: Document | None) -> tuple[str, ...]:
    """Return what the manifest declares: for the named capability, else for all of them."""
    named = manifest["capabilities"] if capability is None else [capability]
    granted = {name for entry in named for name in entry.get("permissions", ())}
    granted.update(manifest.get("requirements", {}).get("permissions", ()))
    return tuple(sorted(granted))


def output_schema(reader: Connection | Session, delegation: Any) -> Document:
    """Return the output schema of a delegation's capability, in the version that was pinned."""
    (version,) = find_versions(reader, delegation.delegate_agent_id, delegation.delegate_version)
    found: Document = next(
        capability["output_schema"]
        for capability in orjson.loads(version.manifest)["capabilities"]
        if capability["id"] == delegation.capability_id
    )
    return found
