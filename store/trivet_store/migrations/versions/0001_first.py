"""The first schema. It stays as it is when `schema.py` changes: a change is a step of its own."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_USD = sa.BigInteger().with_variant(sa.Numeric(24, 12), "postgresql")
"""SQLite has no decimals: an amount is a whole number of 1e-12 USD there."""


def upgrade() -> None:
    """Create every table."""
    _create_jobs()
    _create_fairness()
    _create_ledger()
    _create_cluster()


def _create_jobs() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("taken", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("digest", sa.String(32), nullable=False, server_default=sa.text("''")),
        sa.Column("total", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("ended", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("succeeded", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("failed", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("expired", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("cancelled", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("cost_usd", _USD, nullable=False, server_default=sa.text("0")),
        sa.Column("seq", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "flows",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("signature", sa.String(32), nullable=False, unique=True),
        sa.Column("batch_id", sa.Integer(), sa.ForeignKey("batches.id")),
        sa.Column("latency", sa.String(8), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("residency", sa.Text(), nullable=False),
        sa.Column("compliance", sa.Text(), nullable=False),
        sa.Column("features", sa.Text(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("probe", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("isolated", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("prefix", sa.String(32)),
        sa.Column("warmer", sa.String(32)),
        sa.Column("warming_until", sa.Double()),
        sa.Column("labels", sa.Text(), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("cache_write", sa.String(2), nullable=False, server_default=sa.text("''")),
    )
    _create_partial_index("ix_flows_active", "flows", ["id"], "active")
    op.create_index("ix_flows_batch", "flows", ["batch_id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("batch_id", sa.Integer()),
        sa.Column("flow_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(250)),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double()),
        sa.Column("deadline_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("input_estimate", sa.Integer(), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("lease_id", sa.String(32)),
        sa.Column("route", sa.String(100)),
        sa.Column("dispatched_until", sa.Double()),
        sa.Column("round", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("round_spent_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.Column("tried", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("doubted_by", sa.String(100)),
        sa.Column("proxy_errors", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("crashes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("isolated_crashes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("batch_seq", sa.Integer()),
        sa.Column("tenant", sa.String(200)),
        sa.Column("tags", sa.Text()),
        sa.Column("last_outcome", sa.String(16)),
        sa.Column("last_error", sa.Text()),
        sa.Column("cache_key", sa.String(32)),
    )
    _create_partial_index("ix_jobs_batch", "jobs", ["batch_id", "batch_seq"], "batch_seq IS NOT NULL")
    _create_partial_index("ix_jobs_deadline", "jobs", ["deadline_at"], "ended_at IS NULL AND deadline_at IS NOT NULL")
    _create_partial_index("ix_jobs_delayed", "jobs", ["not_before"], "state = 'delayed'")
    _create_partial_index("ix_jobs_flow", "jobs", ["flow_id", "state", "rank"], "ended_at IS NULL")
    _create_partial_index(
        "ix_jobs_key", "jobs", ["key", sa.text("coalesce(tenant, '')")], "key IS NOT NULL", unique=True
    )
    _create_partial_index("ix_jobs_outstanding", "jobs", ["route", "state"], "state IN ('dispatched', 'running')")
    op.create_table(
        "coalesced_jobs",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("leader", sa.String(32), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
    )
    op.create_index("ix_coalesced_jobs_leader", "coalesced_jobs", ["leader"])
    op.create_index("ix_coalesced_jobs_until", "coalesced_jobs", ["until"])
    op.create_table(
        "job_requests",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "job_results",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("message", sa.LargeBinary()),
        sa.Column("stop_reason", sa.String(40)),
        sa.Column("error_outcome", sa.String(16)),
        sa.Column("error_message", sa.Text()),
        sa.Column("route", sa.String(100)),
        sa.Column("cost_usd", _USD),
        sa.Column("latency_s", sa.Double(), nullable=False),
        sa.Column("cached", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("saved_usd", _USD),
    )
    op.create_table(
        "retries",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("error_outcome", sa.String(16)),
        sa.Column("error_message", sa.Text()),
    )
    op.create_index("ix_retries_job", "retries", ["job_id"])


def _create_fairness() -> None:
    op.create_table(
        "shares",
        sa.Column("key", sa.String(260), primary_key=True),
        sa.Column("finish", sa.Double(), nullable=False),
    )
    op.create_table(
        "virtual_clock",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("rank", sa.Double(), nullable=False),
    )
    op.execute("INSERT INTO virtual_clock (id, rank) VALUES (1, 0)")
    op.create_table(
        "boot_clock",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("boot", sa.String(40), nullable=False),
        sa.Column("offset", sa.Double(), nullable=False),
    )


def _create_ledger() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(32), nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("provider", sa.String(20), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("wire_model", sa.String(300), nullable=False),
        sa.Column("latency", sa.String(8), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("latency_s", sa.Double()),
        sa.Column("outcome", sa.String(16)),
        sa.Column("status", sa.Integer()),
        sa.Column("request_id", sa.String(200)),
        sa.Column("message", sa.Text()),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("cache_read_tokens", sa.Integer()),
        sa.Column("cache_write_5m_tokens", sa.Integer()),
        sa.Column("cache_write_1h_tokens", sa.Integer()),
        sa.Column("list_price", sa.Text()),
        sa.Column("multipliers", sa.Text()),
        sa.Column("cost_usd", _USD),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("price_version", sa.String(120)),
        sa.Column("price_terms", sa.Text()),
        sa.Column("price_parts", sa.Text()),
        sa.Column("model_used", sa.String(120)),
        sa.Column("purpose", sa.String(8), nullable=False, server_default=sa.text("'job'")),
    )
    op.create_index("ix_attempts_job", "attempts", ["job_id"])
    op.create_index("ix_attempts_started", "attempts", ["started_at"])
    _create_partial_index("ix_attempts_unsettled", "attempts", ["lease_id"], "outcome IS NULL")
    op.create_table(
        "cache_savings",
        sa.Column("hour", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("latency", sa.String(8), primary_key=True),
        sa.Column("model", sa.String(120), primary_key=True),
        sa.Column("batch", sa.String(200), primary_key=True, server_default=sa.text("''")),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("unpriced", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("saved_usd", _USD, nullable=False),
    )
    op.create_table(
        "spend",
        sa.Column("day", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("scope", sa.String(60), primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("batch_id", sa.Integer()),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("settled_usd", _USD, nullable=False),
        sa.Column("estimated_usd", _USD, nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("unpriced", sa.Integer(), nullable=False),
    )
    op.create_index("ix_spend_batch", "spend", ["batch_id"])
    op.create_table(
        "budgets",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("window", sa.String(10), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("needs_usd", _USD),
        sa.Column("raised_usd", _USD),
        sa.Column("raised_window", sa.String(10)),
    )


def _create_cluster() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("part", sa.String(10), nullable=False, server_default=sa.text("'worker'")),
        sa.Column("worker", sa.String(250), nullable=False),
        sa.Column("lane", sa.String(10), nullable=False),
        sa.Column("routes", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("impairment", sa.Text()),
        sa.Column("impaired", sa.Text(), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("origin", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "dropped",
        sa.Column("kind", sa.String(12), primary_key=True),
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "lost_processes",
        sa.Column("lease_id", sa.String(32), primary_key=True),
        sa.Column("process", sa.String(250), nullable=False),
        sa.Column("part", sa.String(10), nullable=False),
        sa.Column("lane", sa.String(10), nullable=False),
        sa.Column("routes", sa.Text(), nullable=False),
        sa.Column("expired_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "routes",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("provider", sa.String(20), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("drained", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("operating", sa.Text()),
        sa.Column("place", sa.String(16)),
        sa.Column("version", sa.String(16)),
        sa.Column("version_at", sa.Double()),
        sa.Column("version_by", sa.Text()),
    )
    op.create_table(
        "route_versions",
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("digest", sa.String(16), primary_key=True),
        sa.Column("operating", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("seen_by", sa.Text(), nullable=False),
    )
    op.create_table(
        "removed_routes",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("removed_by", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "route_overrides",
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("models", sa.String(120), primary_key=True),
        sa.Column("figure", sa.String(40), primary_key=True),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("set_at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double()),
    )
    op.create_table(
        "route_health",
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("model", sa.String(120), primary_key=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("closed_until", sa.Double()),
    )
    op.create_table(
        "route_limits",
        sa.Column("route", sa.String(100), primary_key=True),
        sa.Column("models", sa.String(250), primary_key=True),
        sa.Column("closed_until", sa.Double(), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("since", sa.Double(), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("route", sa.String(100)),
        sa.Column("model", sa.String(120)),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_index("ix_events_at", "events", ["at"])


def _create_partial_index(
    name: str, table: str, columns: Sequence[str | sa.TextClause], where: str, *, unique: bool = False
) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
