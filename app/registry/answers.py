"""What the registry's endpoints answer, for the OpenAPI document.

Answers are built by ``app.registry.documents`` and spliced from stored JSON text, so these schemas
never serialize one; the tests hold every answer they see to them.
"""

from __future__ import annotations

import marshmallow as ma

from app.http.schemas import PaginationOut, Schema
from app.registry.examples import (
    CAPABILITY,
    CHANGES,
    EVALUATION,
    MANIFEST,
    SUMMARY,
    TRUST,
    USAGE,
)
from app.registry.schemas import CaseCount, ManifestField
from app.registry.trust import FAILURE, FLAGS, LIMITS, LOW, MEDIUM, SUCCESS, WEIGHTS


class EvalSummaryOut(Schema):
    """A version's latest evaluation; only ``status`` while it has none."""

    status = ma.fields.String(required=True, validate=ma.validate.OneOf(("pending", "evaluated")))
    evaluation_id = ma.fields.String()
    evaluations = ma.fields.Integer(metadata={"description": "How many are stored"})
    suite = ma.fields.String()
    evaluated_at = ma.fields.AwareDateTime()
    cases = ma.fields.Nested(CaseCount())
    metrics = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Float())

    example = SUMMARY


class TrustOut(Schema):
    """Trust from evidence: 0 to 100, and 0 with tier ``unrated`` while there is none."""

    score = ma.fields.Integer(required=True, validate=ma.validate.Range(min=0, max=100))
    tier = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("unrated", "low", "medium", "high"))
    )
    badge = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("none", "bronze", "silver", "gold"))
    )

    example = {name: TRUST[name] for name in ("score", "tier", "badge")}


class TrustComponentOut(Schema):
    """One kind of evidence: its score of 0 to 100, its share of the whole, and the counts."""

    name = ma.fields.String(required=True, validate=ma.validate.OneOf(tuple(WEIGHTS)))
    score = ma.fields.Integer(required=True, validate=ma.validate.Range(min=0, max=100))
    weight = ma.fields.Float(required=True)
    evidence = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)

    example = TRUST["breakdown"][0]


class TrustLimitOut(Schema):
    """What keeps a score down whatever the components say, and the most it allows."""

    reason = ma.fields.String(required=True, validate=ma.validate.OneOf(LIMITS))
    score_at_most = ma.fields.Integer(required=True, validate=ma.validate.OneOf((LOW, MEDIUM)))

    example = {"reason": "few_paying_owners", "score_at_most": MEDIUM}


class TrustReportOut(TrustOut):
    """Trust with its evidence. ``flags`` name conditions to know beside the score."""

    agent_id = ma.fields.String(required=True)
    explanation = ma.fields.String(required=True)
    breakdown = ma.fields.List(ma.fields.Nested(TrustComponentOut()), required=True)
    limits = ma.fields.List(ma.fields.Nested(TrustLimitOut()), required=True)
    flags = ma.fields.List(ma.fields.String(validate=ma.validate.OneOf(FLAGS)), required=True)

    example = TRUST


class OutcomeCountOut(Schema):
    """How many outcomes went well and badly."""

    succeeded = ma.fields.Integer(required=True)
    failed = ma.fields.Integer(required=True)

    example = USAGE["to_date"]


class UsageReportOut(Schema):
    """A stored report of usage, and what counts of all that its reporter has reported."""

    id = ma.fields.String(required=True)
    agent_id = ma.fields.String(required=True)
    outcome = ma.fields.String(required=True, validate=ma.validate.OneOf((SUCCESS, FAILURE)))
    count = ma.fields.Integer(required=True)
    note = ma.fields.String(required=True, allow_none=True)
    reported_at = ma.fields.AwareDateTime(required=True)
    independent = ma.fields.Boolean(
        required=True, metadata={"description": "Whether another owner than the publisher reports"}
    )
    to_date = ma.fields.Nested(OutcomeCountOut(), required=True)
    counted = ma.fields.Nested(OutcomeCountOut(), required=True)
    trust = ma.fields.Nested(TrustOut(), required=True)

    example = USAGE


class LineageOut(Schema):
    """What a fork was copied from."""

    agent_id = ma.fields.String(required=True)
    version = ma.fields.String(required=True)
    digest = ma.fields.String(required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "version": "1.0.0",
        "digest": "sha256:" + "0f" * 32,
    }


