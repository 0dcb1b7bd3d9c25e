"""Reads of a dispatcher: active flows, jobs outstanding at each route, the heads of the line; its locks."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, TextClause, text

from trivet_store import controls, schema
from trivet_store.database.engine import Store
from trivet_store.database.locking import lock_flows_by_id
from trivet_store.database.many_rows import RowsStatement, query_rows
from trivet_tasks.jobs import tried_of
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
    priority: int = 0
    """Its jobs go before all of lower priority."""


class Head(NamedTuple):
    """A waiting job near the head of the line."""

    id: str
    flow_id: int
    rank: float
    tried: tuple[str, ...]
    doubted_by: str | None
    input_estimate: int
    max_tokens: int
    too_slow: tuple[str, ...] = ()


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
    f"""
    SELECT f.id, f.latency, f.model, f.residency, f.compliance, f.features, f.isolated, f.batch_id, f.labels,
           f.cache_write, f.prefix, f.warmer, f.warming_until, w.state AS warmer_state, w.route AS warmer_route,
           w.attempts AS warmer_calls, {controls.PRIORITY} AS priority
      FROM flows f LEFT JOIN jobs w ON w.id = f.warmer
     WHERE f.active AND NOT f.held AND NOT {controls.PAUSED}
       AND EXISTS (SELECT 1 FROM jobs WHERE flow_id = f.id AND state = 'waiting' AND ended_at IS NULL)
    """
)
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
_HEAD_COLUMNS = "id, flow_id, rank, tried, doubted_by, input_estimate, max_tokens, too_slow"
_URGENT = RowsStatement(
    schema.jobs,
    f"""
    SELECT {_HEAD_COLUMNS} FROM jobs
     WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at < :before AND state = 'waiting'
       AND NOT EXISTS (SELECT 1 FROM flows f WHERE f.id = jobs.flow_id AND (f.held OR {controls.PAUSED}))
       AND NOT {controls.PAUSED_TENANT.format("jobs")}
       AND flow_id NOT IN (SELECT r.flow_id FROM {{rows}})
     ORDER BY deadline_at LIMIT :limit
    """,
)
_JOB_WITH_FLOW = """
    SELECT f.*, j.id AS job_id, j.rank, j.tried, j.doubted_by, j.input_estimate, j.max_tokens,
           j.too_slow
"""
_WAITING_JOB = text(
    f"{_JOB_WITH_FLOW} FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE j.id = :id AND j.state = 'waiting'"
)
_NEXT_OF_BATCH = text(
    f"""
    {_JOB_WITH_FLOW} FROM batches b
      JOIN flows f ON f.batch_id = b.id AND f.active AND NOT f.held AND NOT {controls.PAUSED}
      JOIN jobs j ON j.flow_id = f.id AND j.state = 'waiting' AND j.ended_at IS NULL
     WHERE b.name = :name ORDER BY j.rank LIMIT 1
    """
)
_ADVANCE_CLOCK = text("UPDATE virtual_clock SET rank = :rank WHERE id = 1 AND rank < :rank")


def flows_with_waiting(connection: Connection, now: float) -> list[Flow]:
    """Return the flows with jobs to dispatch, without those whose jobs wait until the first has warmed a cache."""
    return [
        _flow(row, priority=row.priority, **(_warmth(row) if row.prefix else {}))
        for row in connection.execute(_FLOWS)
        if row.warmer is None or row.warmer_state not in OUTSTANDING_STATES or row.warming_until <= now
    ]


def waiting_job(connection: Connection, job_id: str) -> tuple[Flow, Head] | None:
    """Return a job that waits, as a dispatcher sees it; None when there is none of this id, or it does not wait."""
    return _with_flow(connection.execute(_WAITING_JOB, {"id": job_id}).one_or_none())


def next_of_batch(connection: Connection, name: str) -> tuple[Flow, Head] | None:
    """Return the job of a batch that is next in line; None when none waits."""
    return _with_flow(connection.execute(_NEXT_OF_BATCH, {"name": name}).one_or_none())


def _with_flow(row: Row[Any] | None) -> tuple[Flow, Head] | None:
    if row is None:
        return None
    head = (
        row.job_id, row.id, row.rank, row.tried, row.doubted_by, row.input_estimate, row.max_tokens, row.too_slow,
    )  # fmt: skip
    return _flow(row), _head(*head)


def _flow(row: Row[Any], **more: Any) -> Flow:
    return Flow(
        id=row.id,
        latency=Latency(row.latency),
        model=row.model,
        residency=tuple(orjson.loads(row.residency)),
        compliance=tuple(orjson.loads(row.compliance)),
        features=tuple(orjson.loads(row.features)),
        isolated=bool(row.isolated),
        batch_id=row.batch_id,
        labels=row.labels,
        cache_write=row.cache_write,
        **more,
    )


def _warmth(row: Row[Any]) -> dict[str, Any]:
    """Return how warm the provider's cache is; a warmer that waits again, or is gone, has warmed nothing."""
    succeeded = row.warmer_state == JobState.SUCCEEDED
    answered = succeeded and not row.warmer_calls  # by the response cache
    return {
        "warmer": row.warmer,
        "cold": answered or row.warmer_state is None or row.warmer_state in BACKLOG_STATES,
        "warm_route": row.warmer_route if succeeded and not answered else None,
        "answered": answered,
    }


