"""Declaring an endpoint once: its route, who may call it, what it reads, what it answers.

A view is given what it needs and returns a document; ``Blueprint.read`` and ``Blueprint.write`` do
the rest in a fixed order: authenticate, check the idempotency key's presence, parse and validate,
open the transaction or the read-only connection, call the view, build the response. The OpenAPI
document is generated from the same declaration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import islice
from typing import Any, NoReturn

import flask_smorest
import marshmallow as ma
from flask import Response, g, request
from webargs.flaskparser import FlaskParser

from app.http.auth import require_role
from app.http.context import services
from app.http.errors import PathNotFound, ValidationFailed
from app.http.json_body import MAX_REPORTED, is_without_body, read_json_body
from app.http.problems import response_name
from app.http.responses import EVENT_STREAM
from app.http.schemas import build
from app.http.writes import identify, run_write
from app.idempotency.service import check_key
from app.json_values import token

View = Callable[..., Any]

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": (
        "A value of the caller's choice that names this write. Repeating the request with the same"
        " value gives the stored answer and does nothing again."
    ),
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^[!-~]([ -~]*[!-~])?$",
    },
    "example": "publish-invoice-summarizer-1.1.0",
}

IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "Run only if the agent still has this ETag; 412 otherwise.",
    "schema": {"type": "string"},
    "example": '"3"',
}


LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The `id` of the last event that the client has; the stream goes on behind it.",
    "schema": {"type": "string", "maxLength": 200},
    "example": "3",
}


def _path_parameter(name: str, pattern: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": pattern},
        "example": example,
    }


# Every name that a route may hold between angle brackets.
PATH_PARAMETERS = {
    parameter["name"]: parameter
    for parameter in (
        _path_parameter(
            "agent_id",
            "^@[a-z0-9][a-z0-9_-]{1,62}:[a-z0-9]+([._-][a-z0-9]+)*$",
            "@acme:invoice-summarizer",
        ),
        _path_parameter("version", "^[0-9A-Za-z.+-]{1,128}$", "1.0.0"),
        _path_parameter("base_version", "^[0-9A-Za-z.+-]{1,128}$", "1.0.0"),
        _path_parameter("target_version", "^[0-9A-Za-z.+-]{1,128}$", "1.1.0"),
        _path_parameter(
            "account_id",
            "^(agent:@|escrow:|sys:)[a-z0-9:._-]{1,200}$",
            "agent:@acme:invoice-summarizer",
        ),
        _path_parameter(
            "transaction_id", "^[0-9a-f-]{36}$", "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"
        ),
        # Wider than the service's own ids: those of an earlier service were imported as they were.
        _path_parameter(
            "delegation_id",
            "^[0-9A-Za-z][0-9A-Za-z._~@:+-]{0,127}$",
            "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10",
        ),
        _path_parameter("webhook_id", "^[0-9a-f-]{36}$", "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a10"),
        _path_parameter("delivery_id", "^[0-9a-f-]{36}$", "01a20512-7b5a-7c3e-9d52-3f1f6f7f9a11"),
        _path_parameter("namespace", "^@?[a-z0-9][a-z0-9_-]{1,62}$", "@acme"),
    )
}

PATH_PATTERNS = {
    name: re.compile(parameter["schema"]["pattern"]) for name, parameter in PATH_PARAMETERS.items()
}


class Parser(FlaskParser):
    """webargs, reading JSON strictly and reporting every violation with its place."""

    DEFAULT_UNKNOWN_BY_LOCATION = {"query": ma.RAISE, "json": ma.RAISE}

    def load_json(self, req: Any, schema: ma.Schema) -> Any:
        """Return the body; a command that demands no member may come without any."""
        if may_be_left_out(req.method, schema) and is_without_body():
            return {}
        return read_json_body()

    def load_querystring(self, req: Any, schema: ma.Schema) -> Any:
        """Refuse what ``int`` would read as a number although it is none: 1_0, +5, a newline."""
        faults = [
            {"parameter": name, "code": "type", "detail": "expected digits"}
            for name, value in req.args.items(multi=True)
            if isinstance(schema.fields.get(name), ma.fields.Integer)
            and not re.fullmatch("-?[0-9]+", value)
        ]
        if faults:
            raise ValidationFailed(
                "the request breaks a rule; see errors", errors=faults[:MAX_REPORTED]
            )
        return super().load_querystring(req, schema)

    def handle_error(
        self, error: ma.ValidationError, req: Any, schema: ma.Schema, **_: Any
    ) -> NoReturn:
        """Raise ``ValidationFailed`` with one entry for each of marshmallow's messages."""
        entries: list[dict[str, str]] = []
        messages = error.normalized_messages()  # type: ignore[no-untyped-call]
        for location, found in messages.items():
            member = "pointer" if location == "json" else "parameter"
            _collect(found, "", member, entries)
        raise ValidationFailed(
            "the request breaks a rule; see errors", errors=entries[:MAX_REPORTED]
        )


