"""Which worker processes are one witness against a route, on their leases."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add one column; no table is rewritten."""
    op.add_column("leases", sa.Column("origin", sa.Text(), nullable=False, server_default=sa.text("''")))
