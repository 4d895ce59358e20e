"""Liveness, readiness, and the meaning of problem codes."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import marshmallow as ma
import orjson
from flask import Response
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import clock
from app.clock import ClockImplausible
from app.errors import NotFound
from app.http.blueprint import Blueprint, refuse_query
from app.http.context import services
from app.http.problems import known_codes, response_name
from app.http.responses import json_response
from app.http.schemas import Schema
from app.ops.probe import FAULTS, UNAVAILABLE, code_of
from app.ops.restored import held_copy
from app.ops.timekeeping import watch_clock
from app.ops.tracks import CURRENT, read_tracks

# What any request may meet before its route.
BEFORE = {status: response_name(status) for status in (400, 421, 429)}
HEALTHY = orjson.dumps({"status": "ok"})

LINKS = {
    "agents": "/v1/agents",
    "catalogue": "/agents",
    "console": "/operator",
    "delegations": "/v1/delegations",
    "docs": "/docs",
    "health": "/healthz",
    "openapi": "/openapi.json",
    "readiness": "/readyz",
}

blueprint = Blueprint("service", __name__, description="The service itself.")


class HealthOut(Schema):
    """The process answers."""

    status = ma.fields.Constant("ok", required=True)

    example = {"status": "ok"}


class TrackOut(Schema):
    """One migration track."""

    scope = ma.fields.String(required=True)
    state = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("current", "behind", "absent", "unknown"))
    )
    revision = ma.fields.String(required=True, allow_none=True)
    head = ma.fields.String(required=True, allow_none=True)
    remedy = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "What mends the track"}
    )

    example = {
        "scope": "registry",
        "state": "behind",
        "revision": "registry_0001",
        "head": "registry_0002",
        "remedy": "alembic upgrade registry@head",
    }


class RestoredCopyOut(Schema):
    """A restored copy that sends no webhook and closes no delegation until it is activated."""

    taken_at = ma.fields.AwareDateTime(required=True)
    restored_at = ma.fields.AwareDateTime(required=True)

    example = {
        "taken_at": "2026-11-25T05:41:56.456252Z",
        "restored_at": "2026-11-26T08:00:00.000000Z",
    }


class ReadinessOut(Schema):
    """Whether requests can be served, and each track's state."""

    status = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("ready", "outdated", "unavailable"))
    )
    tracks = ma.fields.List(ma.fields.Nested(TrackOut()), required=True)
    restored_copy = ma.fields.Nested(
        RestoredCopyOut(),
        required=True,
        allow_none=True,
        metadata={"description": "Set while the database is a restored copy that is held"},
    )
    fault = ma.fields.String(
        required=True,
        allow_none=True,
        validate=ma.validate.OneOf((*FAULTS, ClockImplausible.code)),
        metadata={"description": "The problem code that a write would be answered with"},
    )

    clock_fault = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Why the clock cannot be right; writes are refused until it is"},
    )

    example: ClassVar[dict[str, Any]] = {
        "status": "outdated",
        "tracks": [TrackOut.example],
        "restored_copy": None,
        "fault": None,
        "clock_fault": None,
    }


class ServiceOut(Schema):
    """What answers here, and where its parts are."""

    name = ma.fields.Constant("AgentHub", required=True)
    version = ma.fields.String(required=True)
    links = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.String(),
        required=True,
        metadata={"description": "Paths by what is there"},
    )

    example: ClassVar[dict[str, Any]] = {"name": "AgentHub", "version": "0.2.0", "links": LINKS}


class ProblemCodeOut(Schema):
    """What a problem code means."""

    code = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    title = ma.fields.String(required=True)
    description = ma.fields.String(required=True)

    example = {
        "code": "version_exists",
        "status": 409,
        "title": "Conflict with the present state",
        "description": "The agent already has this version.",
    }


class ProblemCodeUnknown(NotFound):
    """No problem has this code."""

    code = "problem_code_unknown"


@blueprint.route("/healthz")
@blueprint.doc(responses=BEFORE, operationId="get_health")
@blueprint.response(200, HealthOut())
def get_health() -> Response:
    """Tell that the process answers.

    It asks nothing of the database; `GET /readyz` says whether requests can be served.
    """
    return Response(HEALTHY, content_type="application/json")


@blueprint.route("/readyz")
@blueprint.doc(responses=BEFORE, operationId="get_readiness")
@blueprint.alt_response(503, schema=ReadinessOut(), description="Not ready")
@blueprint.response(200, ReadinessOut())
def get_readiness() -> Response:
    """Tell whether the database takes writes and every migration track is current.

    A process writes for that once a second at most, however often it is asked.
    """
    database = services().database
    found: dict[str, Any] = {
        "tracks": [],
        "restored_copy": None,
        "fault": UNAVAILABLE,
        "clock_fault": None,
    }
    try:
        with database.read() as connection:
            tracks = read_tracks(connection)
            copy = held_copy(connection)
            is_current = all(track.state == CURRENT for track in tracks)
            if is_current:
                watch_clock(database, connection)
    except (DBAPIError, PoolTimeout) as error:
        found["fault"] = code_of(error) or UNAVAILABLE
        return _readiness("unavailable", found)
    if copy is not None:
        restored_at = clock.isoformat(copy.restored_at)
        found["restored_copy"] = {"taken_at": copy.taken_at, "restored_at": restored_at}
    found["tracks"] = [asdict(track) for track in tracks]
    found["clock_fault"] = database.clock_watch.fault()
    if found["clock_fault"] is not None:
        found["fault"] = ClockImplausible.code
    else:
        found["fault"] = services().write_probe.fault(database)
    if found["fault"] is not None:
        return _readiness("unavailable", found)
    return _readiness("ready" if is_current else "outdated", found)


def _readiness(status: str, found: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps({"status": status, **found}),
        status=200 if status == "ready" else 503,
        content_type="application/json",
    )


# Made twice by rivals, it would be the same.
_codes = cache(known_codes)


@blueprint.route("/problems/<code>")
@blueprint.doc(
    responses=BEFORE | {status: response_name(status) for status in (404, 422)},
    operationId="get_problem_code",
)
@blueprint.response(200, ProblemCodeOut())
def get_problem_code(code: str) -> Response:
    """Explain the code of a problem.

    The `type` of every error leads here.
    """
    refuse_query()
    known = _codes().get(code)
    if known is None:
        raise ProblemCodeUnknown("no problem has this code")
    kind, description = known
    return json_response(
        {
            "code": code,
            "status": int(kind.status),
            "title": kind.title,
            "description": description,
        }
    )


@blueprint.read("/v1", returns=ServiceOut(), conditional=True)
def get_service(connection: Connection) -> Response:
    """Say what answers here, in which version, and where its parts are.

    It is the address to begin with: nothing else has to be known.
    """
    release = metadata.version("agenthub")
    document = {"name": "AgentHub", "version": release, "links": LINKS}
    return json_response(document, etag=release)
