"""A worker claims dispatched jobs: the fenced claim, the requests, and the attempt rows that exist before the calls.

Only the database decides which route, model and requirements a job has. A message that says otherwise takes nothing.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, Row

from trivet_store import schema
from trivet_store.database.locking import select_locked
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_store.jobs import transitions
from trivet_store.steps import CallTarget, ClaimedJob, JobRound, Prompt
from trivet_tasks.jobs import DispatchedJob, Permit, proxy_errors_of, tried_of, tried_text
from trivet_tasks.states import AttemptPurpose

MISFIT_AGAIN_S = 10.0
"""Seconds a job waits that came back to a worker whose configuration does not allow it there."""


class Misfit(NamedTuple):
    """A job whose requirements this worker's own configuration of the route does not meet. It waits again."""

    id: str
    reason: str


class ClaimResult(NamedTuple):
    """The result of claiming the jobs of a message. Jobs in none of the lists no longer belong to this message."""

    claimed: list[ClaimedJob]
    forged: tuple[str, ...] = ()
    """Ids of jobs whose message contradicts the database; they are left unchanged."""
    misfits: tuple[Misfit, ...] = ()


Unfit: TypeAlias = Callable[[tuple[str, ...], tuple[str, ...], tuple[str, ...]], str]
"""Returns why a route does not take a job of this residency, compliance and these features; empty when it does."""


_LIVING_LEASE = "SELECT id FROM leases WHERE id = :lease_id AND expires_at >= :now {FOR KEY SHARE}"
# asked after the start, of the jobs it left: these have the message's claim number and contradict it in something else
_FORGED = RowsStatement(
    schema.jobs,
    """
    SELECT jobs.id FROM {rows} JOIN jobs ON jobs.id = r.id AND jobs.claim = r.claim
     WHERE jobs.state || '' = 'dispatched' AND (jobs.deadline_at IS NULL OR jobs.deadline_at > :now)
    """,
)
_HELD = """
    SELECT id FROM jobs WHERE id = :id AND claim = :claim AND lease_id = :lease_id AND state = 'running' {FOR UPDATE}
"""
_REQUESTS = RowsStatement(
    schema.jobs,
    """
    SELECT j.id, j.streamed, q.body, f.residency, f.compliance, f.features
      FROM {rows} JOIN jobs j ON j.id = r.id JOIN job_requests q ON q.job_id = j.id JOIN flows f ON f.id = j.flow_id
    """,
)
_ADD_ATTEMPTS = RowsStatement(
    schema.attempts,
    """
    INSERT INTO attempts (id, job_id, claim, round, lease_id, route, provider, model, wire_model, latency, started_at,
                          cost_usd, estimated, purpose)
    SELECT r.id, r.job_id, r.claim, r.round, r.lease_id, r.route, r.provider, r.model, r.wire_model, r.latency,
           r.started_at, r.cost_usd, true, r.purpose
      FROM {rows}
    """,
)


def claim(
    connection: Connection,
    target: CallTarget,
    dispatched: Sequence[DispatchedJob],
    *,
    now: float,
    attempt_ids: Sequence[str],
    permits: Sequence[Permit],
    estimates: Sequence[Decimal | None],
    unfit: Unfit = lambda *_: "",
) -> ClaimResult:
    """Claim jobs and write the row of the attempt that each is about to make.

    Args:
        target: the target of their calls, as the message has it; a job that contradicts the database is not claimed.
        dispatched: jobs as the message has them; a job whose claim number is stale, or whose deadline has passed, is
            left out of the answer.
        attempt_ids: the id of the attempt of each job.
        permits: the permit of each job's call.
        estimates: the maximum cost of each job's call in USD, without a prompt cache; the row holds it until the call
            is settled, raised where the request is marked for a cache.
        unfit: returns why this worker's own configuration of the route does not allow a job with such requirements.

    Nothing is claimed under a lease that has run out: nobody would rescue it.
    """
    # held until the commit, so that no rescuer drops the lease in between; heartbeats go on beside it
    if not select_locked(connection, _LIVING_LEASE, lease_id=target.lease_id, now=now):
        return ClaimResult([])
    rows, forged = _start(connection, target, dispatched, now)
    if not rows:
        return ClaimResult([], forged)
    requests = {row.id: row for row in query_rows(connection, _REQUESTS, [{"id": row.id} for row in rows])}
    attempts = zip(attempt_ids, permits, strict=True)
    attempt_of = {job.id: attempt for job, attempt in zip(dispatched, attempts, strict=True)}
    estimate_of = {job.id: estimate for job, estimate in zip(dispatched, estimates, strict=True)}
    reason_of = cache(unfit)
    claimed: list[ClaimedJob] = []
    misfits: list[dict[str, object]] = []
    for row in rows:
        request = requests[row.id]
        requirements = _names(request.residency), _names(request.compliance), _names(request.features)
        if reason := reason_of(*requirements):
            misfits.append(_misfit(row.id, tried_of(row.tried), target.route, reason, now))
        else:
            claimed.append(_claimed(row, target, *attempt_of[row.id], request, *requirements))
    transitions.put_back(connection, target.lease_id, misfits)
    purpose = AttemptPurpose.PROBE if target.probe else AttemptPurpose.JOB
    execute_rows(connection, _ADD_ATTEMPTS, [_row(job, now, estimate_of[job.id], purpose) for job in claimed])
    return ClaimResult(claimed, forged, tuple(Misfit(str(row["id"]), str(row["last_error"])) for row in misfits))


