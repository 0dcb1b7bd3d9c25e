"""Routes of which a living worker takes no work, and why, on its lease."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add one column; no table is rewritten."""
    op.add_column("leases", sa.Column("impaired", sa.Text(), nullable=False, server_default=sa.text("'{}'")))
