"""Statements of a dispatcher: active flows, jobs outstanding at each route, the heads of the line, the claim."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, TextClause, bindparam, text

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, query_rows
from trivet_tasks.jobs import DispatchedJob, tried_of
from trivet_tasks.latency import Latency
from trivet_tasks.requests.prompt_cache import CacheWrite
from trivet_tasks.states import BACKLOG_STATES, OUTSTANDING_STATES, JobState

DISPATCH_LOCK = 7_214_500_002
"""The PostgreSQL advisory lock under which credit is counted and taken; SQLite's write lock does the same."""
FLOWS_AT_ONCE = 50
"""Flows whose heads are read by one statement: SQLite allows 500 parts of one, and few parts are planned sooner."""


class Flow(NamedTuple):
    """Jobs with the same requirements."""

    id: int
    latency: Latency
    model: str
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    features: tuple[str, ...]
    isolated: bool = False
    """Each of its jobs runs in a process of its own."""
    batch_id: int | None = None
    labels: str = "{}"
    """JSON: what budgets ask for of its jobs."""
    cache_write: CacheWrite = ""
    """Time for which the provider's prompt cache keeps what its jobs write to it."""
    warmer: str | None = None
    """The job that is to warm the provider's cache before the others go, where its requests have a common prefix."""
    cold: bool = False
    """True while no job warms the cache or has warmed it: one may go."""
    warm_route: str | None = None
    """The route whose provider's cache is warm."""
    answered: bool = False
    """The last one was answered without a call, as the others may be: a whole chunk may go instead of one by one."""


class Head(NamedTuple):
    """A waiting job near the head of the line."""

    id: str
    flow_id: int
    rank: float
    tried: tuple[str, ...]
    doubted_by: str | None
    input_estimate: int
    max_tokens: int


class Outstanding(NamedTuple):
    """The outstanding jobs of one class and model at a route: dispatched or running."""

    route: str
    latency: Latency
    model: str
    jobs: int
    queued: int
    """The ones not claimed yet: they have no permit."""
    input_tokens: int
    """Input tokens that the queued ones will ask for."""
    output_tokens: int
    isolated: int = 0
    """The ones that run each in a process of its own."""


_FLOWS = text(
    """
    SELECT f.id, f.latency, f.model, f.residency, f.compliance, f.features, f.isolated, f.batch_id, f.labels,
           f.cache_write, f.prefix, f.warmer, f.warming_until, w.state AS warmer_state, w.route AS warmer_route,
           w.attempts AS warmer_calls
      FROM flows f LEFT JOIN jobs w ON w.id = f.warmer
     WHERE f.active AND NOT f.held
       AND EXISTS (SELECT 1 FROM jobs WHERE flow_id = f.id AND state = 'waiting' AND ended_at IS NULL)
    """
)
_LOCK_FLOWS = "SELECT id FROM flows WHERE id IN :ids ORDER BY signature"
_ELECT = text(
    """
    UPDATE flows SET warmer = :warmer, warming_until = :until
     WHERE id = :id AND coalesce(warmer, '') = :before RETURNING id
    """
)
_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_OUTSTANDING = text(
    """
    SELECT j.route, f.latency, f.model, count(*) AS jobs,
           sum(CASE WHEN j.state = 'dispatched' THEN 1 ELSE 0 END) AS queued,
           sum(CASE WHEN j.state = 'dispatched' THEN j.input_estimate ELSE 0 END) AS input_tokens,
           sum(CASE WHEN j.state = 'dispatched' THEN j.max_tokens ELSE 0 END) AS output_tokens,
           sum(CASE WHEN f.isolated THEN 1 ELSE 0 END) AS isolated
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.state IN ('dispatched', 'running') AND j.route IS NOT NULL
     GROUP BY j.route, f.latency, f.model
    """
)
_HEAD_COLUMNS = "id, flow_id, rank, tried, doubted_by, input_estimate, max_tokens"
_URGENT = RowsStatement(
    schema.jobs,
    f"""
    SELECT {_HEAD_COLUMNS} FROM jobs
     WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at < :before AND state = 'waiting'
       AND NOT EXISTS (SELECT 1 FROM flows WHERE flows.id = jobs.flow_id AND flows.held)
       AND flow_id NOT IN (SELECT r.flow_id FROM {{rows}})
     ORDER BY deadline_at LIMIT :limit
    """,
)
# locked rows (being cancelled or expired) are skipped: only free rows are locked, all at once
_MARK = RowsStatement(
    schema.jobs,
    """
    WITH free AS MATERIALIZED (
        SELECT id FROM jobs
         WHERE id IN (SELECT r.id FROM {rows}) AND state || '' = 'waiting' {FOR UPDATE SKIP LOCKED}
    )
    UPDATE jobs SET state = 'dispatched', route = :route, dispatched_until = :until, claim = claim + 1
     WHERE id IN (SELECT id FROM free)
    RETURNING id, claim, input_estimate, max_tokens, cache_key
    """,
)
_ADVANCE_CLOCK = text("UPDATE virtual_clock SET rank = :rank WHERE id = 1 AND rank < :rank")
_LOCK_FLOW = "SELECT id FROM flows WHERE id = :id"
_EMPTY_FLOWS = text(
    """
    SELECT id FROM flows
     WHERE active AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = flows.id AND ended_at IS NULL) LIMIT :limit
    """
)
_RETIRE_FLOW = text(
    """
    UPDATE flows SET active = false
     WHERE id = :id AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = :id AND ended_at IS NULL)
    """
)


