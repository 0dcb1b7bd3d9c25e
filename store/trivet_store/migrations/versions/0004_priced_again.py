"""What a call was priced by beside its tokens, so that it can be priced again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; no table is rewritten."""
    op.add_column("attempts", sa.Column("price_terms", sa.Text()))
