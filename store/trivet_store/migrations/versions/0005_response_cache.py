"""Answers kept for equal requests: what jobs share one, who waits for whose, what it saved."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables; no table is rewritten, and none that has rows gets an index."""
    # Usd: NUMERIC on PostgreSQL, whole picodollars on SQLite
    usd = sa.Numeric(24, 12) if op.get_bind().dialect.name == "postgresql" else sa.BigInteger()
    op.add_column("jobs", sa.Column("cache_key", sa.String(32)))
    op.add_column("job_results", sa.Column("saved_usd", usd))
    op.create_table(
        "cache_savings",
        sa.Column("hour", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("latency", sa.String(8), primary_key=True),
        sa.Column("model", sa.String(120), primary_key=True),
        sa.Column("batch", sa.String(200), primary_key=True, server_default=sa.text("''")),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("unpriced", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("saved_usd", usd, nullable=False),
    )
    op.create_table(
        "followers",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("leader", sa.String(32), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
    )
    op.create_index("ix_followers_leader", "followers", ["leader"])
    op.create_index("ix_followers_until", "followers", ["until"])