def _collect(found: Any, path: str, member: str, entries: list[dict[str, str]]) -> None:
    """Flatten marshmallow's nested messages into entries with a pointer or a parameter name.

    A field that validates a whole document reports ready entries, whose pointers begin at it.
    """
    if isinstance(found, dict) and isinstance(found.get("pointer"), str):
        entries.append({**found, "pointer": path + found["pointer"]})
    elif isinstance(found, dict):
        for name, below in found.items():
            inner = path if _is_wrapper(name, below) else f"{path}/{token(name)}"
            _collect(below, inner, member, entries)
    elif isinstance(found, list):
        for item in found:
            _collect(item, path, member, entries)
    else:
        code, detail = _word(str(found))
        entries.append(
            {
                member: path if member == "pointer" else path.removeprefix("/"),
                "code": code,
                "detail": detail,
            }
        )


def _is_wrapper(name: Any, below: Any) -> bool:
    """Tell marshmallow's own levels of nesting from members that happen to have their names.

    Errors of a whole object stand under "_schema"; errors of a mapping field stand under "key" and
    "value" below the member's own name.
    """
    if name not in ("_schema", "key", "value") or not isinstance(below, list):
        return False
    return not any(str(message).startswith("unknown") for message in below)


def _word(message: str) -> tuple[str, str]:
    """Return a stable code and a sentence of what was expected for a marshmallow message."""
    if message == "Missing data for required field.":
        return "required", "This member is required."
    if message == "Field may not be null.":
        return "null", "expected a value, not null"
    if message.startswith("unknown"):
        return "unknown_member", message
    match = re.fullmatch(r"Not an? valid (.+)\.", message)
    return ("type", f"expected a valid {match[1]}") if match else ("invalid", message)


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """A flask-smorest blueprint with the two kinds of endpoint this service has."""

    ARGUMENTS_PARSER = Parser()

    def read(
        self,
        rule: str,
        *,
        returns: ma.Schema,
        query: ma.Schema | None = None,
        problems: Sequence[int] = (),
        role: str | None = None,
        conditional: bool = False,
        headers: Sequence[dict[str, Any]] = (),
        streams: bool = False,
    ) -> Callable[[View], View]:
        """Declare a GET: ``view(connection, [principal], [query], **path) -> Response``.

        The connection refuses writes. ``role`` makes the endpoint need a key of that role and gives
        the view its principal; without it everybody may read. ``streams`` documents that the
        answer is a stream of events, each of whose data is what ``returns`` describes.
        """

        def decorate(view: View) -> View:
            @wraps(view)
            def endpoint(*arguments: Any, **path: str) -> Response:
                check_path(path)
                if query is None:
                    refuse_query()
                else:
                    g.query = dict(arguments[-1])
                with services().database.read() as connection:
                    response: Response = view(connection, *arguments, **path)
                return response

            handler: View = endpoint
            documented = [*problems]
            if query is not None:
                handler = self.arguments(query, location="query")(handler)
            if role is not None:
                handler = _authenticated(handler, role)
            if conditional:
                documented.append(304)
            if streams:
                documented.append(204)
            described = [*headers, *((LAST_EVENT_ID,) if streams else ())]
            self._declare(
                "GET", rule, handler, returns, documented, role, described, streams=streams
            )
            return view

        return decorate

    def write(
        self,
        method: str,
        rule: str,
        *,
        returns: ma.Schema,
        body: ma.Schema | None = None,
        problems: Sequence[int] = (),
        role: str = "developer",
        conditional: bool = False,
        admit: Callable[..., object] | None = None,
        prepare: Callable[..., Any] | None = None,
        headers: Sequence[dict[str, Any]] = (),
    ) -> Callable[[View], View]:
        """Declare a write: ``view(session, principal, [body], **path) -> Response``.

        The view runs in one transaction with its idempotency row and must not commit.
        ``conditional`` documents that the endpoint honours ``If-Match``. ``admit(connection,
        principal, **path)`` raises what refuses a caller whatever the body is, which is not read
        then; it may only look at what never changes, since it comes before a stored answer.
        ``prepare(principal, [body], **path)`` is for what takes long or asks the network: it runs
        before the transaction, which would lock others out meanwhile, unless the answer is stored
        already; the view gets what it returns in place of the body.
        """

        def decorate(view: View) -> View:
            @wraps(view)
            def endpoint(principal: Any, *arguments: Any, **path: str) -> Response:
                check_path(path)
                canonical = body.dump(arguments[0]) if body is not None else None
                identity = identify(principal, path, canonical)
                if prepare is None:
                    return run_write(
                        principal,
                        identity,
                        lambda session: view(session, principal, *arguments, **path),
                    )
                return run_write(
                    principal,
                    identity,
                    lambda session, prepared: view(session, principal, prepared, **path),
                    lambda: prepare(principal, *arguments, **path),
                )

            handler: View = endpoint
            documented = [400, 401, 403, 409, *problems, 503]
            documented_headers = [IDEMPOTENCY_KEY, *headers]
            if body is not None:
                build(body)
                needed = not may_be_left_out(method, body)
                handler = self.arguments(body, location="json", required=needed)(handler)
                documented += [413, 415]
            if conditional:
                documented.append(412)
                documented_headers.append(IF_MATCH)
            if admit is not None:
                handler = _admitted(handler, admit)
            handler = _authenticated(handler, role, needs_key=True)
            self._declare(method, rule, handler, returns, documented, role, documented_headers)
            return view

        return decorate

    def _declare(
        self,
        method: str,
        rule: str,
        handler: View,
        returns: ma.Schema,
        statuses: Sequence[int],
        role: str | None,
        headers: Sequence[dict[str, Any]],
        *,
        streams: bool = False,
    ) -> None:
        """Register the endpoint with its documentation."""
        # What every request may meet before its route, and then what its role may.
        statuses = [*statuses, 400, 421, 429, *((401, 403) if role else ())]
        description: dict[str, Any] = {
            # Generated clients name their methods by it.
            "operationId": handler.__name__,
            "responses": {status: response_name(status) for status in sorted(set(statuses))},
            "security": [{"ApiKey": []}, {"Bearer": []}] if role else [],
        }
        if headers:
            description["parameters"] = list(headers)
        media_type = EVENT_STREAM if streams else "application/json"
        answered = self.response(200, returns, content_type=media_type)(handler)
        handler = self.doc(**description)(answered)
        names = re.findall(r"<([a-z_]+)>", rule)
        parameters = [PATH_PARAMETERS[name] for name in names]
        self.route(rule, methods=[method], parameters=parameters)(handler)


