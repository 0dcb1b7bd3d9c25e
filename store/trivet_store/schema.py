"""The tables. Times are seconds since the epoch (UTC) as doubles; money is exact decimals of USD.

What changes often (`jobs`) is kept small and apart from what is written once (`job_requests`, `job_results`). What there is
once or more for each job has no foreign keys: the writer of such a row has locked, or written, the row it refers to.
To check that again took PostgreSQL 44 % of the time of an insert of jobs, and to delete a batch it read all jobs.
"""

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    text,
)
from sqlalchemy.types import TypeEngine

PICO = 10**12
"""SQLite has no decimals: there an amount is a whole number of 1e-12 USD, so that sums stay exact."""


_MAX_PICO = 2**63 - 1
_SPLIT = 10**6
_NOTHING = Decimal(0)


class Usd(TypeDecorator[Decimal]):
    """An amount of US dollars, exact to 12 decimals: NUMERIC on PostgreSQL, whole picodollars on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(24, 12))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Return the database's integer for a Decimal."""
        if value is None or dialect.name == "postgresql":
            return value
        return max(-_MAX_PICO, min(_MAX_PICO, int((value * PICO).to_integral_value())))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return the database's figure as a Decimal; nothing is a plain 0, for 0E-12 reads badly."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return Decimal(value) or _NOTHING
        if isinstance(value, str):  # of `usd_sum`
            high, low = value.split()
            return (Decimal(high) * _SPLIT + Decimal(low)).scaleb(-12) or _NOTHING
        return Decimal(int(value)).scaleb(-12) if value else _NOTHING


def usd_sum(dialect: Dialect, amounts: str) -> str:
    """Return SQL that sums amounts, which no sum can overflow. Its column is to be read as `Usd`.

    SQLite's sum of whole numbers fails over 64 bits, at 9.2 million USD: there, millions of picodollars and the rest
    are summed apart.
    """
    if dialect.name == "postgresql":
        return f"sum({amounts})"
    return f"sum(({amounts}) / {_SPLIT}) || ' ' || sum(({amounts}) % {_SPLIT})"


