"""Counters of what was spent, and budgets."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from trivet_store import schema

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two tables, count what was spent this month, and then add a column: its lock is held no longer than needed."""
    op.create_table(
        "spend",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(60), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("batch_id", sa.Integer()),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("settled_usd", schema.Usd(), nullable=False),
        sa.Column("estimated_usd", schema.Usd(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("unpriced", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day", "route", "scope", "part"),
    )
    op.create_index("ix_spend_batch", "spend", ["batch_id"])
    op.create_table(
        "budgets",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("window", sa.String(10), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("needs_usd", schema.Usd()),
        sa.Column("raised_usd", schema.Usd()),
        sa.Column("raised_window", sa.String(10)),
        sa.PrimaryKeyConstraint("name"),
    )
    _count_this_month()
    op.add_column("flows", sa.Column("labels", sa.Text(), server_default=sa.text("'{}'"), nullable=False))


def _count_this_month() -> None:
    """What budgets look at; earlier days are in the ledger."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    day = "CAST(floor(a.started_at / 86400) AS integer)" if postgresql else "CAST(a.started_at / 86400 AS integer)"
    since = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    for batch, whose in (("CAST(NULL AS integer)", ""), ("f.batch_id", "AND f.batch_id IS NOT NULL")):
        op.get_bind().execute(
            sa.text(
                f"""
                INSERT INTO spend (day, route, scope, part, batch_id, labels, settled_usd, estimated_usd, calls, unpriced)
                SELECT {day}, a.route, CAST(coalesce({batch}, 0) AS varchar(60)), 0, {batch}, '{{}}',
                       coalesce(sum(CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END), 0),
                       coalesce(sum(CASE WHEN a.estimated THEN a.cost_usd ELSE 0 END), 0),
                       count(*), sum(CASE WHEN a.cost_usd IS NULL THEN 1 ELSE 0 END)
                  FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN flows f ON f.id = j.flow_id
                 WHERE a.started_at >= :since AND a.outcome IS NOT NULL {whose}
                 GROUP BY 1, a.route{"" if not whose else ", f.batch_id"}
                """
            ),
            {"since": since},
        )
