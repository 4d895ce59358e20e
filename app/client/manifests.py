"""Manifests in files: reading them, what they break, and what a new version breaks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import orjson

from app.canonical import Canonical
from app.client.hub import Hub, HubError, JsonObject, segment
from app.json_schema.form import form_faults
from app.registry import manifest as rules
from app.registry.diff import behavioral_diff
from app.registry.manifest_format import complete

_REFERENCE = re.compile(r"(@[a-z0-9][a-z0-9_-]{1,62}:[a-z0-9._-]+)(?:@(.+))?")
NOT_FOUND = 404


@dataclass(frozen=True)
class AgentFile:
    """A manifest that was read, completed with what is filled in, and its namespace if it has one.

    A file holds the manifest alone, or ``{"namespace": ..., "manifest": ...}`` as the API takes it.
    """

    manifest: JsonObject
    namespace: str | None

    @cached_property
    def canonical(self) -> Canonical:
        """The complete manifest, which has the digest that the service will show."""
        return Canonical.of(self.manifest)

    @property
    def version(self) -> str:
        """The version that the manifest describes."""
        return str(self.manifest["identity"]["version"])

    def agent_id(self, namespace: str | None) -> str:
        """Return the agent's id. Raises ``UsageError`` where nobody names a namespace."""
        found = namespace or self.namespace
        if not found:
            raise click.UsageError(
                "name the namespace: --namespace @acme, or a file with a namespace beside the"
                " manifest, or agenthub login --namespace @acme"
            )
        return f"@{found.removeprefix('@')}:{self.manifest['identity']['id']}"

    def key(self, purpose: str, agent_id: str) -> str:
        """Return the idempotency key of a write of this content: the same for the same content."""
        named = f"{purpose} {agent_id} {self.canonical.digest}"
        return f"{purpose}-{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def read_file(path: Path) -> AgentFile:
    """Read a manifest from a file. Raises ``HubError`` where it holds none."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise HubError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise HubError(f"{path} is no JSON: {error}") from None
    namespace = None
    if isinstance(found, dict) and set(found) == {"namespace", "manifest"}:
        namespace, found = found["namespace"], found["manifest"]
    filled = complete(found)
    if not isinstance(filled, dict):
        raise HubError(f"{path} holds no manifest: expected a JSON object")
    return AgentFile(filled, namespace if isinstance(namespace, str) else None)


def faults_of(file: AgentFile) -> list[tuple[str, str]]:
    """Return what a manifest breaks: pointers into it, each with what was expected there."""
    found = [(one.pointer, one.detail) for one in rules.validate(file.manifest)]
    return found or list(_schema_faults(file.manifest))


def _schema_faults(manifest: JsonObject) -> Iterator[tuple[str, str]]:
    for at, schema in rules.capability_schemas(manifest):
        for pointer, detail in form_faults(orjson.loads(schema)):
            yield at + pointer, detail


def find_latest(hub: Hub, agent_id: str) -> JsonObject | None:
    """Return an agent with its latest version's manifest; None where there is no such agent."""
    answer = hub.read(f"/v1/agents/{segment(agent_id)}", absent=(NOT_FOUND,))
    found: JsonObject | None = answer.document if answer.status != NOT_FOUND else None
    return found


@dataclass(frozen=True)
class Version:
    """A version to compare: a published one, or one in a file, which has no ``agent_id``."""

    label: str
    manifest: JsonObject
    agent_id: str | None = None
    number: str | None = None


def find_version(hub: Hub, reference: str) -> Version:
    """Return what ``@ns:slug``, ``@ns:slug@1.2.0`` or a file's name refers to.

    Raises ``HubError`` and ``Refused``.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return Version(reference, read_file(Path(reference)).manifest)
    agent_id, number = match[1], match[2]
    path = f"/v1/agents/{segment(agent_id)}"
    if number is None:
        agent = hub.get(path)
        number = str(agent["latest_version"])
        return Version(f"{agent_id}@{number}", agent["manifest"], agent_id, number)
    found = hub.get(f"{path}/versions/{segment(number)}")
    return Version(reference, found["manifest"], agent_id, number)


def compare(hub: Hub, base: Version, target: Version) -> JsonObject:
    """Return what changes for callers from one version to another.

    Versions of one agent are compared by the service, all others here.
    """
    if base.agent_id is not None and base.agent_id == target.agent_id:
        path = f"/v1/agents/{segment(base.agent_id)}/versions"
        between = f"{segment(base.number or '')}/behavioral-diff/{segment(target.number or '')}"
        found: JsonObject = hub.get(f"{path}/{between}")["diff"]
        return found
    return behavioral_diff(base.manifest, target.manifest)


def describe_change(change: Mapping[str, Any]) -> str:
    """Return an entry of a comparison in words."""
    kind = str(change["type"]).replace("_", " ")
    where = f"{change['capability_id']}: " if "capability_id" in change else ""
    if "from" in change:
        return f"{where}{kind}, {change['from']} to {change['to']}"
    names = [name for members in change.values() if isinstance(members, list) for name in members]
    return f"{where}{kind}" + (f": {', '.join(map(str, names))}" if names else "")
