"""An idempotency key belongs to its tenant: two tenants may use the same one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_KEYED = sa.text("key IS NOT NULL")


def upgrade() -> None:
    """Make the index over keys one over keys and tenants; those without a tenant are one owner."""
    op.drop_index("ix_jobs_key", table_name="jobs")
    op.create_index(
        "ix_jobs_key",
        "jobs",
        ["key", sa.text("coalesce(tenant, '')")],
        unique=True,
        sqlite_where=_KEYED,
        postgresql_where=_KEYED,
    )
