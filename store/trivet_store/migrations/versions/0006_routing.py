"""What a route costs beside tokens and its windows, where every process can read them; and prefixes that a first job warms."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns; no table is rewritten."""
    op.add_column("routes", sa.Column("operating", sa.Text()))
    op.add_column("flows", sa.Column("prefix", sa.String(32)))
    op.add_column("flows", sa.Column("warmer", sa.String(32)))
    op.add_column("flows", sa.Column("warming_until", sa.Double()))
