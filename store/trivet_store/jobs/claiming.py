"""A worker claims dispatched jobs: the fenced claim, the requests, and the attempt rows that exist before the calls.

Only the database decides which route, model and requirements a job has. A message that says otherwise takes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, text

from trivet_store import schema
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.requests.prompt_cache import CACHE_WRITE_FACTORS, cache_write_of
from trivet_tasks.states import AttemptPurpose, JobState

MISFIT_AGAIN_S = 10.0
"""Seconds a job waits that came back to a worker whose configuration does not allow it there."""


class Token(NamedTuple):
    """A job and the claim number it is to be worked under."""

    id: str
    claim: int


class Prompt:
    """A request's body as JSON, until it is released: a call under way has a copy in its own request."""

    __slots__ = ("body", "cache_write")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.cache_write = CACHE_WRITE_FACTORS[cache_write_of(body)]

    def maximum(self, estimate: Decimal | None) -> Decimal | None:
        """Return the maximum cost of a call in USD, given its maximum cost without a prompt cache."""
        return None if estimate is None else estimate * self.cache_write

    def let_go(self) -> None:
        """Release the body: no further call will be begun with it."""
        self.body = b""


class ClaimedJob(NamedTuple):
    """A job that this worker holds now."""

    id: str
    claim: int
    batch_id: int | None
    created_at: float
    deadline_at: float | None
    round: int
    round_spent_s: float
    tried: str
    doubted_by: str | None
    proxy_errors: str
    """JSON: the pages of proxies that it met."""
    input_estimate: int
    max_tokens: int
    crashes: int
    tenant: str | None
    attempt_id: str
    prompt: Prompt
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    features: tuple[str, ...]
    probe: bool
    isolated: bool = False
    cache_key: str | None = None
    """The key under which its answer may be cached."""


@dataclass(frozen=True, slots=True)
class CallTarget:
    """The target of the calls of a chunk: the columns that all its attempt rows have in common."""

    lease_id: str
    route: str
    provider: str
    model: str
    wire_model: str
    latency: str
    probe: bool = False
    """True if the message calls its job a probe."""
    isolated: bool = False
    """True if the message says that its job runs in a process of its own."""


class Misfit(NamedTuple):
    """A job whose requirements this worker's own configuration of the route does not meet. It waits again."""

    id: str
    reason: str


class ClaimResult(NamedTuple):
    """The result of claiming the jobs of a message. Jobs in none of the lists no longer belong to this message."""

    taken: list[ClaimedJob]
    forged: tuple[str, ...] = ()
    """Ids of jobs whose message contradicts the database; they are left unchanged."""
    misfits: tuple[Misfit, ...] = ()


Unfit: TypeAlias = Callable[[tuple[str, ...], tuple[str, ...], tuple[str, ...]], str]
"""Returns why a route does not take a job of this residency, compliance and these features; empty when it does."""


