"""A process that judges schemas and holds values to them, line by line, until its input ends.

References may multiply a schema beyond any bound, and its patterns may be large, so that each line
comes with a limit of computing time, and the process has one of memory. At a limit the process
ends, and with it nothing but what it was asked.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson

from app.json_schema.evaluation import MAX_REPORTED, UNUSABLE, Judge, compile_schema
from app.json_schema.form import form_faults

MEMORY_BYTES = 512 * 2**20
# Requests are served first: what these processes do may be hostile, and can wait.
NICENESS = 5
# Sent when the process can be asked, so that nobody takes its start for a check.
READY = b"ready\n"
# Sent when a schema is compiled: whatever goes wrong after it is for the value's sake, too.
COMPILED = b"\n"


@lru_cache(maxsize=64)
def _judge(schema: str) -> Judge | None:
    """Return what values are held to, None for a schema that cannot be applied."""
    document = orjson.loads(schema)
    try:
        return Judge(document, compile_schema(document))
    except UNUSABLE:
        return None


def _first(found: Iterable[tuple[str, ...]], *, by: int) -> list[tuple[str, ...]]:
    """Return the first of what was found, one for each of its first ``by`` members."""
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}
    for one in found:
        kept.setdefault(one[:by], one)
        if len(kept) == MAX_REPORTED:
            break
    return list(kept.values())


def answer(request: dict[str, Any]) -> list[tuple[str, ...]] | None:
    """Return what a value breaks, None if the schema cannot be applied; or a schema's faults."""
    if "value" not in request:
        return list(islice(form_faults(orjson.loads(request["schema"])), MAX_REPORTED))
    judge = _judge(request["schema"])
    sys.stdout.buffer.write(COMPILED)
    sys.stdout.buffer.flush()
    return None if judge is None else _first(judge.findings(request["value"]), by=2)


def main() -> None:
    """Answer every line of standard input with one of standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        began = time.process_time()
        request = orjson.loads(line)
        # The signal of this timer ends the process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        found = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply = {"found": found, "seconds": time.process_time() - began}
        sys.stdout.buffer.write(orjson.dumps(reply) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
