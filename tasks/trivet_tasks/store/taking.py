"""A worker takes up dispatched jobs: the fenced claim, the requests, and the attempt rows that exist before the calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, text

from trivet_tasks.prompt_cache import cache_write_factor
from trivet_tasks.store import schema
from trivet_tasks.store.many_rows import RowsStatement, execute_rows, query_rows


class Token(NamedTuple):
    """A job and the take-up it is to be worked under."""

    id: str
    take_up: int


class Prompt:
    """A request's body, as JSON, until it is let go of: a call under way has it in its own request, and need not twice."""

    __slots__ = ("body", "cache_write")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.cache_write = cache_write_factor(body)

    def most(self, estimate: Decimal | None) -> Decimal | None:
        """The most that a call may cost in USD, from what it may cost with nothing cached."""
        return None if estimate is None else estimate * self.cache_write

    def let_go(self) -> None:
        """No further call will be begun with it."""
        self.body = b""


class Taken(NamedTuple):
    """A job that this worker holds now."""

    id: str
    take_up: int
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
    suspect: int
    attempt_id: str
    prompt: Prompt
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    features: tuple[str, ...]
    probe: bool
    alone: bool = False
    cache_key: str | None = None
    """What its answer may be kept under."""


@dataclass(frozen=True, slots=True)
class Worksite:
    """Where the jobs are being worked: what every attempt row of a chunk has in common."""

    lease_id: str
    route: str
    provider: str
    model: str
    wire_model: str
    latency: str


_LIVING_LEASE = "SELECT id FROM leases WHERE id = :lease_id AND expires_at >= :now"
_PLACE_IS = " AND EXISTS (SELECT 1 FROM routes WHERE name = :route AND place = :place)"
# `|| ''` keeps PostgreSQL from reading all dispatched jobs by the index of the outstanding ones, of which it expects few
_TAKE = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'running', lease_id = :lease_id, attempts = attempts + 1
      FROM {rows}
     WHERE jobs.id = r.id AND jobs.take_up = r.take_up AND state || '' = 'dispatched'
       AND (deadline_at IS NULL OR deadline_at > :now)
    RETURNING jobs.id, jobs.take_up, batch_id, created_at, deadline_at, round, round_spent_s, tried, doubted_by,
              proxy_errors, input_estimate, max_tokens, suspect, cache_key
    """,
)
_HELD = "SELECT id FROM jobs WHERE id = :id AND take_up = :take_up AND lease_id = :lease_id AND state = 'running'"
_COUNT_ATTEMPT = text("UPDATE jobs SET attempts = attempts + 1 WHERE id = :id")
_REQUESTS = RowsStatement(
    schema.jobs,
    """
    SELECT j.id, q.body, f.residency, f.compliance, f.features, f.probe, f.alone
      FROM {rows} JOIN jobs j ON j.id = r.id JOIN job_requests q ON q.job_id = j.id JOIN flows f ON f.id = j.flow_id
    """,
)
_ADD_ATTEMPTS = RowsStatement(
    schema.attempts,
    """
    INSERT INTO attempts (id, job_id, take_up, round, lease_id, route, provider, model, wire_model, latency, started_at,
                          cost_usd, estimated, purpose)
    SELECT r.id, r.job_id, r.take_up, r.round, r.lease_id, r.route, r.provider, r.model, r.wire_model, r.latency,
           r.started_at, r.cost_usd, true, r.purpose
      FROM {rows}
    """,
)
_GIVE_BACK = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL, last_error = coalesce(last_error, :why)
      FROM {rows}
     WHERE jobs.id = r.id AND jobs.take_up = r.take_up AND state || '' = 'dispatched'
    """,
)


