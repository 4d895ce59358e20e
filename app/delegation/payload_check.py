"""A process that holds payloads to schemas for a server, line by line, until its input ends.

A capability's schema comes from whoever publishes the agent. References may multiply it beyond any
bound, and its patterns may be large, so every check has a limit of computing time and memory. At a
limit the process ends, and with it nothing but that check.
"""

from __future__ import annotations

import resource
import signal
import sys
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

CPU_SECONDS = 2
MEMORY_BYTES = 512 * 2**20
MAX_REPORTED = 100
MAX_DETAIL = 300


@lru_cache(maxsize=256)
def compile_schema(schema: str) -> Any:
    """Compile a schema: nothing is fetched, and patterns run in time linear in the text."""
    return jsonschema_rs.validator_for(
        orjson.loads(schema),
        validate_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the ``errors`` of a payload, None where the schema cannot be applied."""
    try:
        validator = compile_schema(request["schema"])
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return {"errors": None}
    found = validator.evaluate(request["payload"]).errors()[:MAX_REPORTED]
    return {
        "errors": [
            {
                "pointer": error["instanceLocation"],
                "code": error["schemaLocation"].rpartition("/")[2] or "schema",
                "detail": error["error"][:MAX_DETAIL],
            }
            for error in found
        ]
    }


def main() -> None:
    """Answer every line of standard input with one of standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        # The signal of this timer ends the process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        reply = orjson.dumps(answer(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
