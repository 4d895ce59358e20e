"""A service over HTTP: requests that are repeated until they are answered, and event streams.

Every write has an idempotency key, so that repeating it after a lost connection does nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import click
import urllib3

from app.ids import new_id

JsonObject = dict[str, Any]
# Beyond the longest time that the service lets a request wait.
READ_SECONDS = 45.0
CONNECT_SECONDS = 10.0
# Between two attempts to open a stream of events again.
REOPEN_SECONDS = 1.0
MAX_SHOWN_ERRORS = 20


class HubError(click.ClickException):
    """What was asked for did not happen; the message says why. Exit code 2."""

    exit_code = 2


class Refused(HubError):
    """The service refused a request with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code", ""))
        unknown = f"status {status}, and no answer of an AgentHub; is the URL right?"
        lines = [str(problem.get("detail") or problem.get("title") or unknown)]
        for one in problem.get("errors", [])[:MAX_SHOWN_ERRORS]:
            place = one.get("pointer") or one.get("parameter") or "the document"
            lines.append(f"  {place}: {one.get('detail', one.get('code'))}")
        super().__init__("\n".join(lines))

    @property
    def is_passing(self) -> bool:
        """Whether the service may do later what it refuses now: it is away or busy."""
        busy = self.status == HTTPStatus.TOO_MANY_REQUESTS
        return busy or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class _Retry(urllib3.Retry):
    # A key that another request holds is answered with 409 and a time to wait, too.
    RETRY_AFTER_STATUS_CODES = frozenset({409, 429, 503})


@dataclass(frozen=True)
class Answer:
    """An answer of the service; ``document`` is None where there is no body."""

    status: int
    document: Any
    headers: Mapping[str, str]

    @property
    def etag(self) -> str | None:
        """The entity tag of what was read."""
        return self.headers.get("ETag")


@dataclass(frozen=True)
class Hub:
    """A service at ``url``, asked with an API key or without. Threads may share it.

    ``attempts`` bounds how often a request is made that gets no final answer.
    """

    url: str
    api_key: str | None = None
    attempts: int = 6
    _pool: urllib3.PoolManager = field(
        default_factory=lambda: urllib3.PoolManager(maxsize=32), repr=False, compare=False
    )

    def read(
        self, path: str, *, tag: str | None = None, absent: Collection[int] = (), **query: Any
    ) -> Answer:
        """Return the answer to a GET. Raises ``Refused``, unless its status is one of ``absent``.

        ``tag`` is the entity tag of what is known already: then a 304 may come, without a document.
        """
        given = {name: value for name, value in query.items() if value is not None}
        target = path + (f"?{urlencode(given)}" if given else "")
        headers = {"If-None-Match": tag} if tag else {}
        return self._send("GET", target, None, headers, absent)

    def get(self, path: str, **query: Any) -> JsonObject:
        """Return the document of a GET. Raises ``Refused``."""
        document: JsonObject = self.read(path, **query).document
        return document

    def write(self, method: str, path: str, body: Any = None, key: str | None = None) -> JsonObject:
        """Return the answer to a write, which happens once under its key. Raises ``Refused``.

        Without a key one is made, for all attempts of this call.
        """
        headers = {"Idempotency-Key": key or new_id()}
        document: JsonObject = self._send(method, path, body, headers).document
        return document

    def _send(
        self,
        method: str,
        target: str,
        body: Any,
        headers: dict[str, str],
        absent: Collection[int] = (),
    ) -> Answer:
        retries = _Retry(
            total=self.attempts,
            status_forcelist={502, 503, 504},
            allowed_methods=None,
            backoff_factor=0.5,
            backoff_max=15,
            backoff_jitter=0.5,
            redirect=False,
            raise_on_status=False,
        )
        response = self._open(method, target, body, headers, retries=retries)
        text = response.data
        try:
            document = json.loads(text) if text else None
        except ValueError:
            document = None
        is_fine = response.status < HTTPStatus.BAD_REQUEST or response.status in absent
        if not is_fine or (document is None and text):
            problem = document if isinstance(document, dict) else {}
            raise Refused(response.status, problem)
        return Answer(response.status, document, response.headers)

    def _open(
        self, method: str, target: str, body: Any, headers: dict[str, str], **more: Any
    ) -> urllib3.BaseHTTPResponse:
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
        if self.api_key:
            headers = headers | {"Authorization": f"Bearer {self.api_key}"}
        try:
            return self._pool.request(
                method,
                self.url.rstrip("/") + target,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(CONNECT_SECONDS, READ_SECONDS),
                **more,
            )
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise HubError(f"no AgentHub answers at {self.url}: {reason}") from None

    def events(self, path: str, last: str | None = None) -> Iterator[JsonObject]:
        """Yield the events of a stream, which is opened again where it ends, until none will come.

        A service that goes away is asked until it is back. Raises ``Refused``, and ``HubError``
        where none answers at first.
        """
        retries: urllib3.Retry | bool = False
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            response = self._open(
                "GET", path, None, headers, preload_content=False, retries=retries
            )
            # Once it was there it may only be restarting.
            retries = urllib3.Retry(
                total=self.attempts, backoff_factor=0.5, status_forcelist={502, 503, 504}
            )
            if response.status == HTTPStatus.NO_CONTENT:
                return
            if response.status != HTTPStatus.OK:
                raise Refused(response.status, _problem(response.data))
            try:
                for name, data in _messages(response):
                    last = name
                    yield json.loads(data)
            except urllib3.exceptions.HTTPError:
                # The connection was lost.
                pass
            finally:
                response.close()
            time.sleep(REOPEN_SECONDS)


def _messages(response: urllib3.BaseHTTPResponse) -> Iterator[tuple[str, str]]:
    """Yield the id and the data of each event (HTML standard, section 9.2)."""
    name, data = "", ""
    for line in response:
        text = line.decode().rstrip("\r\n")
        found, _, value = text.partition(": ")
        if found == "id":
            name = value
        elif found == "data":
            data = value
        elif not text and data:
            yield name, data
            data = ""


def _problem(text: bytes) -> JsonObject:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="@:")
