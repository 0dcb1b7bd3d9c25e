"""Suspects that run alone, and batches whose failed jobs may run again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what issue 4 needs; no large table is rewritten."""
    op.add_column("flows", sa.Column("alone", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("jobs", sa.Column("died_alone", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("batches", sa.Column("seq", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("UPDATE batches SET seq = ended")
    op.create_table(
        "boot_clock",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("boot", sa.String(length=40), nullable=False),
        sa.Column("offset", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "retries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("error_outcome", sa.String(16)),
        sa.Column("error_message", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_retries_job", "retries", ["job_id"])
