"""What the registry's endpoints read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import marshmallow as ma

from app import clock
from app.canonical import Canonical
from app.http.context import services
from app.http.fields import FullMatch, JsonDocument, JsonInteger, JsonNumber, Moment, PlainText
from app.http.schemas import Schema
from app.registry import manifest
from app.registry.examples import MANIFEST
from app.registry.manifest_format import complete
from app.registry.names import MAX_SLUG_LENGTH, NAMESPACE, SLUG, normalize_namespace
from app.registry.trust import FAILURE, SUCCESS

MAX_AMOUNT = 1_000_000_000
_NAMESPACE_FORM = "@ and 2 to 63 of a-z, 0-9, _ and -, the first not _ or -"


def _namespace(**arguments: Any) -> ma.fields.String:
    rule = FullMatch(NAMESPACE, _NAMESPACE_FORM)
    return ma.fields.String(validate=rule, **arguments)


class NamespaceName(ma.fields.String):
    """A namespace to look for, with or without its ``@``; deserialized with it."""

    def __init__(self, **arguments: Any) -> None:
        rule = FullMatch(f"@?{NAMESPACE[1:]}", _NAMESPACE_FORM)
        super().__init__(validate=rule, **arguments)

    def deserialize(self, value: Any, *arguments: Any, **named: Any) -> Any:
        """Return the namespace with its sign."""
        found = super().deserialize(value, *arguments, **named)
        return normalize_namespace(found) if isinstance(found, str) else found


class ManifestField(JsonDocument):
    """A complete manifest in canonical form; one that is too large is refused here.

    Members that were left out are filled in. What breaks format 0.1 is found later, when the caller
    is known to own where it goes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__({"$ref": "#/components/schemas/ManifestRequest"}, **arguments)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Canonical:
        canonical = Canonical.of(complete(super()._deserialize(value, attr, data, **kwargs)))
        limit = services().settings.max_manifest_bytes
        if len(canonical.encoded) > limit:
            raise ma.ValidationError([{"pointer": "", **manifest.too_large(canonical, limit)}])
        return canonical


def _violations(given: object) -> list[manifest.Violation]:
    return manifest.validate(complete(given))


class _OfManifest(Schema):
    """A request whose manifest is looked into at once if anything else in it is at fault."""

    def handle_error(
        self, error: ma.ValidationError, data: Any, *, many: bool, **kwargs: Any
    ) -> None:
        """Add what the manifest breaks, so that all is reported at once."""
        messages = error.messages
        if isinstance(data, dict) and isinstance(messages, dict) and "manifest" not in messages:
            found = [asdict(violation) for violation in _violations(data["manifest"])]
            if found:
                raise ma.ValidationError({**messages, "manifest": found})


class RegisterAgent(_OfManifest):
    """A new agent: where it lives, and its first version's manifest."""

    namespace = _namespace(required=True)
    manifest = ManifestField(required=True)

    example = {"namespace": "@acme", "manifest": MANIFEST}


class PublishVersion(_OfManifest):
    """A further version of an agent; ``identity.id`` is the agent's own."""

    manifest = ManifestField(required=True)

    example = {"manifest": MANIFEST}


class ForkAgent(Schema):
    """Where a copy of an agent's latest version goes."""

    namespace = _namespace(required=True)
    new_slug = ma.fields.String(
        required=True,
        validate=[
            ma.validate.Length(max=MAX_SLUG_LENGTH),
            FullMatch(SLUG, "a-z and 0-9 in groups joined by one of . _ -"),
        ],
    )

    example = {"namespace": "@globex", "new_slug": "invoice-summarizer"}


class CaseCount(Schema):
    """How many of an evaluation's cases passed."""

    passed = JsonInteger(required=True, validate=ma.validate.Range(min=0, max=MAX_AMOUNT))
    total = JsonInteger(required=True, validate=ma.validate.Range(min=0, max=MAX_AMOUNT))

    example = {"passed": 47, "total": 50}

    @ma.validates_schema
    def _passed_within_total(self, data: dict[str, int], **_: Any) -> None:
        if data["passed"] > data["total"]:
            raise ma.ValidationError("expected at most as many as total", "passed")


def _plausible_moment(moment: datetime) -> None:
    if not datetime(2000, 1, 1, tzinfo=UTC) <= moment <= clock.now() + timedelta(minutes=5):
        raise ma.ValidationError("expected a time between the year 2000 and now")


class RecordEvaluation(Schema):
    """A result measured for one version."""

    suite = ma.fields.String(
        required=True,
        validate=[
            ma.validate.Length(min=1, max=128),
            FullMatch(r"[!-~]([ -~]*[!-~])?", "printable ASCII without space at either end"),
        ],
    )
    metrics = ma.fields.Dict(
        keys=ma.fields.String(
            validate=FullMatch(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}", "a name of at most 64 characters")
        ),
        values=JsonNumber(validate=ma.validate.Range(min=-MAX_AMOUNT, max=MAX_AMOUNT)),
        required=True,
        validate=ma.validate.Length(min=1, max=64),
    )
    cases = ma.fields.Nested(CaseCount(), load_default=lambda: {"passed": 0, "total": 0})
    evaluated_at = Moment(
        format="iso",
        load_default=None,
        allow_none=True,
        validate=_plausible_moment,
        metadata={"description": "When it was measured; the time of the request if left out"},
    )

    example = {
        "suite": "invoices-2026-11",
        "metrics": {"accuracy": 0.94, "p95_latency_ms": 830},
        "cases": {"passed": 47, "total": 50},
        "evaluated_at": "2026-11-20T09:30:00Z",
    }


class ReportUsage(Schema):
    """How using an agent went, ``count`` times alike."""

    outcome = ma.fields.String(required=True, validate=ma.validate.OneOf((SUCCESS, FAILURE)))
    count = JsonInteger(load_default=1, validate=ma.validate.Range(min=1, max=1000))
    note = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=[ma.validate.Length(min=1, max=500), PlainText(lines=True)],
    )

    example = {"outcome": "success", "count": 25, "note": "Invoices of the first week."}


class AgentListQuery(Schema):
    """Which agents, and which page of them: by ``offset``, or stably by ``cursor``."""

    namespace = NamespaceName(load_default=None)
    status = ma.fields.String(
        load_default=None, validate=ma.validate.OneOf(("active", "deprecated"))
    )
    offset = ma.fields.Integer(load_default=None, validate=ma.validate.Range(min=0, max=MAX_AMOUNT))
    limit = ma.fields.Integer(load_default=20, validate=ma.validate.Range(min=1, max=100))
    cursor = ma.fields.String(
        load_default=None,
        validate=ma.validate.Length(min=1, max=512),
        metadata={"description": "`next_cursor` of the page before; excludes `offset`"},
    )

    example = {"namespace": "@acme", "status": "active", "limit": 20}

    @ma.validates_schema
    def _one_mode(self, data: dict[str, Any], **_: Any) -> None:
        if data["offset"] is not None and data["cursor"] is not None:
            raise ma.ValidationError("expected offset or cursor, not both", "cursor")