def take_up(
    connection: Connection,
    site: Worksite,
    tokens: Sequence[Token],
    *,
    now: float,
    attempt_ids: Sequence[str],
    estimates: Sequence[Decimal | None],
    place: str | None = None,
) -> list[Taken]:
    """Take up jobs and write the row of the attempt that each is about to make.

    Args:
        tokens: jobs with the fencing tokens of the message; a job whose token is stale, or whose deadline has passed,
            is left out of the answer.
        attempt_ids: for each token the id of its attempt.
        estimates: for each token the most its call may cost, in USD, nothing cached; what the row says until it is
            settled, raised where the request is marked for a cache.
        place: digest of where this worker's file sends the route's prompts; None: it is not compared.

    Nothing is taken under a lease that has run out, which nobody would rescue, nor of a route that is registered for
    another place than this worker's: the scheduler judged by that one where the jobs may go.
    """
    # held until the commit, so that no rescuer drops the lease in between; heartbeats go on beside it
    hold = " FOR KEY SHARE" if connection.dialect.name == "postgresql" else ""
    parameters = {"lease_id": site.lease_id, "now": now}
    if place is not None:
        parameters |= {"route": site.route, "place": place}
    living = connection.execute(text(_LIVING_LEASE + (_PLACE_IS if place is not None else "") + hold), parameters)
    if living.one_or_none() is None:
        return []
    rows = query_rows(connection, _TAKE, _in_order(tokens), lease_id=site.lease_id, now=now).all()
    if not rows:
        return []
    requests = {row.id: row for row in query_rows(connection, _REQUESTS, [{"id": row.id} for row in rows])}
    attempt_of = {token.id: attempt_id for token, attempt_id in zip(tokens, attempt_ids, strict=True)}
    estimate_of = {token.id: estimate for token, estimate in zip(tokens, estimates, strict=True)}
    taken = []
    for row in rows:
        request = requests[row.id]
        taken.append(
            Taken._make(
                (
                    *row[:-1],  # in the order of RETURNING
                    attempt_of[row.id],
                    Prompt(bytes(request.body)),
                    _names(request.residency),
                    _names(request.compliance),
                    _names(request.features),
                    bool(request.probe),
                    bool(request.alone),
                    row.cache_key,
                )
            )
        )
    new = [_row(site, job, job.attempt_id, now, estimate_of[job.id], "probe" if job.probe else "job") for job in taken]
    execute_rows(connection, _ADD_ATTEMPTS, new)
    return taken


def add_attempt(
    connection: Connection,
    site: Worksite,
    job: Taken,
    attempt_id: str,
    *,
    now: float,
    estimate: Decimal | None,
    purpose: str,
) -> bool:
    """Write the row of a further attempt of a job that this worker holds. False when it does not any more."""
    hold = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    token = {"id": job.id, "take_up": job.take_up, "lease_id": site.lease_id}
    if connection.execute(text(_HELD + hold), token).one_or_none() is None:
        return False
    execute_rows(connection, _ADD_ATTEMPTS, [_row(site, job, attempt_id, now, estimate, purpose)])
    connection.execute(_COUNT_ATTEMPT, {"id": job.id})
    return True


def _row(
    site: Worksite, job: Taken, attempt_id: str, now: float, estimate: Decimal | None, purpose: str
) -> dict[str, Any]:
    return {
        "id": attempt_id,
        "job_id": job.id,
        "take_up": job.take_up,
        "round": job.round,
        "lease_id": site.lease_id,
        "route": site.route,
        "provider": site.provider,
        "model": site.model,
        "wire_model": site.wire_model,
        "latency": site.latency,
        "started_at": now,
        "cost_usd": job.prompt.most(estimate),
        "purpose": purpose,
    }


def give_back(connection: Connection, tokens: Sequence[Token], why: str | None = None) -> None:
    """Put dispatched jobs that this worker did not start back to waiting.

    Args:
        why: what to say of them if they end before anything else can be said.
    """
    query_rows(connection, _GIVE_BACK, _in_order(tokens), why=why)


def _in_order(tokens: Sequence[Token]) -> list[dict[str, object]]:
    """By id, as jobs are locked everywhere."""
    return [token._asdict() for token in sorted(tokens)]


@lru_cache(maxsize=256)
def _names(listed: str) -> tuple[str, ...]:
    return tuple(orjson.loads(listed))