class AgentOut(Schema):
    """An agent with its latest version's manifest; ``versions`` are oldest first."""

    id = ma.fields.String(required=True)
    namespace = ma.fields.String(required=True)
    slug = ma.fields.String(required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf(("active", "deprecated")))
    latest_version = ma.fields.String(required=True)
    manifest = ManifestField(required=True)
    eval_summary = ma.fields.Nested(EvalSummaryOut(), required=True)
    trust = ma.fields.Nested(TrustOut(), required=True)
    versions = ma.fields.List(ma.fields.String(), required=True)
    forked_from = ma.fields.Nested(LineageOut(), required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(required=True)
    updated_at = ma.fields.AwareDateTime(
        required=True, metadata={"description": "Later after every change by the agent's owner"}
    )

    example = {
        "id": "@acme:invoice-summarizer",
        "namespace": "@acme",
        "slug": "invoice-summarizer",
        "status": "active",
        "latest_version": "1.0.0",
        "manifest": MANIFEST,
        "eval_summary": SUMMARY,
        "trust": TrustOut.example,
        "versions": ["1.0.0"],
        "forked_from": None,
        "created_at": "2026-11-20T08:00:00.000000Z",
        "updated_at": "2026-11-20T09:31:12.401928Z",
    }


class AgentListOut(Schema):
    """A page of agents by ascending id."""

    data = ma.fields.List(ma.fields.Nested(AgentOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {"data": [AgentOut.example], "pagination": PaginationOut.example}


class NamespaceOut(Schema):
    """A page of a namespace's agents by ascending id."""

    namespace = ma.fields.String(required=True)
    data = ma.fields.List(ma.fields.Nested(AgentOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "namespace": "@acme",
        "data": [AgentOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class DeprecatedOut(Schema):
    """A deprecated agent."""

    id = ma.fields.String(required=True)
    status = ma.fields.Constant("deprecated", required=True)

    example = {"id": "@acme:invoice-summarizer", "status": "deprecated"}


class CapabilityDeltaOut(Schema):
    """Capability ids that a version adds, removes, or changes."""

    added = ma.fields.List(ma.fields.String(), required=True)
    removed = ma.fields.List(ma.fields.String(), required=True)
    modified = ma.fields.List(ma.fields.String(), required=True)

    example = CHANGES["capability_delta"]


class ChangeOut(Schema):
    """One change in behaviour, with the names it concerns."""

    type = ma.fields.String(required=True)
    capability_id = ma.fields.String()
    fields_ = ma.fields.List(ma.fields.String(), data_key="fields")
    protocols = ma.fields.List(ma.fields.String())
    from_ = ma.fields.String(data_key="from")
    to = ma.fields.String()
    capability_ids = ma.fields.List(ma.fields.String())

    example = CHANGES["breaking_changes"][0]


class BehavioralDiffOut(Schema):
    """What changes for callers; the score is 2 for each breaking and 1 for each other change."""

    compatibility = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("breaking", "backward_compatible"))
    )
    risk_level = ma.fields.String(
        required=True, validate=ma.validate.OneOf(("low", "medium", "high"))
    )
    regression_risk_score = ma.fields.Integer(required=True)
    capability_delta = ma.fields.Nested(CapabilityDeltaOut(), required=True)
    breaking_changes = ma.fields.List(ma.fields.Nested(ChangeOut()), required=True)
    non_breaking_changes = ma.fields.List(ma.fields.Nested(ChangeOut()), required=True)

    example = CHANGES


class VersionEntryOut(Schema):
    """A version in the list of its agent's."""

    version = ma.fields.String(required=True)
    published = ma.fields.Constant(True, required=True)
    published_at = ma.fields.AwareDateTime(required=True)
    digest = ma.fields.String(required=True)
    eval_summary = ma.fields.Nested(EvalSummaryOut(), required=True)
    behavioral_impact_from_previous = ma.fields.Nested(
        BehavioralDiffOut(),
        required=True,
        allow_none=True,
        metadata={"description": "Against the version next below; null for the lowest"},
    )

    example = {
        "version": "1.1.0",
        "published": True,
        "published_at": "2026-11-21T08:00:00.000000Z",
        "digest": "sha256:" + "0f" * 32,
        "eval_summary": {"status": "pending"},
        "behavioral_impact_from_previous": CHANGES,
    }


class VersionListOut(Schema):
    """A page of an agent's versions, oldest first."""

    agent_id = ma.fields.String(required=True)
    versions = ma.fields.List(ma.fields.Nested(VersionEntryOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "versions": [VersionEntryOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }


class VersionOut(Schema):
    """A published version. ``digest`` is the SHA-256 of the manifest's RFC 8785 form."""

    agent_id = ma.fields.String(required=True)
    version = ma.fields.String(required=True)
    manifest = ManifestField(required=True)
    eval_summary = ma.fields.Nested(EvalSummaryOut(), required=True)
    digest = ma.fields.String(required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "version": "1.0.0",
        "manifest": MANIFEST,
        "eval_summary": SUMMARY,
        "digest": "sha256:" + "0f" * 32,
    }


class DiffOut(Schema):
    """The behavioral difference of two versions."""

    agent_id = ma.fields.String(required=True)
    base_version = ma.fields.String(required=True)
    target_version = ma.fields.String(required=True)
    diff = ma.fields.Nested(BehavioralDiffOut(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "base_version": "1.0.0",
        "target_version": "1.1.0",
        "diff": CHANGES,
    }


class ComparisonOut(Schema):
    """Two versions side by side; ``eval_delta`` is target minus base for each common metric."""

    agent_id = ma.fields.String(required=True)
    base_version = ma.fields.String(required=True)
    target_version = ma.fields.String(required=True)
    behavioral_diff = ma.fields.Nested(BehavioralDiffOut(), required=True)
    eval_base = ma.fields.Nested(EvalSummaryOut(), required=True)
    eval_target = ma.fields.Nested(EvalSummaryOut(), required=True)
    eval_delta = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Float(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "base_version": "1.0.0",
        "target_version": "1.1.0",
        "behavioral_diff": CHANGES,
        "eval_base": SUMMARY,
        "eval_target": {"status": "pending"},
        "eval_delta": {},
    }


class ForkOut(Schema):
    """The copy that a fork made."""

    source_agent_id = ma.fields.String(required=True)
    forked_agent = ma.fields.Nested(AgentOut(), required=True)

    example = {
        "source_agent_id": "@acme:invoice-summarizer",
        "forked_agent": {
            **AgentOut.example,
            "id": "@globex:invoice-summarizer",
            "namespace": "@globex",
            "forked_from": LineageOut.example,
        },
    }


class CapabilityEntryOut(Schema):
    """One capability of an agent's latest version."""

    capability_id = ma.fields.String(required=True)
    capability_name = ma.fields.String(required=True)
    description = ma.fields.String(required=True)
    protocols = ma.fields.List(ma.fields.String(), required=True)
    permissions = ma.fields.List(ma.fields.String(), required=True)
    input_schema = ma.fields.Dict(required=True)
    output_schema = ma.fields.Dict(required=True)

    example = CAPABILITY


class CapabilityListOut(Schema):
    """What an agent's latest version can do."""

    agent_id = ma.fields.String(required=True)
    version = ma.fields.String(required=True)
    capabilities = ma.fields.List(ma.fields.Nested(CapabilityEntryOut()), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "version": "1.0.0",
        "capabilities": [CapabilityEntryOut.example],
    }


class EvaluationOut(Schema):
    """One stored evaluation."""

    id = ma.fields.String(required=True)
    agent_id = ma.fields.String(required=True)
    version = ma.fields.String(required=True)
    suite = ma.fields.String(required=True)
    metrics = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Float(), required=True)
    cases = ma.fields.Nested(CaseCount(), required=True)
    evaluated_at = ma.fields.AwareDateTime(required=True)
    recorded_at = ma.fields.AwareDateTime(required=True)

    example = EVALUATION


class EvaluationListOut(Schema):
    """A page of a version's evaluations, newest first."""

    agent_id = ma.fields.String(required=True)
    version = ma.fields.String(required=True)
    evaluations = ma.fields.List(ma.fields.Nested(EvaluationOut()), required=True)
    pagination = ma.fields.Nested(PaginationOut(), required=True)

    example = {
        "agent_id": "@acme:invoice-summarizer",
        "version": "1.0.0",
        "evaluations": [EvaluationOut.example],
        "pagination": {"mode": "cursor", "limit": 100, "next_cursor": None},
    }
