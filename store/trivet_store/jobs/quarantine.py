"""Quarantined jobs: jobs that were in flight when a worker process died.

One of them may have killed it. So each runs isolated from then on, in a process of its own, and only the crash of an
isolated process proves something: three of them end the job. A process that dies with its worker, as in a kill
storm or when a machine goes down, proves nothing.
"""

from collections.abc import Sequence
from hashlib import blake2b

from sqlalchemy import Connection, text

from trivet_store.database.engine import Store
from trivet_store.jobs.ending import end_jobs
from trivet_store.jobs.lease_release import release
from trivet_store.steps import End, Ended
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

ISOLATED_CRASHES = 3
"""Number of isolated crashes that end a job."""
PATIENT_AFTER = 3
"""A job that was in flight in this many crashes waits ever longer: it may take its whole machine with it."""
LONGEST_WAIT_S = 900.0

# held while it is copied: a batch that is opened or cancelled meanwhile must find both
_FLOW = "SELECT signature, isolated, probe FROM flows WHERE id = :id"
_OPEN_ISOLATED = text(
    """
    INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, labels, cache_write, held,
                       active, isolated)
    SELECT :signature, batch_id, latency, model, residency, compliance, features, labels, cache_write, held, true, true
      FROM flows WHERE id = :id
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)
_PUT_ASIDE = text(
    """
    UPDATE jobs SET state = :state, not_before = :not_before, flow_id = :flow_id, crashes = crashes + 1,
                    lease_id = NULL, route = NULL, dispatched_until = NULL
     WHERE id = :id AND state = 'running'
    """
)
_DIED = """
    SELECT id, flow_id, batch_id, lease_id, created_at, route, crashes, isolated_crashes, cancel_requested FROM jobs
     WHERE id = :id AND claim = :claim AND state = 'running'
"""
_RESCUED = "SELECT id, batch_id, created_at, state, isolated_crashes FROM jobs WHERE id = :id AND ended_at IS NULL"
_RUNS = text("SELECT 1 FROM jobs WHERE id = :id AND claim = :claim AND state IN ('dispatched', 'running')")
_STRIKE = text("UPDATE jobs SET isolated_crashes = isolated_crashes + 1 WHERE id = :id")


def isolated_flow(store: Store, connection: Connection, flow_id: int) -> int:
    """Return the isolated flow with the same requirements; a probe stays in its own, it is given up soon."""
    flow = connection.execute(text(_FLOW + store.for_update), {"id": flow_id}).one()
    if flow.isolated or flow.probe:
        return flow_id
    signature = blake2b(f"isolated {flow.signature}".encode(), digest_size=16).hexdigest()
    return int(connection.execute(_OPEN_ISOLATED, {"signature": signature, "id": flow_id}).scalar_one())


def put_aside(connection: Connection, jobs: Sequence[tuple[str, int, int]], now: float) -> None:
    """Put running jobs back to waiting, to run isolated.

    Args:
        jobs: for each its id, its isolated flow, and the number of crashes in which it was in flight before.
    """
    if jobs:
        connection.execute(_PUT_ASIDE, [_aside(job_id, flow_id, crashes + 1, now) for job_id, flow_id, crashes in jobs])


def runs(connection: Connection, job_id: str, claim: int) -> bool:
    """Return whether the job is still to be worked, or is being worked, under this claim."""
    return connection.execute(_RUNS, {"id": job_id, "claim": claim}).one_or_none() is not None


def strike(
    store: Store, connection: Connection, job_id: str, claim: int, *, hung: bool = False
) -> tuple[str | None, int] | None:
    """Count an isolated crash: the process that ran this job and nothing else died. The third one ends the job.

    Args:
        hung: the process hung and had to be ended. That counts even if the job was rescued before.

    Returns:
        The lease of the dead process, if the job still ran there, and its isolated crashes; None where none counts.
    """
    token = {"id": job_id, "claim": claim}
    row = connection.execute(text(_DIED + store.for_update), token).one_or_none()
    if row is None:
        return _strike_rescued(store, connection, job_id) if hung else None
    now = store.now(connection)
    connection.execute(_STRIKE, {"id": job_id})
    deaths = row.isolated_crashes + 1
    if row.cancel_requested or deaths >= ISOLATED_CRASHES:
        end = End(JobState.CANCELLED) if row.cancel_requested else _given_up(deaths)
        end_jobs(connection, [Ended(row.id, row.batch_id, row.created_at, end, row.route)], now)
    else:
        connection.execute(_PUT_ASIDE, _aside(job_id, row.flow_id, row.crashes + 1, now))
    release(store, connection, row.lease_id)  # its calls, too, are over: `unknown`
    return row.lease_id, deaths


def _strike_rescued(store: Store, connection: Connection, job_id: str) -> tuple[None, int] | None:
    row = connection.execute(text(_RESCUED + store.for_update), {"id": job_id}).one_or_none()
    if row is None:
        return None
    connection.execute(_STRIKE, {"id": job_id})
    deaths = row.isolated_crashes + 1
    if deaths >= ISOLATED_CRASHES and row.state in (JobState.WAITING, JobState.DELAYED):
        end_jobs(
            connection, [Ended(row.id, row.batch_id, row.created_at, _given_up(deaths), None)], store.now(connection)
        )
    return None, deaths


def _given_up(deaths: int) -> End:
    said = f"{deaths} worker processes died while they ran this job and nothing else; it is not tried again."
    return End(JobState.FAILED, outcome=Outcome.UNKNOWN, error=said)


def _aside(job_id: str, flow_id: int, deaths: int, now: float) -> dict[str, object]:
    wait_s = min(LONGEST_WAIT_S, 2.0**deaths) if deaths > PATIENT_AFTER else 0.0
    return {
        "id": job_id,
        "flow_id": flow_id,
        "state": (JobState.DELAYED if wait_s else JobState.WAITING).value,
        "not_before": now + wait_s if wait_s else None,
    }
