"""A client for the tests: sends the headers a write needs and checks every answer it sees."""

from __future__ import annotations

import json
import uuid
from typing import Any

import jsonschema_rs
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.http.responses import EVENT_STREAM


class Contract:
    """The service's own OpenAPI document, to hold its answers to."""

    def __init__(self, app: Flask) -> None:
        self.document: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def check(self, response: TestResponse) -> None:
        """Fail unless the answer's status, media type and body are documented."""
        rule = response.request.environ.get("agenthub.rule")
        if rule is None:
            return
        operation = self.document["paths"][rule][response.request.method.lower()]
        documented = operation["responses"].get(str(response.status_code))
        assert documented is not None, f"{response.status_code} of {rule} is not documented"
        if "$ref" in documented:
            documented = self.document["components"]["responses"][documented["$ref"].split("/")[-1]]
        content = documented.get("content", {})
        if not content:
            return
        assert response.mimetype in content, f"{rule} answers {response.mimetype}"
        schema = content[response.mimetype]["schema"]
        if response.mimetype == EVENT_STREAM:
            # Each event's data is a text that the schema says more of.
            schema = {"$ref": f"{schema['$ref']}/properties/data/contentSchema"}
        validator = self._validator(rule, response, schema)
        for document in documents(response):
            validator.validate(document)

    def _validator(
        self, rule: str, response: TestResponse, schema: dict[str, Any]
    ) -> jsonschema_rs.Draft202012Validator:
        name = f"{response.request.method} {rule} {response.status_code}"
        if name not in self._validators:
            self._validators[name] = jsonschema_rs.Draft202012Validator(
                {**schema, "components": self.document["components"]}, validate_formats=True
            )
        return self._validators[name]


def documents(response: TestResponse) -> list[Any]:
    """Return the JSON documents of an answer: one, or those of the events of a stream."""
    if response.mimetype != EVENT_STREAM:
        return [response.get_json()]
    lines = response.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


class Api:
    """Requests of one caller; ``key`` None is a caller without an API key."""

    def __init__(self, client: FlaskClient, contract: Contract, key: str | None) -> None:
        self.client = client
        self.contract = contract
        self.key = key

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        idempotency_key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> TestResponse:
        """Send a request; a write gets a fresh idempotency key unless one is given."""
        sent = dict(headers or {})
        if self.key is not None:
            sent.setdefault("X-API-Key", self.key)
        if method != "GET":
            sent.setdefault("Idempotency-Key", idempotency_key or uuid.uuid4().hex)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
            response = self.client.open(path, method=method, data=data, headers=sent)
        else:
            response = self.client.open(path, method=method, json=json, headers=sent)
        self.contract.check(response)
        return response

    def get(self, path: str, **arguments: Any) -> TestResponse:
        """Send a GET."""
        return self.request("GET", path, **arguments)

    def post(self, path: str, json: Any = None, **arguments: Any) -> TestResponse:
        """Send a POST."""
        return self.request("POST", path, json=json, **arguments)

    def put(self, path: str, json: Any = None, **arguments: Any) -> TestResponse:
        """Send a PUT."""
        return self.request("PUT", path, json=json, **arguments)

    def delete(self, path: str, **arguments: Any) -> TestResponse:
        """Send a DELETE."""
        return self.request("DELETE", path, **arguments)
