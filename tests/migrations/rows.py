"""Rows for every table of every scope, so that migrations are tested on databases in use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.config import Settings
from app.scopes import SCOPES
from tests.migrations.project import connect

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

OWNER = "00000000-0000-7000-8000-000000000001"
ACCESS: dict[str, dict[str, Any]] = {
    "access_owners": {"id": OWNER, "name": "acme", "created_at": NOW},
    "access_api_keys": {
        "id": "key0000000000001",
        "owner_id": OWNER,
        "role": "developer",
        "secret_hash": "0" * 64,
        "created_at": NOW,
    },
}
ACCESS["access_ended_sessions"] = {"id": "s" * 43, "over_at": NOW}
ACCESS["access_request_counts"] = {
    "key_id": "key0000000000001",
    "minute": 29_456_789,
    "requests": 7,
}
ACCESS["access_admin_actions"] = {
    "id": "00000000-0000-7000-8000-000000000009",
    "at": NOW,
    "actor": "root@localhost",
    "key_id": None,
    "action": "keys create",
    "target": "key0000000000001 of acme, developer",
    "outcome": "done",
    "request_id": None,
}
IDEMPOTENCY: dict[str, dict[str, Any]] = {
    "idempotency_keys": {
        "principal": OWNER,
        "key": "first",
        "request_hash": "0" * 64,
        "method": "POST",
        "route": "/agents",
        "status_code": 201,
        "response_body": b"{}",
        "created_at": NOW,
        "body_expires_at": NOW,
    },
}
REGISTRY: dict[str, dict[str, Any]] = {
    "registry_namespaces": {"name": "@acme", "owner_id": OWNER, "created_at": NOW},
    "registry_agent_counts": {"bucket": "@acme", "status": "active", "agents": 1},
    "registry_agents": {
        "id": "@acme:mailer",
        "namespace": "@acme",
        "slug": "mailer",
        "status": "active",
        "latest_version": "1.0.0",
        "revision": 1,
        "eval_cases_passed": 1,
        "eval_cases_total": 2,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "registry_owner_usage": {
        "owner_id": OWNER,
        "namespaces": 1,
        "agents": 1,
        "versions": 1,
        "manifest_bytes": 2,
    },
    "registry_versions": {
        "agent_id": "@acme:mailer",
        "version": "1.0.0",
        "sequence": 1,
        "precedence": "1.0.0",
        "prerelease": False,
        "manifest": "{}",
        "digest": "sha256:" + "0" * 64,
        "published_at": NOW,
    },
    "registry_version_impacts": {
        "agent_id": "@acme:mailer",
        "version": "1.0.0",
        "impact": "{}",
    },
    "registry_evaluations": {
        "id": "00000000-0000-7000-8000-000000000002",
        "agent_id": "@acme:mailer",
        "version": "1.0.0",
        "suite": "smoke",
        "metrics": "{}",
        "cases_passed": 1,
        "cases_total": 2,
        "evaluated_at": NOW,
        "recorded_at": NOW,
        "recorded_by": OWNER,
    },
    "registry_evaluation_summaries": {
        "agent_id": "@acme:mailer",
        "version": "1.0.0",
        "evaluations": 1,
        "summary": "{}",
    },
    "registry_trust_evidence": {
        "agent_id": "@acme:mailer",
        "delegations_completed": 3,
        "delegations_failed": 1,
        "usage_succeeded": 2,
        "usage_failed": 0,
        "usage_reporters": 1,
        "usage_over_limit": 0,
        "usage_by_publisher": 0,
        "delegations_unpaid": 0,
        "completed_milli": 3000,
        "failed_milli": 750,
        "say_milli": 250,
        "paying_owners": 1,
        "own_micros": 10_000_000,
        "usage_payers": 1,
        "usage_good_milli": 2000,
        "usage_bad_milli": 0,
        "usage_unpaid": 0,
    },
    "registry_trust_counterparties": {
        "agent_id": "@acme:mailer",
        "owner_id": OWNER,
        "completed": 3,
        "failed": 1,
        "own_micros": 10_000_000,
        "first_paid_at": NOW,
        "last_paid_at": NOW,
        "usage_succeeded": 2,
        "usage_failed": 0,
    },
    "registry_usage_reports": {
        "id": "00000000-0000-7000-8000-000000000004",
        "agent_id": "@acme:mailer",
        "reported_by": OWNER,
        "independent": True,
        "sequence": 1,
        "outcome": "success",
        "count": 2,
        "note": "nightly run",
        "succeeded_to_date": 2,
        "failed_to_date": 0,
        "reported_at": NOW,
    },
}

LEDGER: dict[str, Any] = {
    # A posting needs two accounts.
    "ledger_accounts": [
        {
            "id": "agent:@acme:mailer",
            "kind": "agent",
            "debits_micros": 0,
            "credits_micros": 5,
            "created_at": NOW,
        },
        {
            "id": "sys:world",
            "kind": "system",
            "debits_micros": 0,
            "credits_micros": 0,
            "created_at": NOW,
        },
    ],
    "ledger_transactions": {
        "seq": 1,
        "id": "00000000-0000-7000-8000-000000000003",
        "kind": "topup",
        "dedupe_key": f"topup:{OWNER}:first",
        "actor": OWNER,
        "meta": "{}",
        "effective_at": NOW,
        "created_at": NOW,
    },
    "ledger_postings": {
        "seq": 1,
        "leg": 1,
        "debit_account": "sys:world",
        "credit_account": "agent:@acme:mailer",
        "amount_micros": 5,
    },
    "ledger_metering_events": {
        "seq": 1,
        "source": "service",
        "event_id": "first",
        "payload_hash": "0" * 64,
        "actor": "@acme:mailer",
        "owner_id": OWNER,
        "operation": "agent.register",
        "cost_micros": 0,
        "metadata": "{}",
        "occurred_at": NOW,
        "recorded_at": NOW,
    },
    "ledger_seals": {
        "block": 1,
        "first_seq": 1,
        "last_seq": 1,
        "leaves": b"0" * 32,
        "root": "0" * 64,
        "previous_hash": "0" * 64,
        "hash": "0" * 64,
        "sealed_at": NOW,
    },
}

DELEGATION: dict[str, Any] = {
    "delegation_delegations": {
        "id": "00000000-0000-7000-8000-000000000004",
        "execution": "remote",
        "status": "offered",
        "revision": 1,
        "events": 1,
        "requester_agent_id": "@acme:mailer",
        "requester_owner_id": OWNER,
        "delegate_agent_id": "@acme:reader",
        "delegate_owner_id": OWNER,
        "delegate_version": "1.0.0",
        "delegate_digest": "sha256:" + "0" * 64,
        "task_spec": "Read it",
        "estimated_micros": 5,
        "max_budget_micros": 5,
        "authorized_micros": 5,
        "metered_micros": 0,
        "held_micros": 5,
        "released_micros": 0,
        "settlement": "open",
        "breaker_level": 0,
        "auto_reauthorize": True,
        "simulated": False,
        "policy_decision": "{}",
        "lease_seconds": 60,
        "deadline_seconds": 60,
        "review_seconds": 60,
        "lease_number": 0,
        "silent_takeovers": 0,
        "delegate_min_deadline_seconds": 30,
        "due_at": NOW,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "delegation_events": {
        "delegation_id": "00000000-0000-7000-8000-000000000004",
        "number": 1,
        "kind": "created",
        "status": "offered",
        "actor": "@acme:mailer",
        "details": "{}",
        "at": NOW,
    },
    "delegation_acceptance_rules": {
        "agent_id": "@acme:reader",
        "allowed_owners": None,
        "denied_owners": "{}",
        "takes_inline": True,
        "smallest_estimate_micros": 1,
        "shortest_deadline_seconds": 60,
        "shortest_lease_seconds": None,
        "most_live_offers": 1000,
        "updated_at": NOW,
    },
    "delegation_offer_queues": {
        "delegate_agent_id": "@acme:reader",
        "requester_owner_id": OWNER,
        "turn": 1,
    },
    "delegation_owner_turnovers": {
        "owner_id": OWNER,
        "earned_micros": 3,
        "spent_micros": 5,
        "own_micros": 5,
    },
    "delegation_cutovers": {"name": "reviews", "at": NOW},
    "delegation_import_runs": {
        "kind": "records",
        "file": "records.json",
        "sha256": "0" * 64,
        "rows": 1,
        "finished_at": NOW,
    },
    "delegation_legacy_records": {
        "id": "del-17",
        "number": 0,
        "requester_agent_id": "@acme:mailer",
        "delegate_agent_id": "@acme:reader",
        "status": "completed",
        "record": "{}",
        "created_at": NOW,
        "updated_at": NOW,
    },
}

WEBHOOK, MESSAGE = (f"00000000-0000-7000-8000-00000000000{n}" for n in (5, 6))
NOTIFICATION: dict[str, Any] = {
    "notification_subscriptions": {
        "id": WEBHOOK,
        "owner_id": OWNER,
        "url": "https://example.com/hooks",
        "event_types": '["*"]',
        "description": "",
        "status": "active",
        "secret_salt": "s" * 43,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "notification_events": {
        "id": MESSAGE,
        "type": "agent.registered",
        "payload": "{}",
        "occurred_at": NOW,
    },
    "notification_deliveries": {
        "id": "00000000-0000-7000-8000-000000000007",
        "event_id": MESSAGE,
        "subscription_id": WEBHOOK,
        "status": "pending",
        "attempts": 1,
        "failures": 1,
        "next_attempt_at": NOW,
        "created_at": NOW,
    },
}

# Rows of every table, parents first. A table that is missing here fails test_rows.py.
ROWS: dict[str, dict[str, Any]] = {
    "access": ACCESS,
    "idempotency": IDEMPOTENCY,
    "registry": REGISTRY,
    "ledger": LEDGER,
    "delegation": DELEGATION,
    "notification": NOTIFICATION,
}


def rows_of(scope: str, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    found = ROWS[scope][table]
    return found if isinstance(found, list) else [found]


def insert_rows(settings: Settings, *scopes: str) -> None:
    """Insert rows into every table of the given scopes (default: all) at their newest revision."""
    with connect(settings) as connection:
        for scope in scopes or SCOPES:
            for name in ROWS[scope]:
                table = sa.Table(name, sa.MetaData(), autoload_with=connection)
                connection.execute(table.insert(), rows_of(scope, name))
