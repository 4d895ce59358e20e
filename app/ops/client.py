"""A client of a running service, for the commands that show or try it over HTTP."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]


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
    headers = {"Content-Type": "application/json", "X-API-Key": api_key}
    if call.idempotency_key:
        headers["Idempotency-Key"] = call.idempotency_key
    body = json.dumps(call.body).encode() if call.body is not None else None
    request = urllib.request.Request(  # noqa: S310 (the operator names the address)
        url + call.path, data=body, headers=headers, method=call.method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer: JsonObject = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        detail = error.read().decode("utf-8", "replace")
        message = f"{call.method} {call.path} was refused ({error.code}): {detail}"
        raise CallFailed(message, _problem_code(detail)) from None
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CallFailed(
            f"no AgentHub answers at {url} ({reason}); start one: agenthub up"
        ) from None


def _problem_code(body: str) -> str | None:
    """Return the code of a problem; None for an answer that is no problem document."""
    try:
        code = json.loads(body)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return str(code)
