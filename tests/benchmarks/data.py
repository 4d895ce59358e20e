"""Databases of any number of agents, filled without the service: rows straight into its tables."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, insert, select

from app.access.models import Owner
from app.access.service import create_key
from app.canonical import canonical_json, digest
from app.config import Settings
from app.db import Base, Database
from app.ops.tracks import upgrade_all
from app.registry import semver
from app.registry.models import (
    Agent,
    AgentCount,
    Evaluation,
    EvaluationSummary,
    Namespace,
    Version,
)
from app.registry.service import ACTIVE, count_buckets
from tests.registry.manifests import build_capability, build_interface, build_manifest

NAMESPACE_SIZE = 100
VERSION = "1.0.0"
CHUNK = 2_000
OWNER = "benchmark"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
# fmt: off
WORDS = (
    "invoice", "ledger", "payment", "contract", "shipment", "customs", "parcel", "claim",
    "policy", "patient", "sensor", "turbine", "portfolio", "mortgage", "ticket", "refund",
    "warehouse", "supplier", "catalogue", "schedule", "payroll", "expense", "audit", "budget",
    "forecast", "translation", "transcript", "subtitle", "meeting", "calendar", "reminder",
    "complaint", "survey", "review", "address", "passport", "visa", "booking", "itinerary",
    "hotel", "flight", "vehicle", "repair", "insurance", "tariff", "recipe", "allergen", "dosage",
    "diagnosis", "laboratory", "sample", "genome", "molecule", "patent", "citation", "library",
    "archive", "photograph", "caption", "playlist", "melody", "chapter", "glossary", "exam",
    "grade", "timetable", "enrolment",
)
# fmt: on
Row = dict[str, Any]


def agent_id(number: int) -> str:
    """Return the id of the agent of this number."""
    return f"@bench-{number // NAMESPACE_SIZE:05d}:{slug(number)}"


def slug(number: int) -> str:
    """Return the slug of the agent of this number."""
    return f"{WORDS[number % len(WORDS)]}-agent-{number:06d}"


def manifest(number: int, version: str) -> str:
    """Return a valid manifest of about 3.5 KB in canonical form; 1,000 differ in more than names.

    Its members stay in canonical order whatever their values, so names are put in afterwards.
    """
    return template(number % 1000).replace("SLUG", slug(number)).replace("VERSION", version)


@cache
def template(seed: int) -> str:
    """Return a manifest in which SLUG and VERSION stand for the agent's own."""

    source = random.Random(seed)

    def sentence(words: int) -> str:
        return " ".join(source.choices(WORDS, k=words)).capitalize() + "."

    def schema(members: int) -> Row:
        names = source.sample(WORDS, members)
        kinds = ("string", "number", "boolean")
        properties = {
            name: {"type": source.choice(kinds), "description": sentence(5)} for name in names
        }
        return {"type": "object", "properties": properties, "required": sorted(names[:2])}

    capabilities = [
        build_capability(
            f"{source.choice(WORDS)}-{place}",
            name=sentence(3),
            description=sentence(12),
            input_schema=schema(4),
            output_schema=schema(3),
        )
        for place in range(2)
    ]
    document = build_manifest("SLUG", "VERSION", capabilities=capabilities)
    document["interfaces"] = [build_interface(endpoint="https://agents.example/SLUG")]
    document["identity"] |= {
        "name": sentence(3),
        "description": sentence(20),
        "tags": source.sample(WORDS, 4),
    }
    return canonical_json(document).decode()


def load(settings: Settings, agents: int) -> str:
    """Fill the empty database of ``settings`` with agents and return an API key that owns them."""
    upgrade_all(settings)
    database = Database(settings)
    assert settings.key_pepper is not None
    with database.transaction() as session:
        key = create_key(session, settings.key_pepper.encode(), OWNER, "developer")
        owner_id = session.scalars(select(Owner.id).where(Owner.name == OWNER)).one()
        for first in range(0, agents, CHUNK):
            _insert(session.connection(), owner_id, range(first, min(first + CHUNK, agents)))
        counts = Counter(
            bucket for number in range(agents) for bucket in count_buckets(agent_id(number))
        )
        rows = [
            {"bucket": name, "status": ACTIVE, "agents": count} for name, count in counts.items()
        ]
        session.connection().execute(insert(AgentCount), rows)
    settle(database)
    database.dispose()
    return key.secret


def settle(database: Database) -> None:
    """Do what a server does in the background sooner or later, and not during a measurement."""
    with database.writer.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        if database.settings.is_sqlite:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            raw.autocommit = True
            raw.execute("VACUUM (ANALYZE)")
            raw.execute("CHECKPOINT")
            raw.autocommit = False


def _insert(connection: Connection, owner_id: str, numbers: range) -> None:
    """Insert the agents of these numbers with everything that belongs to them."""
    rows: dict[type[Base], list[Row]] = {
        entity: [] for entity in (Namespace, Agent, Version, Evaluation, EvaluationSummary)
    }
    for number in numbers:
        for entity, row in _rows(number, owner_id):
            rows[entity].append(row)
    for entity, found in rows.items():
        if found:
            connection.execute(insert(entity), found)


def _rows(number: int, owner_id: str) -> Iterator[tuple[type[Base], Row]]:
    """Yield an agent's rows: one version, and one evaluation of every second agent."""
    identity, moment = agent_id(number), EPOCH + timedelta(seconds=number)
    namespace = identity.partition(":")[0]
    evaluated = number % 2 == 0
    if number % NAMESPACE_SIZE == 0:
        yield Namespace, {"name": namespace, "owner_id": owner_id, "created_at": moment}
    yield (
        Agent,
        {
            "id": identity,
            "namespace": namespace,
            "slug": slug(number),
            "status": ACTIVE,
            "latest_version": VERSION,
            "revision": 2 if evaluated else 1,
            "eval_cases_passed": 47 if evaluated else 0,
            "eval_cases_total": 50 if evaluated else 0,
            "created_at": moment,
            "updated_at": moment,
        },
    )
    text = manifest(number, VERSION)
    yield (
        Version,
        {
            "agent_id": identity,
            "version": VERSION,
            "sequence": 1,
            "precedence": semver.precedence_key(VERSION),
            "prerelease": False,
            "manifest": text,
            "digest": digest(text.encode()),
            "published_at": moment,
        },
    )
    if evaluated:
        yield from _evaluation_rows(identity, owner_id, moment)


def _evaluation_rows(
    identity: str, owner_id: str, moment: datetime
) -> Iterator[tuple[type[Base], Row]]:
    evaluation_id = hashlib.sha256(identity.encode()).hexdigest()[:36]
    cases, metrics = {"passed": 47, "total": 50}, {"accuracy": 0.94, "p95_latency_ms": 830}
    yield (
        Evaluation,
        {
            "id": evaluation_id,
            "agent_id": identity,
            "version": VERSION,
            "suite": "acceptance",
            "metrics": orjson.dumps(metrics).decode(),
            "cases_passed": cases["passed"],
            "cases_total": cases["total"],
            "evaluated_at": moment,
            "recorded_at": moment,
            "recorded_by": owner_id,
        },
    )
    summary = {
        "status": "evaluated",
        "evaluation_id": evaluation_id,
        "evaluations": 1,
        "suite": "acceptance",
        "evaluated_at": moment.isoformat(),
        "cases": cases,
        "metrics": metrics,
    }
    yield (
        EvaluationSummary,
        {
            "agent_id": identity,
            "version": VERSION,
            "evaluations": 1,
            "summary": orjson.dumps(summary).decode(),
        },
    )