def flows_with_waiting(connection: Connection, now: float) -> list[Flow]:
    """Return the flows with jobs to dispatch, without those whose jobs wait until the first has warmed a cache."""
    return [
        Flow(
            row.id,
            Latency(row.latency),
            row.model,
            tuple(orjson.loads(row.residency)),
            tuple(orjson.loads(row.compliance)),
            tuple(orjson.loads(row.features)),
            bool(row.isolated),
            row.batch_id,
            row.labels,
            row.cache_write,
            *(_warmth(row) if row.prefix else ()),
        )
        for row in connection.execute(_FLOWS)
        if row.warmer is None or row.warmer_state not in OUTSTANDING_STATES or row.warming_until <= now
    ]


def _warmth(row: Row[Any]) -> tuple[str | None, bool, str | None, bool]:
    """Return (warmer, cold, warm route, answered); a warmer that waits again, or is gone, has warmed nothing."""
    answered = row.warmer_state == JobState.SUCCEEDED and not row.warmer_calls  # by the response cache
    cold = answered or row.warmer_state is None or row.warmer_state in BACKLOG_STATES
    warm_route = row.warmer_route if row.warmer_state == JobState.SUCCEEDED and not answered else None
    return row.warmer, cold, warm_route, answered


def elect(store: Store, connection: Connection, warmers: Mapping[int, tuple[str | None, str, float]]) -> set[int]:
    """Let one job of each of these flows go first. Returns the flows for which no other scheduler was quicker.

    Args:
        warmers: by flow, the previous warmer, the new one, and the time until which the others wait for it.
    """
    if not warmers:
        return set()
    lock = text(_LOCK_FLOWS + store.for_update).bindparams(bindparam("ids", expanding=True))
    connection.execute(lock, {"ids": list(warmers)})  # before any job, as everywhere
    return {
        flow_id
        for flow_id, (before, warmer, until) in warmers.items()
        if connection.execute(
            _ELECT, {"id": flow_id, "before": before or "", "warmer": warmer, "until": until}
        ).one_or_none()
    }


def lock(store: Store, connection: Connection) -> None:
    """Hold the dispatchers' lock, so that only one counts and takes credit, until the transaction ends."""
    if not store.sqlite:
        connection.execute(_LOCK, {"lock": DISPATCH_LOCK})


def outstanding(connection: Connection) -> list[Outstanding]:
    """Return the outstanding jobs of each route, by class and model."""
    return [Outstanding(route, Latency(latency), *rest) for route, latency, *rest in connection.execute(_OUTSTANDING)]


def heads(connection: Connection, flow_ids: Sequence[int], limit: int) -> list[Head]:
    """Return the first waiting jobs of each flow by rank. Nothing is locked: most of them will be passed over."""
    found: list[Head] = []
    for first in range(0, len(flow_ids), FLOWS_AT_ONCE):
        some = flow_ids[first : first + FLOWS_AT_ONCE]
        ids = {f"flow_{number}": flow_id for number, flow_id in enumerate(some)}
        found += [_head(*row) for row in connection.execute(_heads_of(len(some)), {**ids, "limit": limit})]
    return found


def _head(job_id: str, flow_id: int, rank: float, tried: str, *rest: Any) -> Head:
    return Head(job_id, flow_id, rank, tried_of(tried), *rest)


@lru_cache(maxsize=FLOWS_AT_ONCE)
def _heads_of(flows: int) -> TextClause:
    """Return one statement that scans the index once for each flow."""
    return text(
        " UNION ALL ".join(
            f"""
            SELECT * FROM (
                SELECT {_HEAD_COLUMNS} FROM jobs
                 WHERE flow_id = :flow_{number} AND state = 'waiting' AND ended_at IS NULL
                 ORDER BY rank LIMIT :limit
            ) AS head_{number}
            """
            for number in range(flows)
        )
    )


def urgent(connection: Connection, before: float, limit: int, without: Collection[int] = ()) -> list[Head]:
    """Return the waiting jobs with the nearest deadlines before this time, without those that nobody may dispatch.

    Args:
        without: flows to pass over.
    """
    rows = [{"flow_id": flow_id} for flow_id in sorted(without)]
    return [_head(*row) for row in query_rows(connection, _URGENT, rows, before=before, limit=limit)]


def mark_dispatched(connection: Connection, ids: Sequence[str], route: str, until: float) -> list[DispatchedJob]:
    """Dispatch jobs to a route; each gets a new claim number. Jobs that no longer wait are passed over."""
    rows = [{"id": job_id} for job_id in ids]
    return [DispatchedJob(*row) for row in query_rows(connection, _MARK, rows, route=route, until=until)]


def advance_clock(connection: Connection, rank: float) -> None:
    """Note the highest rank dispatched, from which newcomers start."""
    connection.execute(_ADVANCE_CLOCK, {"rank": rank})


def empty_flows(connection: Connection, limit: int) -> list[int]:
    """Return active flows without a living job."""
    return [row.id for row in connection.execute(_EMPTY_FLOWS, {"limit": limit})]


def retire_if_empty(store: Store, connection: Connection, flow_id: int) -> None:
    """Deactivate a flow without living jobs, so that no pass reads it. A new job makes it active again."""
    # the row lock waits for inserts under way; only a statement begun after it sees them
    connection.execute(text(_LOCK_FLOW + store.for_update), {"id": flow_id})
    connection.execute(_RETIRE_FLOW, {"id": flow_id})