def refuse_query() -> None:
    """Raise ``ValidationFailed`` for the parameters of a request to what takes none."""
    if request.args:
        raise ValidationFailed(
            "the request breaks a rule; see errors",
            errors=[
                {"parameter": name, "code": "unknown_member", "detail": "expected no parameter"}
                for name in islice(request.args, MAX_REPORTED)
            ],
        )


def may_be_left_out(method: str, body: ma.Schema) -> bool:
    """Tell whether a request of a method may come without its body."""
    return method == "POST" and not any(field.required for field in body.load_fields.values())


def check_path(path: dict[str, str]) -> None:
    """Raise ``PathNotFound`` for a path parameter that is not of its documented form.

    Nothing can have such a name, and not every database driver could even look for it.
    """
    for name, value in path.items():
        if not PATH_PATTERNS[name].fullmatch(value) or value.endswith("\n"):
            raise PathNotFound(f"nothing has the {name.replace('_', ' ')} {value!r}")


def _admitted(handler: View, admit: Callable[..., object]) -> View:
    """Put a read that may refuse the caller before the body."""

    @wraps(handler)
    def guarded(principal: Any, **path: str) -> Any:
        check_path(path)
        with services().database.read() as connection:
            admit(connection, principal, **path)
        return handler(principal, **path)

    return guarded


def _authenticated(handler: View, role: str, *, needs_key: bool = False) -> View:
    """Put authentication, and the presence of an idempotency key, before everything else."""

    @wraps(handler)
    def guarded(**path: str) -> Any:
        principal = require_role(role)
        if needs_key:
            check_key(request.headers.get("Idempotency-Key"))
            refuse_query()
        return handler(principal, **path)

    return guarded
