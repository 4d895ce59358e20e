"""What owners have in the registry, and impacts of versions with a later neighbour below."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "registry_0003"
down_revision: str | None = "registry_0002"
branch_labels: Sequence[str] | None = None
depends_on: None = None


def bytewise(length: int) -> sa.String:
    """Text that PostgreSQL, too, compares byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    create_owner_usage()
    create_version_impacts()


def create_owner_usage() -> None:
    op.create_table(
        "registry_owner_usage",
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("namespaces", sa.BigInteger(), nullable=False),
        sa.Column("agents", sa.BigInteger(), nullable=False),
        sa.Column("versions", sa.BigInteger(), nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "namespaces >= 0 AND agents >= 0 AND versions >= 0 AND manifest_bytes >= 0",
            name=op.f("ck_registry_owner_usage_not_negative"),
        ),
        sa.PrimaryKeyConstraint("owner_id", name=op.f("pk_registry_owner_usage")),
    )
    sqlite = op.get_context().dialect.name == "sqlite"
    size = "length(CAST(v.manifest AS BLOB))" if sqlite else "octet_length(v.manifest)"
    op.execute(
        "INSERT INTO registry_owner_usage"
        " (owner_id, namespaces, agents, versions, manifest_bytes)"
        " SELECT n.owner_id, count(DISTINCT n.name), count(DISTINCT a.id), count(v.version),"
        f" coalesce(sum({size}), 0)"
        " FROM registry_namespaces n"
        " LEFT JOIN registry_agents a ON a.namespace = n.name"
        " LEFT JOIN registry_versions v ON v.agent_id = a.id"
        " GROUP BY n.owner_id"
    )


def create_version_impacts() -> None:
    op.create_table(
        "registry_version_impacts",
        sa.Column("agent_id", bytewise(193), nullable=False),
        sa.Column("version", bytewise(128), nullable=False),
        sa.Column("impact", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["agent_id", "version"],
            ["registry_versions.agent_id", "registry_versions.version"],
            name=op.f("fk_registry_version_impacts_agent_id_version"),
        ),
        sa.PrimaryKeyConstraint("agent_id", "version", name=op.f("pk_registry_version_impacts")),
    )
    # Until now a version was compared with the one published before it. Where that is not the one
    # next below it, what is stored with it is of no use, and no impact here says so.
    op.execute(
        "INSERT INTO registry_version_impacts (agent_id, version)"
        " SELECT v.agent_id, v.version FROM registry_versions v"
        " WHERE v.sequence - 1 <> coalesce((SELECT p.sequence FROM registry_versions p"
        " WHERE p.agent_id = v.agent_id AND p.precedence < v.precedence"
        " ORDER BY p.precedence DESC LIMIT 1), 0)"
    )


def downgrade() -> None:
    op.drop_table("registry_version_impacts")
    op.drop_table("registry_owner_usage")
