"""What goes in and comes out of a task, held to the schemas of the delegate's capability."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from app.delegation.errors import CapabilitySchemaUnusable, PayloadInvalid

MAX_REPORTED = 100
MAX_DETAIL = 300


def check(schema: dict[str, Any], payload: Any, member: str) -> None:
    """Raise ``PayloadInvalid`` with every place where ``payload`` is not what ``schema`` demands.

    ``member`` is the request's member that holds the payload. A schema that is only a ``$ref_uri``
    demands nothing here: the service fetches nothing. Raises ``CapabilitySchemaUnusable`` for one
    that cannot be applied without fetching.
    """
    if "$ref_uri" in schema:
        return
    try:
        validator = _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        raise CapabilitySchemaUnusable(
            f"the schema of the capability's {member.removeprefix('task_')} cannot be applied; "
            "publish a version of the delegate whose schema stands alone"
        ) from None
    errors = validator.evaluate(payload).errors()
    if errors:
        raise PayloadInvalid(
            f"the {member} does not match the schema of the delegate's capability",
            errors=[
                {
                    "pointer": f"/{member}{error['instanceLocation']}",
                    "code": error["schemaLocation"].rpartition("/")[2] or "schema",
                    "detail": error["error"][:MAX_DETAIL],
                }
                for error in errors[:MAX_REPORTED]
            ],
        )


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    """Compile a schema: nothing is fetched, and patterns run in time linear in the text."""
    return jsonschema_rs.validator_for(
        orjson.loads(schema),
        validate_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )
