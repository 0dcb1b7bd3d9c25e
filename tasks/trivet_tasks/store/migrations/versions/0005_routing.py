"""What a route costs beside tokens and its windows, where every process can read them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; no table is rewritten."""
    op.add_column("routes", sa.Column("operating", sa.Text()))
