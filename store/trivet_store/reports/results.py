"""Reading jobs: results, whole lives, lists."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, String, TextualSelect, bindparam, text

from trivet_store.database.many_rows import of_ids
from trivet_store.jobs.ending import NOTHING, costs_of
from trivet_store.jobs.enqueue import key_owner
from trivet_store.schema import Usd
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import AttemptPurpose, JobState
from trivet_tasks.tenant_scope import TenantScope, in_scope


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One provider call of a job. Times are seconds since the epoch, `cost_usd` an estimate where `estimated`."""

    id: str
    job_id: str
    route: str
    outcome: Outcome | None
    """None while the call runs."""
    started_at: float
    latency_s: float | None
    status: int | None
    request_id: str | None
    message: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    estimated: bool
    purpose: AttemptPurpose
    provider: str
    model_used: str | None = None
    """The model that answered; None: the one asked for."""


@dataclass(frozen=True, slots=True)
class RetryRow:
    """The end of a job before it was made to run again at `at`. Times are seconds since the epoch."""

    job_id: str
    at: float
    ended_at: float
    state: JobState
    error_outcome: Outcome | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """The present state of a job; the result's fields are None until it has ended."""

    id: str
    key: str | None
    state: JobState
    latency: str
    model: str
    batch: str | None
    created_at: float
    deadline_at: float | None
    not_before: float | None
    ended_at: float | None
    batch_seq: int | None
    index: int | None
    """Its position among the requests of its batch, from 0; None: it is in none."""
    round: int
    last_outcome: Outcome | None
    last_error: str | None
    tenant: str | None
    tags: dict[str, str]
    metadata: dict[str, Any] = field(repr=False)
    message: bytes | None = field(repr=False)
    stop_reason: str | None
    error_outcome: Outcome | None
    error_message: str | None
    route: str | None
    cost_usd: Decimal | None
    latency_s: float | None
    cached: bool
    probe: bool
    """True if it is one of Trivet's own probes, not anybody's job."""
    crashes: int
    """Worker processes that died with it in flight."""
    isolated_crashes: int
    """Isolated processes among them, since it was submitted or last made to run again."""
    saved_usd: Decimal | None = None
    """Cost of the call that made a cached answer; None where that has no price, or was pruned."""
    pruned: bool = False
    """True if it has ended and its result is not kept any more; `cost_usd` and `latency_s` are worked out from what is."""
    estimated_usd: Decimal = Decimal(0)
    """Maximum further cost: calls whose cost is not known, such as timeouts. Read by `with_estimates` alone."""


class JobEnd(NamedTuple):
    """The end of a job, in short."""

    id: str
    state: JobState
    key: str | None
    batch: str | None
    tenant: str | None
    ended_at: float
    """Seconds since the epoch."""


_ENDS = of_ids(
    """
    SELECT j.id, j.state, j.key, b.name AS batch, j.tenant, j.ended_at
      FROM jobs j JOIN flows f ON f.id = j.flow_id LEFT JOIN batches b ON b.id = j.batch_id
     WHERE j.id IN :ids AND j.ended_at IS NOT NULL AND NOT f.probe ORDER BY j.ended_at, j.id
    """
)
_JOB = """
    SELECT j.id, j.key, j.state, f.latency, f.model, b.name AS batch, j.created_at, j.deadline_at, j.not_before,
           j.ended_at, j.batch_seq, j.batch_index AS "index", j.round, j.last_outcome, j.last_error, j.tenant, j.tags, j.metadata,
           r.message, r.stop_reason, r.error_outcome, r.error_message, coalesce(r.route, j.route) AS route,
           r.cost_usd, r.latency_s, coalesce(r.cached, false) AS cached, r.saved_usd, f.probe,
           j.crashes, j.isolated_crashes,
           j.ended_at IS NOT NULL AND r.job_id IS NULL AS pruned
      FROM jobs j
      JOIN flows f ON f.id = j.flow_id
      LEFT JOIN batches b ON b.id = j.batch_id
      LEFT JOIN job_results r ON r.job_id = j.id
"""
_BY_KEY = "j.key = :key AND j.key_owner = :owner"
_LINES = "j.key = :key AND j.batch_id = :batch_id"
_IN_BATCH = "j.batch_id = :batch_id AND j.batch_seq > :after AND j.batch_seq IS NOT NULL"
_LAST = text("SELECT coalesce(max(batch_seq), 0) FROM jobs WHERE batch_id = :id AND batch_seq IS NOT NULL")
_BATCH_IDS = text(
    """
    SELECT id FROM jobs WHERE batch_id = :id AND batch_seq IS NOT NULL
     UNION ALL
    SELECT j.id FROM flows f JOIN jobs j ON j.flow_id = f.id WHERE f.batch_id = :id AND j.ended_at IS NULL
     ORDER BY id
    """
)
_LIVING = of_ids("SELECT id FROM jobs WHERE id IN :ids AND ended_at IS NULL")
_ATTEMPTS = of_ids(
    """
    SELECT id, job_id, route, outcome, started_at, latency_s, status, request_id, message, input_tokens,
           output_tokens, cost_usd, estimated, purpose, provider, model_used
      FROM attempts WHERE job_id IN :ids ORDER BY started_at, id
    """
).columns(cost_usd=Usd())
_RETRIES = text(
    "SELECT job_id, at, ended_at, state, error_outcome, error_message FROM retries WHERE job_id = :id ORDER BY id"
)
_BODIES = of_ids("SELECT job_id, body FROM job_requests WHERE job_id IN :ids")
_BODY_SIZES = of_ids("SELECT job_id, length(body) AS bytes FROM job_requests WHERE job_id IN :ids")


