"""What goes in and comes out of a task, held to the schemas of the delegate's capability."""

from __future__ import annotations

import atexit
import hashlib
import subprocess
import sys
import threading
from typing import Any

import orjson

from app.delegation.errors import CapabilitySchemaUnusable, PayloadInvalid
from app.delegation.payload_check import CPU_SECONDS, MEMORY_BYTES


class CheckStopped(Exception):
    """A check has reached its limit of computing time or memory."""


class Checker:
    """The process that does this process's checks, started when the first one is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return self._process.pid if self._process else None

    def errors(self, schema: dict[str, Any], payload: Any) -> list[dict[str, str]] | None:
        """Return where a payload is not what a schema demands; None for a schema without use.

        Raises ``CheckStopped``.
        """
        text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS).decode()
        line = orjson.dumps({"schema": text, "payload": payload}) + b"\n"
        with self._lock:
            reply = self._ask(line)
            if not reply.endswith(b"\n"):
                self._end()
                raise CheckStopped
        found: list[dict[str, str]] | None = orjson.loads(reply)["errors"]
        return found

    def _ask(self, line: bytes) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.delegation.payload_check"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        reads, writes = self._process.stdout, self._process.stdin
        assert reads is not None  # noqa: S101 (both are pipes)
        assert writes is not None  # noqa: S101
        try:
            writes.write(line)
            writes.flush()
            return reads.readline()
        except OSError:
            return b""

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stop(self) -> None:
        """End the process; another check would start a new one."""
        with self._lock:
            self._end()


_checker = Checker()


class Verdicts:
    """What checks found that were made for a request before its transaction."""

    def __init__(self) -> None:
        self._found: dict[bytes, list[dict[str, str]] | CheckStopped | None] = {}

    def foresee(self, schema: dict[str, Any], payload: Any) -> None:
        """Make a check and remember what it found."""
        if "$ref_uri" in schema:
            return
        try:
            self._found[_key(schema, payload)] = _checker.errors(schema, payload)
        except CheckStopped as stopped:
            self._found[_key(schema, payload)] = stopped

    def errors(self, schema: dict[str, Any], payload: Any) -> list[dict[str, str]] | None:
        """Return what ``Checker.errors`` does, which is asked only if it was not before.

        Raises ``CheckStopped``.
        """
        key = _key(schema, payload)
        found = self._found[key] if key in self._found else _checker.errors(schema, payload)
        if isinstance(found, CheckStopped):
            raise found
        return found


def _key(schema: dict[str, Any], payload: Any) -> bytes:
    text = orjson.dumps([schema, payload], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()


def check(schema: dict[str, Any], payload: Any, member: str, verdicts: Verdicts) -> None:
    """Raise ``PayloadInvalid`` with every place where ``payload`` is not what ``schema`` demands.

    ``member`` is the request's member that holds the payload. A schema that is only a ``$ref_uri``
    demands nothing here: the service fetches nothing. Raises ``CapabilitySchemaUnusable`` for one
    that cannot be applied without fetching, or not within the limits of a check.
    """
    if "$ref_uri" in schema:
        return
    part = member.removeprefix("task_")
    try:
        errors = verdicts.errors(schema, payload)
    except CheckStopped:
        raise CapabilitySchemaUnusable(
            f"applying the schema of the capability's {part} takes more than {CPU_SECONDS} seconds "
            f"or {MEMORY_BYTES // 2**20} MiB; publish a version of the delegate with a simpler one"
        ) from None
    if errors is None:
        raise CapabilitySchemaUnusable(
            f"the schema of the capability's {part} cannot be applied; "
            "publish a version of the delegate whose schema stands alone"
        )
    if errors:
        raise PayloadInvalid(
            f"the {member} does not match the schema of the delegate's capability",
            errors=[{**error, "pointer": f"/{member}{error['pointer']}"} for error in errors],
        )
