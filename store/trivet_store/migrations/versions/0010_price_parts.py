"""The passes of a call that were priced each by itself, and the model that answered where it was not the one asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns; no table is rewritten."""
    op.add_column("attempts", sa.Column("price_parts", sa.Text()))
    op.add_column("attempts", sa.Column("model_used", sa.String(length=120)))
