"""What goes in and comes out of a task, held to the schemas of the delegate's capability.

Holding a payload to a schema may take seconds, for which no lock should be held. So it is done
before the transaction that needs it, for what that transaction would otherwise do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from app.delegation.errors import CapabilitySchemaUnusable, PayloadInvalid
from app.errors import Overtaken
from app.json_schema.pool import Check, Found, Pool, Stopped

Demand = tuple[dict[str, Any], Any]
"""A schema, and the payload that it is for."""


class Verdicts:
    """What was found of payloads, for one request."""

    def __init__(
        self, pool: Pool | None = None, owner_id: str = "", demands: Sequence[Demand] = ()
    ) -> None:
        """Make every check, in the pool and on the account of an owner. Raises ``ChecksBusy``."""
        self._found: dict[bytes, Found | Stopped] = {}
        checks = {
            _key(schema, payload): Check(_text(schema), payload)
            for schema, payload in demands
            if "$ref_uri" not in schema
        }
        if pool is not None and checks:
            found = pool.run(owner_id, list(checks.values()))
            self._found = dict(zip(checks, found, strict=True))

    def of(self, schema: dict[str, Any], payload: Any) -> Found | Stopped:
        """Return what was found. Raises ``Overtaken`` for what was not asked."""
        try:
            return self._found[_key(schema, payload)]
        except KeyError:
            raise Overtaken("the capability's schema has just changed") from None


def _text(document: Any) -> str:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


def _key(schema: dict[str, Any], payload: Any) -> bytes:
    return hashlib.sha256(_text([schema, payload]).encode()).digest()


def check(schema: dict[str, Any], payload: Any, member: str, verdicts: Verdicts) -> None:
    """Raise ``PayloadInvalid`` with every place where ``payload`` is not what ``schema`` demands.

    ``member`` is the request's member that holds the payload. A schema that is only a ``$ref_uri``
    demands nothing here: the service fetches nothing. Raises ``CapabilitySchemaUnusable`` for one
    that cannot be applied without fetching, or not within the limits of a check.
    """
    if "$ref_uri" in schema:
        return
    part = member.removeprefix("task_")
    found = verdicts.of(schema, payload)
    if isinstance(found, Stopped):
        raise CapabilitySchemaUnusable(
            f"applying the schema of the capability's {part} takes {found.detail}; "
            "publish a version of the delegate with a simpler one"
        )
    if found is None:
        raise CapabilitySchemaUnusable(
            f"the schema of the capability's {part} cannot be applied; "
            "publish a version of the delegate whose schema stands alone"
        )
    if found:
        raise PayloadInvalid(
            f"the {member} does not match the schema of the delegate's capability",
            errors=[
                {"pointer": f"/{member}{pointer}", "code": code, "detail": detail}
                for pointer, code, detail in found
            ],
        )