def _partial_index(name: str, *columns: ColumnElement[Any] | TextClause, where: str, unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


metadata = MetaData()

batches = Table(
    "batches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("state", String(12), nullable=False),  # BatchState
    Column("created_at", Double, nullable=False),
    Column("error", Text),  # why it is incomplete
    Column("taken", Integer, nullable=False, server_default=text("0")),  # requests read so far: where a resume goes on
    Column("digest", String(32), nullable=False, server_default=text("''")),  # over those requests, in order
    Column("dedupe", Boolean, nullable=False, server_default=text("false")),  # its keys are those of their tenants
    Column("opened", Boolean, nullable=False, server_default=text("false")),  # it was open once: its jobs may have run
    # counters: progress is read from here, never by counting rows
    Column("total", Integer, nullable=False, server_default=text("0")),
    Column("ended", Integer, nullable=False, server_default=text("0")),
    Column("succeeded", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("expired", Integer, nullable=False, server_default=text("0")),
    Column("cancelled", Integer, nullable=False, server_default=text("0")),
    Column("cost_usd", Usd, nullable=False, server_default=text("0")),
    Column("seq", Integer, nullable=False, server_default=text("0")),  # the last number given to a job that ended
    Column("tenant", String(200)),  # of all its requests; null: they have none, or it is mixed
    Column("mixed", Boolean, nullable=False, server_default=text("false")),  # it has requests of several tenants
    sqlite_autoincrement=True,  # no id is used again: whoever fills a batch that was discarded must not meet another
)
_partial_index("ix_batches_tenant", batches.c.tenant, batches.c.created_at, where="tenant IS NOT NULL")

shares = Table(  # fairness: one row per (tenant or batch, latency class); `finish` is its virtual finish time
    "shares",
    metadata,
    Column("key", String(260), primary_key=True),
    Column("finish", Double, nullable=False),
)

virtual_clock = Table(  # one row: the highest rank dispatched so far
    "virtual_clock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rank", Double, nullable=False),
)

boot_clock = Table(  # SQLite's only row: what to add to the seconds since this boot of the machine (`clock.py`)
    "boot_clock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("boot", String(40), nullable=False),
    Column("offset", Double, nullable=False),
)

flows = Table(  # jobs of one owner that need the same of a route; what a claim goes through
    "flows",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("signature", String(32), nullable=False, unique=True),  # hex digest over all of the below
    Column("batch_id", Integer, ForeignKey("batches.id")),
    Column("latency", String(16), nullable=False),
    Column("model", String(120), nullable=False),
    Column("residency", Text, nullable=False),  # JSON lists
    Column("compliance", Text, nullable=False),
    Column("features", Text, nullable=False),
    Column("held", Boolean, nullable=False),  # its batch is not complete yet, or was cancelled; or these are probes
    Column("active", Boolean, nullable=False),  # it may have jobs that have not ended
    Column("probe", Boolean, nullable=False, server_default=text("false")),  # its jobs are Trivet's own probes
    Column("isolated", Boolean, nullable=False, server_default=text("false")),  # each runs in a process of its own
    # digest of what its requests begin with; the job whose call warms the provider's cache for the others, and for how long
    Column("prefix", String(32)),
    Column("warmer", String(32)),
    Column("warming_until", Double),
    Column("labels", Text, nullable=False, server_default=text("'{}'")),  # JSON: what budgets ask for of the jobs
    Column("cache_write", String(2), nullable=False, server_default=text("''")),  # `prompt_cache.CacheWrite`
    Column("tenant", String(200)),  # of all its jobs, where an operator controls that tenant; null: of any
)
_partial_index("ix_flows_active", flows.c.id, where="active")
Index("ix_flows_batch", flows.c.batch_id)

controls = Table(  # pauses and priorities that an operator set (`controls.py`)
    "controls",
    metadata,
    Column("kind", String(8), primary_key=True),  # ControlKind
    Column("value", String(200), primary_key=True),  # name of the batch, the tenant or the class
    Column("batch_id", Integer, ForeignKey("batches.id")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("paused_at", Double),  # null: not paused
    Column("paused_by", Text),
    Column("reason", Text),
    Column("paused_by_owner", Boolean, nullable=False, server_default=text("false")),  # not by an operator
    Column("max_priority", Integer),  # the owner may not go above what an operator lowered it to; null: 0
)
Index("ix_controls_batch", controls.c.batch_id)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("batch_id", Integer),
    Column("flow_id", Integer, nullable=False),
    Column("key", String(250)),
    Column("key_owner", String(210)),  # "batch 7" or "tenant acme": the key is unique among its jobs; null: no key
    Column("fingerprint", String(32), nullable=False),  # of the request and all that decides its answer
    Column("state", String(10), nullable=False),  # JobState
    Column("rank", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("not_before", Double),
    Column("deadline_at", Double),
    Column("ended_at", Double),
    Column("input_estimate", Integer, nullable=False),  # tokens
    Column("max_tokens", Integer, nullable=False),
    Column("claim", Integer, nullable=False, server_default=text("0")),  # the fencing token, with lease_id
    Column("lease_id", String(32)),
    Column("route", String(100)),
    Column("dispatched_until", Double),
    Column("round", Integer, nullable=False, server_default=text("0")),
    Column("round_spent_s", Double, nullable=False, server_default=text("0")),
    Column("tried", Text, nullable=False, server_default=text("''")),  # routes asked in this round, by comma
    Column("too_slow", Text, nullable=False, server_default=text("''")),  # routes too slow for its answer, by comma
    Column("doubted_by", String(100)),  # the provider that answered with a 400 nobody knows
    Column("proxy_errors", Text, nullable=False, server_default=text("''")),  # JSON: pages that came instead of answers
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # worker processes that died with it in flight, beside others or alone
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("isolated_crashes", Integer, nullable=False, server_default=text("0")),  # those that ran nothing else
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("batch_seq", Integer),  # its sequence number among the ends of its batch, in order of commit
    Column("tenant", String(200)),
    Column("tags", Text),  # JSON object
    Column("metadata", Text),  # JSON object, as its request has it
    Column("batch_index", Integer),  # its position among the requests of its batch, from 0
    Column("last_outcome", String(16)),
    Column("last_error", Text),
    Column("cache_key", String(32)),  # null: called for in any case
    Column("called_back", Boolean, nullable=False, server_default=text("false")),  # a delivery may wait for its end
    Column("streamed", Boolean, nullable=False, server_default=text("false")),  # its answer's events are passed on
)
_partial_index("ix_jobs_flow", jobs.c.flow_id, jobs.c.state, jobs.c.rank, where="ended_at IS NULL")
_partial_index("ix_jobs_key", jobs.c.key, jobs.c.key_owner, unique=True, where="key IS NOT NULL")
_partial_index(
    "ix_jobs_tenant", jobs.c.tenant, jobs.c.flow_id, jobs.c.rank, where="ended_at IS NULL AND tenant IS NOT NULL"
)
_partial_index("ix_jobs_of_tenant", jobs.c.tenant, jobs.c.id, where="tenant IS NOT NULL")
_partial_index("ix_jobs_without_tenant", jobs.c.id, where="tenant IS NULL")
_partial_index("ix_jobs_deadline", jobs.c.deadline_at, where="ended_at IS NULL AND deadline_at IS NOT NULL")
_partial_index("ix_jobs_delayed", jobs.c.not_before, where="state = 'delayed'")
_partial_index("ix_jobs_too_slow", jobs.c.state, jobs.c.flow_id, where="ended_at IS NULL AND too_slow <> ''")
_partial_index("ix_jobs_outstanding", jobs.c.route, jobs.c.state, where="state IN ('dispatched', 'running')")
_partial_index("ix_jobs_batch", jobs.c.batch_id, jobs.c.batch_seq, where="batch_seq IS NOT NULL")

coalesced_jobs = Table(  # jobs that are `coalesced`: whose answer each waits for, and until when without another look
    "coalesced_jobs",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("leader", String(32), nullable=False),
    Column("until", Double, nullable=False),
)
Index("ix_coalesced_jobs_leader", coalesced_jobs.c.leader)
Index("ix_coalesced_jobs_until", coalesced_jobs.c.until)

job_requests = Table(
    "job_requests",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # the Messages API body, JSON
)

job_results = Table(
    "job_results",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("message", LargeBinary),  # the provider's answer, JSON; null unless succeeded
    Column("stop_reason", String(40)),
    Column("error_outcome", String(16)),
    Column("error_message", Text),
    Column("route", String(100)),
    Column("cost_usd", Usd),  # all attempts of the job; null where one is unpriced
    Column("latency_s", Double, nullable=False),  # from submit to the end
    Column("cached", Boolean, nullable=False, server_default=text("false")),
    Column("saved_usd", Usd),  # cached: what the call that made the answer had cost; null where that has no price
)
_partial_index("ix_job_results_cached", job_results.c.job_id, where="cached")

cache_savings = Table(  # what answers from the cache saved; stays when jobs are pruned, so it names their batch
    "cache_savings",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),  # when it began, in seconds since the epoch
    Column("latency", String(16), primary_key=True),
    Column("model", String(120), primary_key=True),
    Column("batch", String(200), primary_key=True, server_default=text("''")),
    Column("hits", Integer, nullable=False),
    Column("unpriced", Integer, nullable=False, server_default=text("0")),  # of them, without a known saving
    Column("saved_usd", Usd, nullable=False),
)

retries = Table(  # how a job had ended before it was made to run again; its attempts stay where they are
    "retries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", String(32), nullable=False),
    Column("at", Double, nullable=False),  # when it was made to run again
    Column("ended_at", Double, nullable=False),
    Column("state", String(10), nullable=False),
    Column("error_outcome", String(16)),
    Column("error_message", Text),
)
Index("ix_retries_job", retries.c.job_id)

