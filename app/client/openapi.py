"""Capabilities from an OpenAPI document (3.0 or 3.1): one for each operation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from app.client.hub import HubError, JsonObject

MAX_CAPABILITIES = 200
_METHODS = ("get", "put", "post", "delete", "patch")
_SIDE_EFFECTS = {"get": "none", "delete": "high"}
_CATEGORIES = {"get": "retrieval"}
_COMPONENT = "#/components/schemas/"
# Members of schemas of OpenAPI 3.0 that JSON Schema does not know.
_FOREIGN = ("example", "xml", "discriminator", "externalDocs", "nullable")
_AUTH = {"apiKey": "api_key", "oauth2": "oauth2", "openIdConnect": "oauth2", "mutualTLS": "mTLS"}


def read_document(path: Path) -> JsonObject:
    """Read an OpenAPI document, in JSON or YAML. Raises ``HubError`` where the file holds none."""
    try:
        text = path.read_text()
        # JSON is YAML, but for times and numbers that YAML would read otherwise.
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except OSError as error:
        raise HubError(f"{path}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise HubError(f"{path} is neither JSON nor YAML: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("paths"), dict):
        raise HubError(f"{path} is no OpenAPI document: expected an object with paths")
    return found


def endpoint_of(document: Mapping[str, Any]) -> str | None:
    """Return the absolute URL of the first server, None where there is none."""
    for server in document.get("servers") or ():
        url = str(server.get("url", ""))
        if urlsplit(url).scheme in ("http", "https"):
            return url
    return None


def auth_of(document: Mapping[str, Any]) -> str:
    """Return how callers authenticate, as a manifest says it: by the first of the schemes."""
    schemes = (document.get("components") or {}).get("securitySchemes") or {}
    for scheme in schemes.values():
        found = _AUTH.get(str(scheme.get("type")))
        if found is None and scheme.get("type") == "http":
            found = "signed_jwt" if scheme.get("bearerFormat") == "JWT" else "api_key"
        if found:
            return found
    return "none"


def capabilities_of(document: JsonObject) -> list[JsonObject]:
    """Return a capability for each operation, at most as many as a manifest may have.

    Raises ``HubError`` where there is no operation.
    """
    found: dict[str, JsonObject] = {}
    for path, item in document["paths"].items():
        for method, operation in _operations(document, item):
            capability = _capability(document, path, method, item, operation)
            found.setdefault(capability["id"], capability)
    if not found:
        raise HubError("the OpenAPI document has no operation")
    return list(found.values())[:MAX_CAPABILITIES]


def _operations(document: JsonObject, item: Any) -> Iterator[tuple[str, JsonObject]]:
    item = _resolved(document, item)
    for method in _METHODS:
        if isinstance(item.get(method), dict):
            yield method, item[method]


def _capability(
    document: JsonObject, path: str, method: str, item: JsonObject, operation: JsonObject
) -> JsonObject:
    name = str(operation.get("operationId") or f"{method} {path}")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    identifier = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:128].strip("-") or method
    title = str(operation.get("summary") or name).strip()
    described = str(operation.get("description") or "").strip() or f"{title} ({method} {path})."
    side_effect = _SIDE_EFFECTS.get(method, "low")
    return {
        "id": identifier,
        "name": title[:200] if len(title) >= 3 else f"{method} {path}"[:200],
        "category": _CATEGORIES.get(method, "action"),
        "description": described[:4000] if len(described) >= 12 else f"{described} of the API",
        "input_schema": _bundled(document, _input(document, item, operation)),
        "output_schema": _bundled(document, _output(document, operation)),
        "protocols": ["HTTP"],
        "side_effect_level": side_effect,
    }


def _input(document: JsonObject, item: JsonObject, operation: JsonObject) -> JsonObject:
    """Return what an operation takes: its parameters, and its body as the member ``body``."""
    properties: JsonObject = {}
    required = []
    parameters = [*(item.get("parameters") or ()), *(operation.get("parameters") or ())]
    for given in parameters:
        parameter = _resolved(document, given)
        if parameter.get("in") not in ("path", "query"):
            continue
        schema = dict(parameter.get("schema") or {})
        if parameter.get("description"):
            schema.setdefault("description", parameter["description"])
        properties[parameter["name"]] = schema
        if parameter.get("required") and parameter["name"] not in required:
            required.append(parameter["name"])
    body = _resolved(document, operation.get("requestBody") or {})
    content = _json_schema(body)
    if content is not None:
        properties["body"] = content
        if body.get("required"):
            required.append("body")
    described: JsonObject = {"type": "object", "properties": properties}
    return described | ({"required": required} if required else {})


def _output(document: JsonObject, operation: JsonObject) -> JsonObject:
    """Return what an operation gives where it succeeds; any object where it does not say."""
    responses = operation.get("responses") or {}
    for status in sorted(map(str, responses)):
        if status.startswith("2"):
            given = responses.get(status) or responses.get(int(status) if status.isdigit() else 0)
            schema = _json_schema(_resolved(document, given or {}))
            if schema is not None:
                return schema
    return {"type": "object"}


def _json_schema(holder: JsonObject) -> JsonObject | None:
    for media_type, content in (holder.get("content") or {}).items():
        if "json" in media_type and isinstance(content.get("schema"), dict):
            found: JsonObject = content["schema"]
            return found
    return None


def _resolved(document: JsonObject, value: Any) -> JsonObject:
    """Return what a reference within the document leads to."""
    for _ in range(10):
        if not isinstance(value, dict) or "$ref" not in value:
            break
        target: Any = document
        for token in str(value["$ref"]).removeprefix("#/").split("/"):
            name = token.replace("~1", "/").replace("~0", "~")
            target = target.get(name, {}) if isinstance(target, dict) else {}
        value = target
    return value if isinstance(value, dict) else {}


def _bundled(document: JsonObject, schema: JsonObject) -> JsonObject:
    """Return a schema that stands alone: the components that it refers to are its ``$defs``."""
    components = (document.get("components") or {}).get("schemas") or {}
    wanted: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if not isinstance(value, dict):
            return value
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(_COMPONENT):
            name = reference.removeprefix(_COMPONENT)
            if name not in wanted:
                wanted[name] = None
                wanted[name] = plain(components.get(name) or {})
            return {"$ref": f"#/$defs/{name}"}
        kept = {
            name: _members(one, plain) if name == "properties" else plain(one)
            for name, one in value.items()
            if name not in _FOREIGN
        }
        return _of_openapi_30(kept, is_nullable=value.get("nullable") is True)

    found: JsonObject = plain(schema)
    if "type" not in found:
        # A manifest demands a type, which a reference alone does not show.
        target = _resolved(document, schema)
        found = {"type": target.get("type", "object"), "allOf": [found]}
    return found | ({"$defs": wanted} if wanted else {})


def _members(properties: Any, plain: Any) -> Any:
    """Return properties, whose names are no keywords."""
    if not isinstance(properties, dict):
        return plain(properties)
    return {name: plain(one) for name, one in properties.items()}


def _of_openapi_30(schema: JsonObject, *, is_nullable: bool) -> JsonObject:
    """Return what OpenAPI 3.0 says in its own way as JSON Schema 2020-12 says it."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True and limit in schema:
            schema[exclusive] = schema.pop(limit)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    if is_nullable and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    return schema
