"""Builders of valid manifests; every call returns values no other test can reach."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def build_capability(id: str = "summarize-invoice", **overrides: Any) -> Document:
    """Return a valid capability with the given members replaced."""
    capability: Document = {
        "id": id,
        "name": "Summarize invoice",
        "category": "transformation",
        "description": "Turns an invoice into totals and a short summary.",
        "input_schema": {
            "type": "object",
            "properties": {
                "invoice_text": {"type": "string", "maxLength": 20000},
                "locale": {"type": "string"},
            },
            "required": ["invoice_text"],
        },
        "output_schema": {
            "type": "object",
            "properties": {"summary": {"type": "string"}, "total": {"type": "number"}},
            "required": ["summary", "total"],
        },
        "protocols": ["MCP", "HTTP"],
        "permissions": ["invoice.read"],
        "idempotency_key_required": False,
        "idempotent": True,
        "side_effect_level": "none",
        "cost": {"mode": "token", "estimated_cost": 0.012, "unit": "1k_tokens"},
    }
    return capability | overrides


def build_interface(**overrides: Any) -> Document:
    """Return a valid interface with the given members replaced."""
    interface: Document = {
        "name": "primary-mcp",
        "protocol": "MCP",
        "endpoint": "https://agents.example.com/mcp/invoice-summarizer",
        "auth": "signed_jwt",
        "privileged": False,
        "rate_limit": {"requests_per_minute": 120},
    }
    return interface | overrides


def build_manifest(
    slug: str = "invoice-summarizer", version: str = "1.0.0", **sections: Any
) -> Document:
    """Return a valid manifest of one capability with the given sections replaced or added."""
    manifest: Document = {
        "schema_version": "0.1",
        "identity": {
            "id": slug,
            "name": "Invoice Summarizer",
            "version": version,
            "description": "Extracts totals and due dates from invoices.",
            "owner": "acme-finance",
            "type": "service",
            "tags": ["finance", "invoices"],
        },
        "capabilities": [build_capability()],
        "interfaces": [build_interface()],
        "trust": {
            "minimum_trust_score": 0.7,
            "allowed_trust_sources": ["first_party", "partner"],
            "policy": {
                "injection_protection": "strict",
                "pii_handling": "mask",
                "data_retention_days": 30,
                "high_risk_approval_required": True,
            },
            "budget_guardrails": {
                "soft_alert_pct": 80,
                "reauthorization_pct": 100,
                "hard_stop_pct": 120,
            },
            "credential_policy": {"short_lived_credentials": True, "max_ttl_minutes": 60},
        },
        "runtime": {
            "execution_mode": "deterministic_workflow",
            "sandbox": "container",
            "max_retries": 2,
            "timeout_seconds": 30,
            "idempotency_required": True,
            "replay_safe": True,
            "observability": {
                "log_privileged_actions": True,
                "emit_cost_metrics": True,
                "emit_latency_metrics": True,
            },
        },
    }
    return manifest | sections


def build_full_manifest() -> Document:
    """Return a valid manifest in which every optional section and member is present."""
    manifest = build_manifest(
        requirements={
            "dependencies": [
                {"name": "@acme:ocr", "version_constraint": ">=1.2 <2", "optional": True}
            ],
            "permissions": ["storage.read"],
            "secrets": [{"id": "erp", "secret_ref": "vault://finance/erp"}],
            "budget": {"currency": "USD", "per_task_limit": 0.5, "monthly_limit": 200},
        },
        composition={
            "type": "pipeline",
            "deterministic": True,
            "steps": [
                {"id": "read", "capability_ref": "summarize-invoice", "on_failure": "retry"},
                {"id": "sum", "capability_ref": "summarize-invoice", "on_failure": "abort"},
            ],
        },
        provenance={
            "created_at": "2026-01-05T09:30:00Z",
            "updated_at": "2026-02-01T00:00:00+01:00",
            "source": "first_party",
            "source_repo": "https://git.example.com/acme/invoice-summarizer",
            "commit": "0a1b2c3d4e",
            "maintainer_contact": "finance@example.com",
        },
    )
    manifest["trust"]["policy"]["human_approval_actions"] = ["payment.release"]
    manifest["interfaces"] = [
        build_interface(
            privileged=True,
            permissions=["invoice.read"],
            schema_ref="https://agents.example.com/mcp/schema.json",
        )
    ]
    return manifest
