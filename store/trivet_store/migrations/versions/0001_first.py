"""The first schema: the tables of `schema.py`, while it is the only step.

Before a second step is added, put what this one creates here in full (`alembic revision --autogenerate` writes it for an
empty database): a step stays as it is when `schema.py` changes.
"""

from alembic import op

from trivet_store.schema import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    metadata.create_all(op.get_bind())
    op.execute("INSERT INTO virtual_clock (id, rank) VALUES (1, 0)")
