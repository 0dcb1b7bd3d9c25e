"""Probes, hedges, and the providers' words on limits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what issue 3 needs; nothing is rewritten."""
    op.add_column("flows", sa.Column("probe", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column(
        "attempts", sa.Column("purpose", sa.String(length=8), server_default=sa.text("'job'"), nullable=False)
    )
    op.create_table(
        "route_limits",
        sa.Column("route", sa.String(length=100), nullable=False),
        sa.Column("models", sa.String(length=250), nullable=False),
        sa.Column("closed_until", sa.Double(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("route", "models"),
    )
    op.execute("DELETE FROM route_health WHERE state = 'limited'")  # kept in route_limits from now on
