"""Transitions of jobs: every statement that changes a row of `jobs`, each once, with its guard.

    from                  to                                      by
    (new)                 waiting, delayed, dispatched            insert
    waiting               dispatched, with the next claim number  dispatch
    delayed, coalesced    waiting                                 wake
    dispatched            running, under a lease                  start
    dispatched            waiting                                 recall
    dispatched            coalesced                               coalesce
    running               dispatched to the next route            fail_over
    running               waiting, delayed                        wait, put_back
    any of the above      succeeded, failed, expired, cancelled   end
    failed, expired       waiting                                 run_again

A guard is part of its statement where a transition may meet rows that others have changed. `coalesce`, `fail_over`, `wait`,
`end` and `run_again` have none: their callers hold the rows' locks and have compared state, claim number and lease.

`state || ''` keeps PostgreSQL from reading all jobs of that state by a partial index of which it expects few rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from trivet_store import schema
from trivet_store.database.many_rows import RowsStatement, execute_rows, of_ids, query_rows
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.states import JobState

Rows = Sequence[Mapping[str, Any]]
"""Values by the names of columns, a mapping for each job."""

_OFF_ROUTE: Final = "lease_id = NULL, route = NULL, dispatched_until = NULL"
_BACK: Final = f"""
    state = CASE WHEN r.not_before IS NULL THEN 'waiting' ELSE 'delayed' END, not_before = r.not_before, {_OFF_ROUTE}