def jobs_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, JobRow]:
    """Return jobs by id; unknown ids are left out."""
    return {job.id: job for job in _read(connection, "j.id IN :ids", ids=list(ids))}


def ended_among(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Return the ids of the jobs among these that have ended, or are not there."""
    left = set(connection.execute(_LIVING, {"ids": list(ids)}).scalars())
    return [job_id for job_id in ids if job_id not in left]


def job_by_key(connection: Connection, key: str, tenant: str | None = None) -> JobRow | None:
    """Return the job of a tenant's idempotency key; without a tenant, of those that have none."""
    found = _read(connection, _BY_KEY, key=key, owner=key_owner(tenant))
    return found[0] if found else None


def jobs_of_line(connection: Connection, batch_id: int, key: str, tenant: str | None = None) -> list[JobRow]:
    """Return the jobs of a batch with this key, of this tenant or of any: one, or one a tenant in a batch with `dedupe`."""
    found = _read(connection, _LINES, batch_id=batch_id, key=key)
    return [job for job in found if tenant in (None, job.tenant)]


def batch_page(connection: Connection, batch_id: int, after: int, limit: int) -> list[JobRow]:
    """Return ended jobs of a batch in the order they ended, those after number `after`."""
    page = f"{_IN_BATCH} ORDER BY j.batch_seq LIMIT :limit"
    return _read(connection, page, batch_id=batch_id, after=after, limit=limit)


def batch_page_upto(
    connection: Connection, batch_id: int, after: int, upto: int, states: Collection[JobState], limit: int
) -> list[JobRow]:
    """Return the same for jobs in these end states and up to number `upto`."""
    page = f"{_IN_BATCH} AND j.batch_seq <= :upto AND j.state IN :states ORDER BY j.batch_seq LIMIT :limit"
    named = [state.value for state in states]
    return _read(connection, page, batch_id=batch_id, after=after, upto=upto, states=named, limit=limit)


def last_number(connection: Connection, batch_id: int) -> int:
    """Return the number of the batch's last job that has ended; 0 where none has."""
    return int(connection.execute(_LAST, {"id": batch_id}).scalar_one())


def batch_job_ids(connection: Connection, batch_id: int) -> list[str]:
    """Return the ids of the batch's jobs in the order of their requests, which is that of the ids."""
    return list(connection.execute(_BATCH_IDS, {"id": batch_id}).scalars())


def recent_jobs(
    connection: Connection,
    *,
    state: JobState | None,
    batch_id: int | None,
    limit: int,
    scope: TenantScope | None = None,
    before: str | None = None,
) -> list[JobRow]:
    """Return the newest jobs first, without Trivet's own probes.

    Args:
        scope: only jobs of this tenant.
        before: only jobs that were submitted before the one of this id.
    """
    given = {"state": state, "batch_id": batch_id}
    given = {name: value for name, value in given.items() if value is not None}
    of_tenant, parameters = in_scope(scope, "j.tenant")
    older = "" if before is None else " AND j.id < :before"
    conditions = " AND ".join(["NOT f.probe", *(f"j.{name} = :{name}" for name in given)])
    if before is not None:
        parameters = {**parameters, "before": before}
    where = f"{conditions}{of_tenant}{older} ORDER BY j.id DESC LIMIT :limit"
    return _read(connection, where, limit=limit, **given, **parameters)


def ends_of(connection: Connection, ids: Sequence[str]) -> list[JobEnd]:
    """Return the ends of those of these jobs that have ended, without Trivet's own probes."""
    rows = connection.execute(_ENDS, {"ids": list(ids)})
    return [JobEnd(row.id, JobState(row.state), *row[2:]) for row in rows]


def with_estimates(connection: Connection, jobs: Sequence[JobRow]) -> list[JobRow]:
    """Return jobs with the estimates of their calls."""
    found = attempts_of(connection, [job.id for job in jobs])
    return [replace(job, estimated_usd=estimated(found[job.id])) for job in jobs]


def estimated(attempts: Iterable[AttemptRow]) -> Decimal:
    """Return the maximum cost of the calls among these whose cost is not known. A good one's is in its job's cost."""
    calls = (call for call in attempts if call.estimated and call.outcome is not Outcome.SUCCEEDED)
    return sum((call.cost_usd for call in calls if call.cost_usd is not None), Decimal(0))


def attempts_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[AttemptRow]]:
    """Return all provider calls of jobs, in order."""
    found: dict[str, list[AttemptRow]] = {job_id: [] for job_id in ids}
    for row in connection.execute(_ATTEMPTS, {"ids": list(ids)}):
        values = row._asdict()
        values["estimated"] = bool(row.estimated)
        values["purpose"] = AttemptPurpose(row.purpose)
        values["outcome"] = _outcome(row.outcome)
        found[row.job_id].append(AttemptRow(**values))
    return found