def elect(connection: Connection, warmers: Mapping[int, tuple[str | None, str, float]]) -> set[int]:
    """Let one job of each of these flows go first. Returns the flows for which no other scheduler was quicker.

    Args:
        warmers: by flow, the previous warmer, the new one, and the time until which the others wait for it.
    """
    if not warmers:
        return set()
    lock_flows_by_id(connection, warmers)  # before any job, as everywhere
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
    checked = controls.any_tenant_paused(connection)
    for first in range(0, len(flow_ids), FLOWS_AT_ONCE):
        some = flow_ids[first : first + FLOWS_AT_ONCE]
        ids = {f"flow_{number}": flow_id for number, flow_id in enumerate(some)}
        found += [_head(*row) for row in connection.execute(_heads_of(len(some), checked), {**ids, "limit": limit})]
    return found


def _head(job_id: str, flow_id: int, rank: float, tried: str, *others_and_too_slow: Any) -> Head:
    *others, too_slow = others_and_too_slow
    return Head(job_id, flow_id, rank, tried_of(tried), *others)._replace(too_slow=tried_of(too_slow))


@lru_cache(maxsize=2 * FLOWS_AT_ONCE)
def _heads_of(flows: int, checked: bool) -> TextClause:
    """Return one statement that scans the index once for each flow.

    Args:
        checked: jobs of paused tenants are left out. They are after the limit: at the head of a line may be a million
            that are yet to be moved to flows of their tenant.
    """
    each = " UNION ALL ".join(
        f"""
        SELECT * FROM (
            SELECT {_HEAD_COLUMNS}{", tenant" if checked else ""} FROM jobs
             WHERE flow_id = :flow_{number} AND state = 'waiting' AND ended_at IS NULL
             ORDER BY rank LIMIT :limit
        ) AS head_{number}
        """
        for number in range(flows)
    )
    if not checked:
        return text(each)
    return text(f"SELECT {_HEAD_COLUMNS} FROM ({each}) AS heads WHERE NOT {controls.PAUSED_TENANT.format('heads')}")


def urgent(connection: Connection, before: float, limit: int, without: Collection[int] = ()) -> list[Head]:
    """Return the waiting jobs with the nearest deadlines before this time, without those that nobody may dispatch.

    Args:
        without: flows to pass over.
    """
    rows = [{"flow_id": flow_id} for flow_id in sorted(without)]
    return [_head(*row) for row in query_rows(connection, _URGENT, rows, before=before, limit=limit)]


def advance_clock(connection: Connection, rank: float) -> None:
    """Note the highest rank dispatched, from which newcomers start."""
    connection.execute(_ADVANCE_CLOCK, {"rank": rank})
