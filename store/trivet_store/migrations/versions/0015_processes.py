"""Schedulers hold leases like workers, and processes whose lease ran out are remembered for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table; no table is rewritten."""
    op.add_column("leases", sa.Column("part", sa.String(length=10), nullable=False, server_default=sa.text("'worker'")))
    op.create_table(
        "lost_processes",
        sa.Column("lease_id", sa.String(length=32), primary_key=True),
        sa.Column("process", sa.String(length=250), nullable=False),
        sa.Column("part", sa.String(length=10), nullable=False),
        sa.Column("lane", sa.String(length=10), nullable=False),
        sa.Column("routes", sa.Text(), nullable=False),
        sa.Column("expired_at", sa.Double(), nullable=False),
    )