"""
_INSERT = RowsStatement(
    schema.jobs,
    """
    INSERT INTO jobs (id, batch_id, flow_id, key, key_owner, fingerprint, state, rank, created_at, not_before, deadline_at,
                      input_estimate, max_tokens, claim, route, dispatched_until, tenant, last_error, tags, cache_key,
                      metadata, batch_index, streamed)
    SELECT r.id, r.batch_id, r.flow_id, r.key, r.key_owner, r.fingerprint, r.state, r.rank, r.created_at, r.not_before,
           r.deadline_at, r.input_estimate, r.max_tokens, r.claim, r.route, r.dispatched_until, r.tenant, r.last_error,
           r.tags, r.cache_key, r.metadata, r.batch_index, r.streamed
      FROM {rows}
     WHERE true
    ON CONFLICT (key, key_owner) WHERE key IS NOT NULL DO NOTHING
    """,
)
# locked rows (being cancelled or expired) are skipped: only free rows are locked, all at once
_DISPATCH = RowsStatement(
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
_WAKE = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'waiting', not_before = NULL
      FROM {rows} WHERE jobs.id = r.id AND jobs.state || '' = r.state
    """,
)
# everything that the message says must be what the database has
_START = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'running', lease_id = :lease_id, attempts = attempts + 1
      FROM {rows}
     WHERE jobs.id = r.id AND jobs.claim = r.claim AND state || '' = 'dispatched'
       AND (deadline_at IS NULL OR deadline_at > :now)
       AND jobs.route = :route AND jobs.input_estimate = r.input_estimate AND jobs.max_tokens = r.max_tokens
       AND coalesce(jobs.cache_key, '') = coalesce(r.cache_key, '')
       AND EXISTS (SELECT 1 FROM flows
                    WHERE flows.id = jobs.flow_id AND flows.model = :model AND flows.latency = :latency
                      AND flows.probe = :probe AND flows.isolated = :isolated)
    RETURNING jobs.id, jobs.claim, batch_id, deadline_at, round, round_spent_s, tried, doubted_by, proxy_errors,
              too_slow, jobs.input_estimate, jobs.max_tokens, tenant, jobs.cache_key
    """,
)
_RECALL = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET state = 'waiting', {_OFF_ROUTE}, tried = coalesce(r.tried, jobs.tried),
                    last_error = coalesce(jobs.last_error, r.last_error)
      FROM {{rows}}
     WHERE jobs.id = r.id AND jobs.claim = r.claim AND jobs.route = r.route AND jobs.state || '' = 'dispatched'
    """,
)
_COALESCE = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET state = 'coalesced', {_OFF_ROUTE},
                    last_error = coalesce(last_error, 'it waits for the answer to an equal request')
      FROM {{rows}} WHERE jobs.id = r.id
    """,
)
_FAIL_OVER = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'dispatched', lease_id = NULL, route = r.route, dispatched_until = r.dispatched_until,
                    claim = jobs.claim + 1, tried = r.tried, round_spent_s = r.round_spent_s,
                    doubted_by = r.doubted_by, proxy_errors = r.proxy_errors, too_slow = r.too_slow,
                    last_outcome = r.last_outcome, last_error = r.last_error
      FROM {rows}
     WHERE jobs.id = r.id
    """,
)
_WAIT = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET {_BACK}, round = r.round, tried = r.tried, round_spent_s = r.round_spent_s,
                    doubted_by = r.doubted_by, proxy_errors = r.proxy_errors, too_slow = r.too_slow,
                    last_outcome = coalesce(r.last_outcome, jobs.last_outcome),
                    last_error = coalesce(r.last_error, jobs.last_error)
      FROM {{rows}}
     WHERE jobs.id = r.id
    """,
)
_PUT_BACK = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET {_BACK}, flow_id = coalesce(r.flow_id, jobs.flow_id), crashes = coalesce(r.crashes, jobs.crashes),
                    tried = coalesce(r.tried, jobs.tried), last_error = coalesce(r.last_error, jobs.last_error),
                    attempts = jobs.attempts - r.attempts
      FROM {{rows}}
     WHERE jobs.id = r.id AND jobs.lease_id = r.lease_id AND jobs.state || '' = 'running'
    """,
)
_KEPT: Final = dict.fromkeys(("not_before", "flow_id", "crashes", "tried", "last_error")) | {"attempts": 0}
_END = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = r.state, ended_at = r.ended_at, batch_seq = r.batch_seq, lease_id = NULL,
                    dispatched_until = NULL, not_before = NULL, last_outcome = coalesce(r.last_outcome, jobs.last_outcome)
      FROM {rows}
     WHERE jobs.id = r.id
    """,
)
_RUN_AGAIN = RowsStatement(
    schema.jobs,
    f"""
    UPDATE jobs SET state = 'waiting', rank = r.rank, not_before = NULL, deadline_at = r.deadline_at, ended_at = NULL,
                    batch_seq = NULL, {_OFF_ROUTE}, round = 0, round_spent_s = 0, tried = '', doubted_by = NULL,
                    proxy_errors = '', too_slow = '', isolated_crashes = 0, cancel_requested = false, last_outcome = NULL,
                    last_error = NULL
      FROM {{rows}} WHERE jobs.id = r.id
    """,
)
_MOVE = RowsStatement(schema.jobs, "UPDATE jobs SET flow_id = r.flow_id FROM {rows} WHERE jobs.id = r.id")
_CALL_BACK = RowsStatement(schema.jobs, "UPDATE jobs SET called_back = true FROM {rows} WHERE jobs.id = r.id")
_ASK_TO_CANCEL = RowsStatement(schema.jobs, "UPDATE jobs SET cancel_requested = true FROM {rows} WHERE jobs.id = r.id")
_COUNT_ATTEMPT = RowsStatement(
    schema.jobs, "UPDATE jobs SET attempts = jobs.attempts + 1 FROM {rows} WHERE jobs.id = r.id"
)
_COUNT_ISOLATED_CRASH = RowsStatement(
    schema.jobs, "UPDATE jobs SET isolated_crashes = jobs.isolated_crashes + 1 FROM {rows} WHERE jobs.id = r.id"
)
_UNKNOWN: Final = (
    "UPDATE attempts SET outcome = 'unknown', estimated = true WHERE lease_id = :lease_id AND outcome IS NULL"
)
_UNKNOWN_ALL = text(f"{_UNKNOWN} RETURNING id")
_UNKNOWN_OF = of_ids(f"{_UNKNOWN} AND job_id IN :ids RETURNING id")


def insert(connection: Connection, rows: Rows) -> int:
    """Insert jobs; one whose key its owner has used already is left out. Returns the number inserted."""
    return execute_rows(connection, _INSERT, rows)


def dispatch(connection: Connection, ids: Sequence[str], route: str, until: float) -> list[DispatchedJob]:
    """Dispatch waiting jobs to a route; each gets a new claim number. Jobs that no longer wait are passed over."""
    return [DispatchedJob(*row) for row in query_rows(connection, _DISPATCH, _of(ids), route=route, until=until)]


def wake(connection: Connection, ids: Sequence[str], state: JobState) -> None:
    """Put jobs that are delayed, or that are coalesced, back to waiting; those in another state are passed over."""
    execute_rows(connection, _WAKE, [{"id": job_id, "state": state.value} for job_id in ids])


def start(connection: Connection, jobs: Rows, *, lease_id: str, now: float, **message: object) -> Sequence[Row[Any]]:
    """Start dispatched jobs under a lease, those of which the database says what the message says.

    Args:
        jobs: as `DispatchedJob` names them, by id, because PostgreSQL locks them in this order.
        message: route, model, latency, probe, isolated.
    """
    return query_rows(connection, _START, jobs, lease_id=lease_id, now=now, **message).all()


def recall(connection: Connection, rows: Rows) -> None:
    """Put jobs that are dispatched to a route under this claim number back to waiting; messages of theirs are stale then.

    Args:
        rows: id, claim, route; tried, unless it stays; last_error of a job that ends before it has another one.
    """
    execute_rows(connection, _RECALL, [{"tried": None, "last_error": None, **row} for row in rows])


def coalesce(connection: Connection, ids: Sequence[str]) -> None:
    """Let dispatched jobs wait for the answers of their leaders."""
    execute_rows(connection, _COALESCE, _of(ids))


def fail_over(connection: Connection, rows: Rows) -> None:
    """Dispatch running jobs to their next route, in the same round, with a new claim number."""
    execute_rows(connection, _FAIL_OVER, rows)


def wait(connection: Connection, rows: Rows) -> None:
    """Put running jobs back to waiting after a call: until `not_before`, or until a route has room."""
    execute_rows(connection, _WAIT, rows)


def put_back(connection: Connection, lease_id: str, rows: Rows) -> None:
    """Put jobs that run under a lease back to waiting, with the progress they had before they were started.

    Args:
        rows: id; what else there is of not_before, flow_id, crashes, tried and last_error changes, and `attempts` is
            the number of counted attempts that were not made.
    """
    execute_rows(connection, _PUT_BACK, [{**_KEPT, **row, "lease_id": lease_id} for row in rows])


def end(connection: Connection, rows: Rows) -> None:
    """End jobs, whatever they are doing."""
    execute_rows(connection, _END, rows)


def run_again(connection: Connection, rows: Rows) -> None:
    """Put ended jobs back to waiting, as if they were new."""
    execute_rows(connection, _RUN_AGAIN, rows)


def move(connection: Connection, ids: Sequence[str], flow_id: int) -> None:
    """Move jobs to another flow with the same requirements; the state stays."""
    execute_rows(connection, _MOVE, [{"id": job_id, "flow_id": flow_id} for job_id in ids])


def call_back(connection: Connection, job_id: str) -> None:
    """Note that a delivery waits for the end of a job; the state stays."""
    execute_rows(connection, _CALL_BACK, _of([job_id]))


def ask_to_cancel(connection: Connection, ids: Sequence[str]) -> None:
    """Ask the workers of jobs to drop them; the state stays."""
    execute_rows(connection, _ASK_TO_CANCEL, _of(ids))


def count_attempt(connection: Connection, job_id: str) -> None:
    """Count a further attempt of a running job; the state stays."""
    execute_rows(connection, _COUNT_ATTEMPT, _of([job_id]))


def count_isolated_crash(connection: Connection, job_id: str) -> None:
    """Count the crash of a process that ran this job alone; the state stays."""
    execute_rows(connection, _COUNT_ISOLATED_CRASH, _of([job_id]))


def mark_unknown(connection: Connection, lease_id: str, job_ids: Sequence[str] | None = None) -> list[str]:
    """Give calls under way under a lease, all or those of these jobs, the outcome `unknown`. Returns their ids.

    Callers count them (`spending.book_lost`) at the end of the transaction.
    """
    if job_ids is None:
        return list(connection.execute(_UNKNOWN_ALL, {"lease_id": lease_id}).scalars())
    return list(connection.execute(_UNKNOWN_OF, {"lease_id": lease_id, "ids": list(job_ids)}).scalars())


def _of(ids: Sequence[str]) -> list[dict[str, str]]:
    return [{"id": job_id} for job_id in ids]
