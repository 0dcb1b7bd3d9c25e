"""Versions of a route's operational figures, limits set by hand, and the digest of what decides where its prompts go."""

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OPERATIONAL = (
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "output_token_factor",
    "max_concurrency",
    "limits",
    "priority",
    "weight",
)


def upgrade() -> None:
    """Add three tables and four columns, and move operational figures out of the definitions: a few rows."""
    op.create_table(
        "route_versions",
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("operating", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("seen_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("route", "digest"),
    )
    op.create_table(
        "route_overrides",
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("models", sa.String(120), nullable=False),
        sa.Column("figure", sa.String(40), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("set_at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double()),
        sa.PrimaryKeyConstraint("route", "models", "figure"),
    )
    op.create_table(
        "removed_routes",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("removed_by", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    for column in (
        sa.Column("place", sa.String(16)),
        sa.Column("version", sa.String(16)),
        sa.Column("version_at", sa.Double()),
        sa.Column("version_by", sa.Text()),
    ):
        op.add_column("routes", column)
    _split_definitions()


def _split_definitions() -> None:
    bind = op.get_bind()
    change = sa.text("UPDATE routes SET definition = :definition, operating = :operating WHERE name = :name")
    for name, definition, operating in bind.execute(sa.text("SELECT name, definition, operating FROM routes")).all():
        defined = orjson.loads(definition)
        moved = {key: defined.pop(key) for key in _OPERATIONAL if key in defined}
        if moved:
            given = {**moved, **orjson.loads(operating or "{}")}
            row = {
                "name": name,
                "definition": orjson.dumps(defined).decode(),
                "operating": orjson.dumps(given).decode(),
            }
            bind.execute(change, row)