attempts = Table(  # one row, one provider call; written before the call, settled after it
    "attempts",
    metadata,
    Column("id", String(32), primary_key=True),  # travels as x-trivet-attempt
    Column("job_id", String(32), nullable=False),
    Column("claim", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("lease_id", String(32), nullable=False),
    Column("route", String(100), nullable=False),
    Column("provider", String(20), nullable=False),
    Column("model", String(120), nullable=False),
    Column("wire_model", String(300), nullable=False),
    Column("latency", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("latency_s", Double),
    Column("outcome", String(16)),  # null while the call runs
    Column("status", Integer),
    Column("request_id", String(200)),
    Column("message", Text),  # the provider's words, of a call that failed
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cache_read_tokens", Integer),
    Column("cache_write_5m_tokens", Integer),
    Column("cache_write_1h_tokens", Integer),
    Column("list_price", Text),  # JSON: USD per million tokens by kind; null: see price_parts
    Column("multipliers", Text),  # JSON: name to factor
    Column("negotiated_price", Text),  # JSON: USD per million tokens by kind, as charged; null: by the two before
    Column("cost_usd", Usd),  # null: unpriced
    Column("list_usd", Usd),  # the cost at list price, of a call at a negotiated one; null: `cost_usd`
    Column("estimated", Boolean, nullable=False),  # the cost is an upper bound made before the call, not a bill
    Column("price_version", String(120)),
    Column("price_terms", Text),  # JSON (`price_records.py`); null: not priced by its usage
    Column("price_parts", Text),  # JSON (`price_records.py`): the passes of a call of several; null: one
    Column("model_used", String(120)),  # the model that answered; null: the one asked for
    Column("purpose", String(8), nullable=False, server_default=text("'job'")),  # AttemptPurpose
)
Index("ix_attempts_job", attempts.c.job_id)
Index("ix_attempts_started", attempts.c.started_at)
_partial_index("ix_attempts_unsettled", attempts.c.lease_id, where="outcome IS NULL")

spend = Table(  # what was spent, as counters (`spending.py`); what was spent stays spent
    "spend",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),  # on which the calls began, days since 1970 UTC
    Column("route", String(100), primary_key=True),
    Column("scope", String(60), primary_key=True),  # a batch, or labels, in few characters
    Column("part", Integer, primary_key=True, autoincrement=False),  # by process, so that commits do not queue up
    Column("batch_id", Integer),
    Column("labels", Text, nullable=False),
    Column("settled_usd", Usd, nullable=False),
    Column("estimated_usd", Usd, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("unpriced", Integer, nullable=False),  # calls without a known price
)
Index("ix_spend_batch", spend.c.batch_id)

budgets = Table(  # as schedulers registered them, and their states
    "budgets",
    metadata,
    Column("name", String(104), primary_key=True),  # "key:NAME": of a gateway key
    Column("definition", Text, nullable=False),  # JSON
    Column("registered_at", Double, nullable=False),
    Column("state", String(8), nullable=False),  # BudgetState
    Column("window", String(10), nullable=False),  # of the state: 2026-11-26, 2026-11 or total
    Column("since", Double, nullable=False),  # of the state
    Column("needs_usd", Usd),  # holding: what the cheapest job that was held may cost
    Column("raised_usd", Usd),  # the limit that an operator set for one window
    Column("raised_window", String(10)),
)

gateway_keys = Table(  # keys of the HTTP gateway; never deleted, so that a name found in old jobs can be explained
    "gateway_keys",
    metadata,
    Column("id", String(12), primary_key=True),  # the part of the key by which it is found
    Column("name", String(64), nullable=False),
    Column("digest", String(64), nullable=False),  # SHA-256 of the whole key, hex; the key itself is nowhere
    Column("terms", Text, nullable=False),  # JSON (`trivet_tasks.gateway_keys.KeyTerms`)
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Double),  # null: never
    Column("revoked_at", Double),
    Column("last_used_at", Double),  # exact to a minute
    Column("replaced_by", String(12)),  # the key that it was rotated to
)
_partial_index(
    "ix_gateway_keys_name", gateway_keys.c.name, unique=True, where="revoked_at IS NULL AND replaced_by IS NULL"
)

schedules = Table(  # recurring work, as schedulers registered it
    "schedules",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("digest", String(16), nullable=False),  # of the definition: only schedulers that have the same act on it
    Column("work_digest", String(16), nullable=False),  # of the definition without its times
    Column("crontab", String(200), nullable=False),
    Column("timezone", String(100), nullable=False),
    Column("work", Text, nullable=False),  # for people
    Column("missed", String(4), nullable=False),  # Missed
    Column("next_at", Double),  # the first moment that is not dealt with yet; null: it is disabled
    Column("registered_at", Double, nullable=False),
    Column("paused_at", Double),
    Column("paused_by", Text),
)

schedule_runs = Table(  # one row per time of a schedule at which it was due
    "schedule_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("planned_at", Double, nullable=False),
    Column("work_digest", String(16), nullable=False),  # of the work that it is to do
    Column("asked_by", Text),  # the person who asked for it; null: it was due
    Column("batch", String(200)),  # the batch that it submits
    Column("lost", Integer, nullable=False, server_default=text("0")),  # schedulers that died with it
    Column("failures", Integer, nullable=False, server_default=text("0")),  # tries that failed
    Column("claimed_by", String(250)),  # the scheduler that does it
    Column("claimed_until", Double, nullable=False),  # the lease; not claimed: when it may be
    Column("started_at", Double),
    Column("done_at", Double),
    Column("error", Text),  # of its last try
    Column("result", Text),  # in words
    Column("superseded", Boolean, nullable=False, server_default=text("false")),  # its entry is gone or has other work
)
Index("ix_schedule_runs", schedule_runs.c.name, schedule_runs.c.planned_at, unique=True)
_partial_index("ix_schedule_runs_open", schedule_runs.c.claimed_until, where="done_at IS NULL")

leases = Table(  # one row per living worker or scheduler process
    "leases",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("part", String(10), nullable=False, server_default=text("'worker'")),  # worker, scheduler
    Column("worker", String(250), nullable=False),  # the process's name
    Column("lane", String(10), nullable=False),  # empty for a scheduler
    Column("routes", Text, nullable=False),  # JSON list; empty for a scheduler
    Column("slots", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("impairment", Text),  # why it takes no work, if it does not
    Column(
        "impaired", Text, nullable=False, server_default=text("'{}'")
    ),  # JSON: route to kind to why none of it is taken
    Column("origin", Text, nullable=False, server_default=text("''")),  # of worker processes that are one witness
    Column("started_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

dropped = Table(  # counters of what came through the broker and was not acted on (`events.py`)
    "dropped",
    metadata,
    Column("kind", String(12), primary_key=True),
    Column("route", String(100), primary_key=True),  # '': not known
    Column("times", BigInteger, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
)

lost_processes = Table(  # one row per lease that ran out lately and was dropped; an orderly end leaves none
    "lost_processes",
    metadata,
    Column("lease_id", String(32), primary_key=True),
    Column("process", String(250), nullable=False),
    Column("part", String(10), nullable=False),
    Column("lane", String(10), nullable=False),
    Column("routes", Text, nullable=False),  # JSON list
    Column("expired_at", Double, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("provider", String(20), nullable=False),
    Column("definition", Text, nullable=False),  # JSON, no secret: what decides where a prompt goes
    Column("registered_at", Double, nullable=False),
    Column("drained", Boolean, nullable=False, server_default=text("false")),
    Column("operating", Text),  # JSON: the operational figures in force; null: none
    Column("place", String(16)),  # digest of the definition; a worker with another takes no work. Null: not known yet
    Column("version", String(16)),  # digest of the operational figures, of those below
    Column("version_at", Double),  # since when they are in force
    Column("version_by", Text),  # the process or person that brought them
)

route_versions = Table(  # every version of a route's operational figures that was ever in force
    "route_versions",
    metadata,
    Column("route", String(100), primary_key=True),
    Column("digest", String(16), primary_key=True),
    Column("operating", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("seen_by", Text, nullable=False),
)

removed_routes = Table(  # routes that an operator removed; registered again, they are drained until a row is gone
    "removed_routes",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("removed_by", Text, nullable=False),
    Column("removed_at", Double, nullable=False),
)

route_overrides = Table(  # limits that an operator set by hand; they beat every file
    "route_overrides",
    metadata,
    Column("route", String(100), primary_key=True),
    Column("models", String(120), primary_key=True),  # '*': the route itself; else a group of limits, a model or a glob
    Column("figure", String(40), primary_key=True),
    Column("value", Integer, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("set_at", Double, nullable=False),
    Column("until", Double),  # null: until it is reset
)

route_health = Table(  # the last change of health of each (route, model); model '*' is the whole route
    "route_health",
    metadata,
    Column("route", String(100), primary_key=True),
    Column("model", String(120), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("cause", Text),
    Column("since", Double, nullable=False),
    Column("closed_until", Double),  # open: when the next probe is due
)

route_limits = Table(  # how long each provider last told us to wait, by the model or group of models that it limits
    "route_limits",
    metadata,
    Column("route", String(100), primary_key=True),
    Column("models", String(250), primary_key=True),
    Column("closed_until", Double, nullable=False),
    Column("cause", Text),
    Column("since", Double, nullable=False),
)

deliveries = Table(  # callbacks of jobs and batches; they stay as long as these, so that none is added twice
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", String(32)),  # this or the next
    Column("batch_id", Integer),
    Column("name", String(200), nullable=False),
    Column("app", String(100), nullable=False),
    Column("task", String(200), nullable=False),  # for people; of a chain the first
    Column("signature", Text, nullable=False),  # JSON, may hold the user's data; empty once it was confirmed
    Column("confirmed", Boolean, nullable=False),  # it is sent again until its task confirms it
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),  # the end that it is about
    Column("due_at", Double),  # when to send it; null: its job or batch goes on, or it was sent
    Column("sends", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),  # since it was last sent
    Column("claimed_until", Double),  # a scheduler is sending it; names that claim, too
    Column("taken_until", Double),  # its task runs
    Column("done", Boolean, nullable=False, server_default=text("false")),  # its task has confirmed it
    Column("error", Text),  # of the last try to send it
)
_partial_index("ix_deliveries_job", deliveries.c.job_id, deliveries.c.name, unique=True, where="job_id IS NOT NULL")
_partial_index(
    "ix_deliveries_batch", deliveries.c.batch_id, deliveries.c.name, unique=True, where="batch_id IS NOT NULL"
)
_partial_index("ix_deliveries_due", deliveries.c.app, deliveries.c.due_at, where="due_at IS NOT NULL")

celery_apps = Table(  # applications of users whose brokers take no callbacks now
    "celery_apps",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("failing_since", Double, nullable=False),
    Column("error", Text, nullable=False),
)

events = Table(  # what an operator wants to read afterwards
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("route", String(100)),
    Column("model", String(120)),
    Column("text", Text, nullable=False),
)
Index("ix_events_at", events.c.at)
