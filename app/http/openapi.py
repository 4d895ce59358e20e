"""The OpenAPI 3.1 document, generated from the endpoints' declarations, and its human page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import flask_smorest
import orjson
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from flask import Flask, Response

from app.http.fields import JsonDocument
from app.http.problems import CONTENT_TYPE, KINDS, phrase_of, response_name
from app.http.schemas import ProblemOut, Schema
from app.registry.examples import MANIFEST
from app.registry.manifest_format import request_schema
from app.registry.manifest_format import schema as manifest_schema

DESCRIPTION = """\
The system of record for AI agents and for the work they hand to each other.

Reads of the registry are public. Writes need an API key in `X-API-Key`, or as a Bearer token, and
an `Idempotency-Key`: repeating a request with the same key gives the stored answer, marked
`Idempotent-Replayed: true`, and does nothing again. Errors are problem documents (RFC 9457) with a
stable `code`.
"""

# The page itself carries no script and no style, but Swagger UI sets styles on elements.
DOCS_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class SchemaPlugin(MarshmallowPlugin):
    """apispec's marshmallow plugin, adding each schema's example and its alternatives."""

    def schema_helper(  # type: ignore[override]
        self, name: Any, _: Any, schema: Any = None, **arguments: Any
    ) -> Any:
        described = super().schema_helper(name, _, schema, **arguments)  # type: ignore[no-untyped-call]
        if described is not None:
            instance = _instance(schema)
            if instance.one_of and self.converter is not None:
                found = map(self.converter.resolve_nested_schema, instance.one_of)
                described = {"oneOf": list(found)}
            described["examples"] = [instance.example]
        return described


def _instance(schema: Any) -> Schema:
    """Return the schema that apispec holds as an instance, a class or a class's name."""
    found = resolve_schema_instance(schema)
    assert isinstance(found, Schema)  # noqa: S101 (narrows the type)
    return found


def _component_name(schema: Any) -> str:
    """Name a component after its class without the ``Out``: ``AgentOut`` is ``Agent``."""
    return type(_instance(schema)).__name__.removesuffix("Out")


class Api(flask_smorest.Api):  # type: ignore[misc]
    """flask-smorest's registry of endpoints, with this service's errors instead of its own."""

    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_doc_blueprint(self) -> None:
        """Leave serving the document to ``register_documents``."""

    def _register_error_handlers(self) -> None:
        """Leave errors to ``app.http.problems``."""

    def _register_responses(self) -> None:
        titles = {int(kind.status): kind.title for kind in KINDS.values()}
        for status in HTTPStatus:
            response: dict[str, Any] = {"description": titles.get(int(status), phrase_of(status))}
            if status >= 400:
                response["content"] = {CONTENT_TYPE: {"schema": ProblemOut()}}
            # flask-smorest refers to some by the name in this version of Python.
            for name in {response_name(status), status.name}:
                self.spec.components.response(name, response, lazy=True)

    def _register_etag_headers(self) -> None:
        """The headers are documented where they are used."""

    def _register_pagination_header(self) -> None:
        """Pagination is in the body and in ``Link``."""


def _described_document(_: Any, field: Any, **__: Any) -> dict[str, Any]:
    """Describe a ``JsonDocument`` by the JSON Schema it carries; apispec calls it as a method."""
    return field.json_schema if isinstance(field, JsonDocument) else {}


def _manifest_components(name: str, schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a manifest's JSON Schema as components of this document, by their names.

    Each of its definitions is a component of its own: generators of clients follow references to
    components, and to no place within one.
    """

    def named(definition: str) -> str:
        return f"{name}{definition[0].upper()}{definition[1:]}"

    text = orjson.dumps(schema).decode()
    for definition in schema["$defs"]:
        here = f'"#/$defs/{definition}"'
        text = text.replace(here, f'"#/components/schemas/{named(definition)}"')
    whole = _without_const(orjson.loads(text))
    components = {named(definition): one for definition, one in whole["$defs"].items()}
    # Generators name a class by the title of its schema, which both forms of a manifest share.
    for keyword in ("$id", "$schema", "$defs", "title"):
        del whole[keyword]
    return {**components, name: whole | {"examples": [MANIFEST]}}


def _without_const(value: Any) -> Any:
    """Return a schema that says of a member with one value what type that has.

    Under ``const`` alone, generators find no type.
    """
    if isinstance(value, list):
        return [_without_const(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _without_const(one) for name, one in value.items()}
    if "const" in found:
        only = found.pop("const")
        kinds = {bool: "boolean", int: "integer", str: "string"}
        found |= {"type": kinds[type(only)], "enum": [only]}
    return found


def make_api(app: Flask) -> Api:
    """Return the registry that blueprints with documented endpoints are registered in."""
    plugin = SchemaPlugin(schema_name_resolver=_component_name)
    api = Api(
        app,
        spec_kwargs={
            "title": "AgentHub",
            "version": "1",
            "openapi_version": "3.1.0",
            "marshmallow_plugin": plugin,
            "info": {"description": DESCRIPTION},
            "servers": [{"url": "/", "description": "The service that serves this document."}],
        },
    )
    assert plugin.converter is not None  # noqa: S101 (the plugin makes it when it is initialized)
    plugin.converter.add_attribute_function(_described_document)  # type: ignore[no-untyped-call]
    for name, schema in (("Manifest", manifest_schema()), ("ManifestRequest", request_schema())):
        for component, described in _manifest_components(name, schema).items():
            api.spec.components.schema(component, described)
    api.spec.components.security_scheme(
        "ApiKey",
        {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "Made by an operator with `agenthub keys create`.",
        },
    )
    api.spec.components.security_scheme(
        "Bearer", {"type": "http", "scheme": "bearer", "description": "The same key as a token."}
    )
    return api


def register_documents(app: Flask, api: Api) -> None:
    """Serve ``/openapi.json`` and ``/docs``; call it after every endpoint is registered."""
    document = orjson.dumps(
        api.spec.to_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    )

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(document, content_type="application/json")

    @app.get("/docs")
    def docs() -> Response:
        response = app.send_static_file("docs.html")
        response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response
