"""A client of a running service, for the commands that show or try it over HTTP."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from app.client.hub import Hub, HubError, JsonObject, Refused


class CallFailed(Exception):
    """A call or a step did not do what it should; the message says which and why.

    ``code`` is the problem's, where the service refused a call.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Call:
    """One request and why it is made.

    ``public`` marks one that needs no API key. ``shows`` names the members of the answer that
    matter, where not all of them do.
    """

    purpose: str
    method: str
    path: str
    body: JsonObject | None = None
    idempotency_key: str | None = None
    public: bool = False
    shows: tuple[str, ...] = ()

    def as_curl(self, url: str, key_variable: str) -> str:
        """Return the call as a command line that takes the key from a variable of the shell."""
        parts = ["curl", "-sS"]
        if self.method != "GET":
            parts += ["-X", self.method]
        line = " ".join(parts) + " " + shlex.quote(url + self.path)
        if not self.public:
            line += f' \\\n  -H "X-API-Key: ${key_variable}"'
        if self.idempotency_key:
            line += f" \\\n  -H {shlex.quote(f'Idempotency-Key: {self.idempotency_key}')}"
        if self.body is not None:
            line += " \\\n  -H 'Content-Type: application/json'"
            line += f" \\\n  -d {shlex.quote(json.dumps(self.body))}"
        return line


def send(url: str, api_key: str, call: Call) -> JsonObject:
    """Make one call and return the answer. Raises ``CallFailed``."""
    hub = Hub(url, api_key, attempts=0)
    try:
        if call.method == "GET":
            return hub.get(call.path)
        return hub.write(call.method, call.path, call.body, call.idempotency_key)
    except Refused as refusal:
        detail = json.dumps(refusal.problem)
        message = f"{call.method} {call.path} was refused ({refusal.status}): {detail}"
        raise CallFailed(message, refusal.code or None) from None
    except HubError as error:
        raise CallFailed(f"{error.message}; start one: agenthub up") from None
