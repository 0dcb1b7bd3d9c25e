"""The origin of worker processes on their leases: those of one origin are one witness against a route."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add one column; no table is rewritten."""
    op.add_column("leases", sa.Column("origin", sa.Text(), nullable=False, server_default=sa.text("''")))