_LIVING_LEASE = "SELECT id FROM leases WHERE id = :lease_id AND expires_at >= :now"
_AS_THE_MESSAGE_SAYS: Final = """
       jobs.route = :route AND jobs.input_estimate = r.input_estimate AND jobs.max_tokens = r.max_tokens
       AND coalesce(jobs.cache_key, '') = coalesce(r.cache_key, '')
       AND EXISTS (SELECT 1 FROM flows
                    WHERE flows.id = jobs.flow_id AND flows.model = :model AND flows.latency = :latency
                      AND flows.probe = :probe AND flows.isolated = :isolated)
"""
# `|| ''` keeps PostgreSQL from reading all dispatched jobs by the index of the outstanding ones, of which it expects few
_CLAIM = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET state = 'running', lease_id = :lease_id, attempts = attempts + 1
      FROM {{rows}}
     WHERE jobs.id = r.id AND jobs.claim = r.claim AND state || '' = 'dispatched'
       AND (deadline_at IS NULL OR deadline_at > :now)
       AND {_AS_THE_MESSAGE_SAYS}
    RETURNING jobs.id, jobs.claim, batch_id, created_at, deadline_at, round, round_spent_s, tried, doubted_by,
              proxy_errors, jobs.input_estimate, jobs.max_tokens, crashes, tenant, jobs.cache_key
    """,
)
# asked after `_CLAIM`, of the jobs it left: these have the message's claim number and contradict it in something else
_FORGED = RowsStatement(
    schema.jobs,
    """
    SELECT jobs.id FROM {rows} JOIN jobs ON jobs.id = r.id AND jobs.claim = r.claim
     WHERE jobs.state || '' = 'dispatched' AND (jobs.deadline_at IS NULL OR jobs.deadline_at > :now)
    """,
)
_MISFIT = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = r.state, not_before = r.not_before, tried = r.tried, last_error = r.last_error,
                    lease_id = NULL, route = NULL, dispatched_until = NULL, attempts = jobs.attempts - 1
      FROM {rows}
     WHERE jobs.id = r.id
    """,
)
_HELD = "SELECT id FROM jobs WHERE id = :id AND claim = :claim AND lease_id = :lease_id AND state = 'running'"
_COUNT_ATTEMPT = text("UPDATE jobs SET attempts = attempts + 1 WHERE id = :id")
_REQUESTS = RowsStatement(
    schema.jobs,
    """
    SELECT j.id, q.body, f.residency, f.compliance, f.features, f.probe, f.isolated
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
_GIVE_BACK = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL, last_error = coalesce(last_error, :why)
      FROM {rows}
     WHERE jobs.id = r.id AND jobs.claim = r.claim AND state || '' = 'dispatched' AND jobs.route = :route
    """,
)


def claim(
    connection: Connection,
    target: CallTarget,
    claimed: Sequence[DispatchedJob],
    *,
    now: float,
    attempt_ids: Sequence[str],
    estimates: Sequence[Decimal | None],
    unfit: Unfit = lambda *_: "",
) -> ClaimResult:
    """Claim jobs and write the row of the attempt that each is about to make.

    Args:
        target: the target of their calls, as the message has it; a job that contradicts the database is not claimed.
        claimed: jobs as the message has them; a job whose claim number is stale, or whose deadline has passed, is left
            out of the answer.
        attempt_ids: the id of the attempt of each job.
        estimates: the maximum cost of each job's call in USD, without a prompt cache; the row holds it until the call
            is settled, raised where the request is marked for a cache.
        unfit: whether this worker's own configuration of the route allows a job with such requirements.

    Nothing is claimed under a lease that has run out: nobody would rescue it.
    """
    # held until the commit, so that no rescuer drops the lease in between; heartbeats go on beside it
    hold = " FOR KEY SHARE" if connection.dialect.name == "postgresql" else ""
    living = connection.execute(text(_LIVING_LEASE + hold), {"lease_id": target.lease_id, "now": now})
    if living.one_or_none() is None:
        return ClaimResult([])
    message = {
        "route": target.route,
        "model": target.model,
        "latency": target.latency,
        "probe": target.probe,
        "isolated": target.isolated,
    }
    in_order = [job._asdict() for job in sorted(claimed, key=_id)]
    rows = query_rows(connection, _CLAIM, in_order, lease_id=target.lease_id, now=now, **message).all()
    forged: tuple[str, ...] = ()
    if len(rows) < len(claimed):
        held = {row.id for row in rows}
        left = [job for job in in_order if job["id"] not in held]
        forged = tuple(row.id for row in query_rows(connection, _FORGED, left, now=now))
    if not rows:
        return ClaimResult([], forged)
    requests = {row.id: row for row in query_rows(connection, _REQUESTS, [{"id": row.id} for row in rows])}
    attempt_of = {job.id: attempt_id for job, attempt_id in zip(claimed, attempt_ids, strict=True)}
    estimate_of = {job.id: estimate for job, estimate in zip(claimed, estimates, strict=True)}
    taken: list[ClaimedJob] = []
    misfits: list[dict[str, object]] = []
    reasons: dict[tuple[str, str, str], str] = {}
    for row in rows:
        request = requests[row.id]
        listed = request.residency, request.compliance, request.features
        residency, compliance, features = map(_names, listed)
        if listed not in reasons:
            reasons[listed] = unfit(residency, compliance, features)
        if reasons[listed]:
            misfits.append(_misfit(row.id, row.tried, target.route, reasons[listed], now))
            continue
        taken.append(
            ClaimedJob._make(
                (
                    *row[:-1],  # in the order of RETURNING
                    attempt_of[row.id],
                    Prompt(bytes(request.body)),
                    residency,
                    compliance,
                    features,
                    bool(request.probe),
                    bool(request.isolated),
                    row.cache_key,
                )
            )
        )
    execute_rows(connection, _MISFIT, misfits)
    new = [
        _row(
            target,
            job,
            job.attempt_id,
            now,
            estimate_of[job.id],
            AttemptPurpose.PROBE if job.probe else AttemptPurpose.JOB,
        )
        for job in taken
    ]
    execute_rows(connection, _ADD_ATTEMPTS, new)
    return ClaimResult(taken, forged, tuple(Misfit(str(row["id"]), str(row["last_error"])) for row in misfits))


