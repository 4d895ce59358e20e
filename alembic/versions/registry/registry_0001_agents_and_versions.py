"""Namespaces, agents, immutable versions, evaluations."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "registry_0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = ("registry",)
depends_on: None = None

# Published versions and recorded evaluations never change, whoever asks.
APPEND_ONLY = ("registry_versions", "registry_evaluations")


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    create_agents()
    create_versions()
    create_evaluations()
    for table in APPEND_ONLY:
        make_append_only(table)


def create_agents() -> None:
    op.create_table(
        "registry_namespaces",
        sa.Column("name", bytewise(64), nullable=False),
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_namespaces")),
    )
    op.create_index(op.f("ix_registry_namespaces_owner_id"), "registry_namespaces", ["owner_id"])
    op.create_table(
        "registry_agent_counts",
        sa.Column("bucket", bytewise(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("agents", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "agents >= 0", name=op.f("ck_registry_agent_counts_agents_not_negative")
        ),
        sa.PrimaryKeyConstraint("bucket", "status", name=op.f("pk_registry_agent_counts")),
    )
    op.create_table(
        "registry_agents",
        sa.Column("id", bytewise(193), nullable=False),
        sa.Column("namespace", bytewise(64), nullable=False),
        sa.Column("slug", bytewise(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("latest_version", bytewise(128), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("eval_cases_passed", sa.BigInteger(), nullable=False),
        sa.Column("eval_cases_total", sa.BigInteger(), nullable=False),
        sa.Column("forked_from_agent_id", bytewise(193), nullable=True),
        sa.Column("forked_from_version", bytewise(128), nullable=True),
        sa.Column("forked_from_digest", sa.String(71), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('active', 'deprecated')", name=op.f("ck_registry_agents_status_known")
        ),
        sa.CheckConstraint(
            "id = namespace || ':' || slug", name=op.f("ck_registry_agents_id_composed")
        ),
        sa.CheckConstraint(
            "eval_cases_passed >= 0 AND eval_cases_passed <= eval_cases_total",
            name=op.f("ck_registry_agents_eval_cases"),
        ),
        sa.ForeignKeyConstraint(
            ["namespace"], ["registry_namespaces.name"], name=op.f("fk_registry_agents_namespace")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_agents")),
    )
    op.create_index(
        "ix_registry_agents_namespace_status_id", "registry_agents", ["namespace", "status", "id"]
    )
    op.create_index("ix_registry_agents_namespace_id", "registry_agents", ["namespace", "id"])
    op.create_index("ix_registry_agents_status_id", "registry_agents", ["status", "id"])


def create_versions() -> None:
    op.create_table(
        "registry_versions",
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("version", bytewise(128), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("precedence", bytewise(1024), nullable=False),
        sa.Column("prerelease", sa.Boolean(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("impact_from_previous", sa.Text(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_registry_versions_sequence_positive")),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["registry_agents.id"], name=op.f("fk_registry_versions_agent_id")
        ),
        sa.PrimaryKeyConstraint("agent_id", "version", name=op.f("pk_registry_versions")),
        sa.UniqueConstraint(
            "agent_id", "precedence", name=op.f("uq_registry_versions_agent_id_precedence")
        ),
        sa.UniqueConstraint(
            "agent_id", "sequence", name=op.f("uq_registry_versions_agent_id_sequence")
        ),
    )


def create_evaluations() -> None:
    op.create_table(
        "registry_evaluations",
        sa.Column("id", bytewise(36), nullable=False),
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("version", bytewise(128), nullable=False),
        sa.Column("suite", sa.String(128), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("cases_passed", sa.BigInteger(), nullable=False),
        sa.Column("cases_total", sa.BigInteger(), nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.String(36), nullable=False),
        sa.CheckConstraint(
            "cases_passed >= 0 AND cases_passed <= cases_total",
            name=op.f("ck_registry_evaluations_cases"),
        ),
        sa.ForeignKeyConstraint(
            ["agent_id", "version"],
            ["registry_versions.agent_id", "registry_versions.version"],
            name=op.f("fk_registry_evaluations_agent_id_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_evaluations")),
    )
    op.create_index(
        "ix_registry_evaluations_agent_id_version_id",
        "registry_evaluations",
        ["agent_id", "version", "id"],
    )
    op.create_table(
        "registry_evaluation_summaries",
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("version", bytewise(128), nullable=False),
        sa.Column("evaluations", sa.Integer(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_id", "version"],
            ["registry_versions.agent_id", "registry_versions.version"],
            name=op.f("fk_registry_evaluation_summaries_agent_id_version"),
        ),
        sa.PrimaryKeyConstraint(
            "agent_id", "version", name=op.f("pk_registry_evaluation_summaries")
        ),
    )


def make_append_only(table: str) -> None:
    """Refuse UPDATE, DELETE and (where it exists) TRUNCATE on ``table`` in the database itself."""
    message = f"{table} is append-only"
    if op.get_context().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    for action, level in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
            f" FOR EACH {level} EXECUTE FUNCTION {table}_refuse()"
        )


def downgrade() -> None:
    for table in (
        "registry_evaluation_summaries",
        "registry_evaluations",
        "registry_versions",
        "registry_agents",
        "registry_agent_counts",
        "registry_namespaces",
    ):
        op.drop_table(table)
    if op.get_context().dialect.name != "sqlite":
        for table in APPEND_ONLY:
            op.execute(f"DROP FUNCTION {table}_refuse()")