def _start(
    connection: Connection, target: CallTarget, dispatched: Sequence[DispatchedJob], now: float
) -> tuple[Sequence[Row[Any]], tuple[str, ...]]:
    """Start the jobs that are as the message says. Returns their rows, and the ids of those that contradict it."""
    in_order = [job._asdict() for job in sorted(dispatched, key=_id)]
    rows = transitions.start(
        connection,
        in_order,
        lease_id=target.lease_id,
        now=now,
        route=target.route,
        model=target.model,
        latency=target.latency.value,
        probe=target.probe,
        isolated=target.isolated,
    )
    if len(rows) == len(dispatched):
        return rows, ()
    started = {row.id for row in rows}
    left = [job for job in in_order if job["id"] not in started]
    return rows, tuple(row.id for row in query_rows(connection, _FORGED, left, now=now))


def _claimed(
    row: Row[Any],
    target: CallTarget,
    attempt_id: str,
    permit: Permit,
    request: Row[Any],
    residency: tuple[str, ...],
    compliance: tuple[str, ...],
    features: tuple[str, ...],
) -> ClaimedJob:
    return ClaimedJob(
        id=row.id,
        claim=row.claim,
        target=target,
        attempt_id=attempt_id,
        permit=permit,
        prompt=Prompt(bytes(request.body)),
        batch_id=row.batch_id,
        deadline_at=row.deadline_at,
        round=JobRound(
            row.round,
            row.round_spent_s,
            tried_of(row.tried),
            row.doubted_by,
            proxy_errors_of(row.proxy_errors),
            tried_of(row.too_slow),
        ),
        input_estimate=row.input_estimate,
        max_tokens=row.max_tokens,
        tenant=row.tenant,
        cache_key=row.cache_key,
        residency=residency,
        compliance=compliance,
        features=features,
        streamed=bool(request.streamed),
    )


def _misfit(job_id: str, tried: tuple[str, ...], route: str, reason: str, now: float) -> dict[str, object]:
    """Return the row that sends a misfit elsewhere; it waits if it has been here before, so that it does not loop."""
    again = route in tried
    return {
        "id": job_id,
        "not_before": now + MISFIT_AGAIN_S if again else None,
        "tried": tried_text(tried if again else (*tried, route)),
        "last_error": f"{route}: the configuration of its worker does not allow this job: it {reason}",
        "attempts": 1,  # counted at the start, and not made
    }


def add_attempt(
    connection: Connection, job: ClaimedJob, *, now: float, estimate: Decimal | None, purpose: AttemptPurpose
) -> bool:
    """Write the row of a further attempt of a job that this worker holds. False when it no longer holds it."""
    if not select_locked(connection, _HELD, id=job.id, claim=job.claim, lease_id=job.target.lease_id):
        return False
    execute_rows(connection, _ADD_ATTEMPTS, [_row(job, now, estimate, purpose)])
    transitions.count_attempt(connection, job.id)
    return True


def _row(job: ClaimedJob, now: float, estimate: Decimal | None, purpose: AttemptPurpose) -> dict[str, Any]:
    target = job.target
    return {
        "id": job.attempt_id,
        "job_id": job.id,
        "claim": job.claim,
        "round": job.round.number,
        "lease_id": target.lease_id,
        "route": target.route,
        "provider": target.provider,
        "model": target.model,
        "wire_model": target.wire_model,
        "latency": target.latency.value,
        "started_at": now,
        "cost_usd": job.prompt.maximum_cost(estimate),
        "purpose": purpose.value,
    }


def give_back(connection: Connection, route: str, jobs: Sequence[DispatchedJob], why: str | None = None) -> None:
    """Put jobs that were dispatched to this route, and that this worker did not start, back to waiting.

    Args:
        why: the error of a job that ends before it has another one.
    """
    # by id, as jobs are locked everywhere
    rows = [{"id": job.id, "claim": job.claim, "route": route, "last_error": why} for job in sorted(jobs, key=_id)]
    transitions.recall(connection, rows)


_id = attrgetter("id")


@lru_cache(maxsize=256)
def _names(listed: str) -> tuple[str, ...]:
    return tuple(orjson.loads(listed))