def _misfit(job_id: str, tried: str, route: str, reason: str, now: float) -> dict[str, object]:
    """Return the row that sends a misfit elsewhere; it waits if it has been here before, so that it does not loop."""
    before = tried.split(",") if tried else []
    again = route in before
    return {
        "id": job_id,
        "state": (JobState.DELAYED if again else JobState.WAITING).value,
        "not_before": now + MISFIT_AGAIN_S if again else None,
        "tried": ",".join(before if again else [*before, route]),
        "last_error": f"{route}: the configuration of its worker does not allow this job: it {reason}",
    }


def add_attempt(
    connection: Connection,
    target: CallTarget,
    job: ClaimedJob,
    attempt_id: str,
    *,
    now: float,
    estimate: Decimal | None,
    purpose: AttemptPurpose,
) -> bool:
    """Write the row of a further attempt of a job that this worker holds. False when it no longer holds it."""
    hold = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    token = {"id": job.id, "claim": job.claim, "lease_id": target.lease_id}
    if connection.execute(text(_HELD + hold), token).one_or_none() is None:
        return False
    execute_rows(connection, _ADD_ATTEMPTS, [_row(target, job, attempt_id, now, estimate, purpose)])
    connection.execute(_COUNT_ATTEMPT, {"id": job.id})
    return True


def _row(
    target: CallTarget, job: ClaimedJob, attempt_id: str, now: float, estimate: Decimal | None, purpose: AttemptPurpose
) -> dict[str, Any]:
    return {
        "id": attempt_id,
        "job_id": job.id,
        "claim": job.claim,
        "round": job.round,
        "lease_id": target.lease_id,
        "route": target.route,
        "provider": target.provider,
        "model": target.model,
        "wire_model": target.wire_model,
        "latency": target.latency,
        "started_at": now,
        "cost_usd": job.prompt.maximum(estimate),
        "purpose": purpose.value,
    }


def give_back(connection: Connection, route: str, tokens: Sequence[Token], why: str | None = None) -> None:
    """Put jobs that were dispatched to this route, and that this worker did not start, back to waiting.

    Args:
        why: the error of a job that ends before it has another one.
    """
    # by id, as jobs are locked everywhere
    query_rows(connection, _GIVE_BACK, [token._asdict() for token in sorted(tokens)], route=route, why=why)


_id = attrgetter("id")


@lru_cache(maxsize=256)
def _names(listed: str) -> tuple[str, ...]:
    return tuple(orjson.loads(listed))