def retries_of(connection: Connection, job_id: str) -> list[RetryRow]:
    """Return the earlier ends of a job that was made to run again, in order."""
    return [
        RetryRow(row.job_id, row.at, row.ended_at, JobState(row.state), _outcome(row.error_outcome), row.error_message)
        for row in connection.execute(_RETRIES, {"id": job_id})
    ]


def request_bodies(connection: Connection, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the Messages API bodies of jobs as JSON, without `model`; those that are no longer kept are left out."""
    return {row.job_id: bytes(row.body) for row in connection.execute(_BODIES, {"ids": list(ids)})}


def request_sizes(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Return the sizes of those bodies, in bytes: they are too large to be read by the page."""
    return {row.job_id: int(row.bytes) for row in connection.execute(_BODY_SIZES, {"ids": list(ids)})}


def _read(connection: Connection, where: str, **parameters: object) -> list[JobRow]:
    """Return jobs by a condition; a parameter that is a list is for `IN :name`, and holds texts."""
    lists = tuple(name for name, value in parameters.items() if isinstance(value, list))
    found = [_job(row) for row in connection.execute(_statement(where, lists), parameters)]
    pruned = [job.id for job in found if job.pruned]
    costs = costs_of(connection, pruned) if pruned else {}
    return [replace(job, cost_usd=costs.get(job.id, NOTHING).whole) if job.pruned else job for job in found]


@lru_cache(maxsize=32)
def _statement(where: str, lists: tuple[str, ...]) -> TextualSelect:
    of_lists = [bindparam(name, expanding=True, type_=String()) for name in lists]
    return text(f"{_JOB} WHERE {where}").bindparams(*of_lists).columns(cost_usd=Usd(), saved_usd=Usd())


def _job(row: Row[Any]) -> JobRow:
    values = row._asdict()
    values["state"] = JobState(row.state)
    values["last_outcome"] = _outcome(row.last_outcome)
    values["error_outcome"] = _outcome(row.error_outcome)
    values["tags"] = orjson.loads(row.tags) if row.tags else {}
    values["metadata"] = orjson.loads(row.metadata) if row.metadata else {}
    values["message"] = bytes(row.message) if row.message is not None else None
    values["cached"] = bool(row.cached)
    values["probe"] = bool(row.probe)
    values["pruned"] = bool(row.pruned)
    if values["pruned"]:
        values["error_outcome"] = values["last_outcome"] if row.state != JobState.SUCCEEDED else None
        values["latency_s"] = max(0.0, row.ended_at - row.created_at)
    return JobRow(**values)


def _outcome(text: str | None) -> Outcome | None:
    return None if text is None else Outcome(text)
