"""The pages of proxies that a job met."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add one column."""
    op.add_column("jobs", sa.Column("proxy_errors", sa.Text(), server_default=sa.text("''"), nullable=False))
