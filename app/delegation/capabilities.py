"""What a delegate's manifest says of the capability that a task names.

Holding a payload to a capability's schema may take seconds, for which no lock should be held. So it
is done before the transaction that needs it (``foresee_inputs``, ``foresee_output``), and again
within it only if the schema has changed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.delegation.errors import CapabilityUnknown, DelegationNotFound
from app.delegation.payloads import Verdicts
from app.delegation.queries import find_delegation
from app.registry.queries import Party, find_parties, find_versions

Document = dict[str, Any]
Read = Callable[[], AbstractContextManager[Connection]]


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


def foresee_inputs(read: Read, body: Document) -> Verdicts:
    """Hold the inputs of one request, or of all in a batch, to their capabilities' schemas."""
    verdicts = Verdicts()
    requests = body.get("delegations", [body])
    named = [request for request in requests if request["capability_id"] is not None]
    if not named:
        return verdicts
    with read() as connection:
        parties = find_parties(connection, {request["delegate_agent_id"] for request in named})
    for request in named:
        # What is not there is for the transaction to refuse.
        with suppress(KeyError, CapabilityUnknown):
            delegate = parties[request["delegate_agent_id"]]
            manifest = orjson.loads(delegate.manifest)
            capability = find_capability(delegate, manifest, request["capability_id"])
            if capability is not None:
                verdicts.foresee(capability["input_schema"], request["task_input"])
    return verdicts


def foresee_output(read: Read, body: Document, delegation_id: str) -> Verdicts:
    """Hold an output to the schema of the delegation's capability."""
    verdicts = Verdicts()
    if "output" not in body:
        return verdicts
    # What is not there is for the transaction to refuse.
    with suppress(DelegationNotFound):
        with read() as connection:
            delegation = find_delegation(connection, delegation_id)
            named = delegation.capability_id is not None
            schema = output_schema(connection, delegation) if named else None
        if schema is not None:
            verdicts.foresee(schema, body["output"])
    return verdicts
