"""Runs of schedules: each time that is due becomes one row, claimed under a lease.

A run is claimed until a time that its scheduler renews; when the scheduler dies, another one claims the run and goes on.
A run keeps the digest of the work that it was due for. It is done by schedulers whose own file has that work, and is
superseded once the entry has other work. All times are the database's.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_store.database.locking import select_locked
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.foreign_text import clean
from trivet_tasks.states import RunState

MAX_LOST: Final = 10
"""Number of schedulers that may die with a run before it is given up."""
LONGEST_ERROR: Final = 600


class Run(NamedTuple):
    """One run of a schedule. Times are seconds since the epoch."""

    name: str
    planned_at: float
    """The time at which it was due, or at which a person asked for it."""
    asked_by: str | None
    """None: it was due."""
    batch: str | None
    """The batch that it submits; None before a scheduler has claimed it."""
    claimed_by: str | None
    """The scheduler that does it."""
    started_at: float | None
    done_at: float | None
    error: str | None
    """The error of its last try."""
    result: str | None
    """Its result in words."""
    superseded: bool = False
    """True if its entry was removed, or has other work by now, before it was done."""

    @property
    def state(self) -> RunState:
        """Return its state."""
        if self.superseded:
            return RunState.SUPERSEDED
        if self.done_at is not None:
            return RunState.DONE if self.error is None else RunState.FAILED
        return RunState.WAITING if self.claimed_by is None else RunState.RUNNING


class RunKey(NamedTuple):
    """The identity of a run."""

    name: str
    planned_at: float


class ClaimedRun(NamedTuple):
    """A run that a scheduler is to do."""

    key: RunKey
    by_hand: bool
    failures: int = 0
    """Number of tries that have failed before. A scheduler that died with it has failed none."""


_RUN = (
    "r.name, r.planned_at, r.asked_by, r.batch, r.claimed_by, r.started_at, r.done_at, r.error, r.result, r.superseded"
)
_LAST = text(
    f"""
    SELECT {_RUN} FROM schedules s JOIN schedule_runs r ON r.name = s.name
     WHERE r.planned_at = (SELECT max(l.planned_at) FROM schedule_runs l WHERE l.name = s.name)
    """
)
_LATEST = text(f"SELECT {_RUN} FROM schedule_runs r WHERE r.name = :name ORDER BY r.planned_at DESC LIMIT :limit")
_INSERT = text(
    """
    INSERT INTO schedule_runs (name, planned_at, work_digest, asked_by, claimed_until)
    VALUES (:name, :planned_at, :work_digest, :asked_by, :now) ON CONFLICT DO NOTHING
    """
)
_WAITING = text("SELECT EXISTS (SELECT 1 FROM schedule_runs WHERE done_at IS NULL AND claimed_until <= :now)")
_CLAIMABLE = """
    SELECT name, planned_at, work_digest, asked_by, lost, failures, claimed_by FROM schedule_runs
     WHERE done_at IS NULL AND claimed_until <= :now ORDER BY planned_at, name {FOR UPDATE SKIP LOCKED}
"""
_CLAIM = text(
    """
    UPDATE schedule_runs SET claimed_by = :by, claimed_until = :until, lost = :lost,
           started_at = coalesce(started_at, :now), batch = :batch
     WHERE name = :name AND planned_at = :planned_at
    """
)
_OURS = "name = :name AND planned_at = :planned_at AND claimed_by = :by AND done_at IS NULL"
_RENEW = text(f"UPDATE schedule_runs SET claimed_until = :until WHERE {_OURS}")
_RELEASE = text(
    f"""
    UPDATE schedule_runs SET claimed_by = NULL, claimed_until = :again_at, failures = failures + :failed,
           error = coalesce(:error, error)
     WHERE {_OURS}
    """
)
_END = text(
    f"""
    UPDATE schedule_runs SET done_at = :now, error = :error, result = :result, claimed_by = NULL, claimed_until = :now
     WHERE {_OURS}
    """
)
_GIVE_UP = text(
    """
    UPDATE schedule_runs SET done_at = :now, error = :error, claimed_by = NULL
     WHERE name = :name AND planned_at = :planned_at AND done_at IS NULL
    """
)
_SUPERSEDE = text(
    """
    UPDATE schedule_runs SET done_at = :now, superseded = true, result = :why, claimed_by = NULL
     WHERE name = :name AND planned_at = :planned_at AND done_at IS NULL
    """
)
_WORK_IN_FORCE = text("SELECT work_digest FROM schedules WHERE name = :name")


def insert(
    connection: Connection, name: str, planned_at: float, work_digest: str, now: float, *, asked_by: str | None = None
) -> bool:
    """Insert the run of a time. Returns False if there is one.

    Args:
        work_digest: of the work that it is to do.
        asked_by: the person who asked for it; None: it is due.
    """
    run = {"name": name, "planned_at": planned_at, "work_digest": work_digest, "asked_by": asked_by, "now": now}
    return connection.execute(_INSERT, run).rowcount > 0


def any_waits(connection: Connection, now: float) -> bool:
    """Return whether a run may be claimed."""
    return bool(connection.execute(_WAITING, {"now": now}).scalar_one())


def claim(
    store: Store,
    connection: Connection,
    known: Mapping[str, ScheduleSettings],
    *,
    by: str,
    ttl_s: float,
    limit: int,
    without: Collection[RunKey] = (),
) -> list[ClaimedRun]:
    """Claim runs that nobody does, the oldest first.

    A run whose entry was removed, or has other work by now, is superseded. A change of its times alone is none of work.

    Args:
        known: the schedules of this scheduler's file, by name.
        by: the scheduler.
        ttl_s: seconds for which they are claimed.
        limit: maximum number of runs.
        without: runs that the scheduler does. Its lease on them may be over, as after a sleep of the machine.
    """
    now = store.now(connection)
    claimed: list[ClaimedRun] = []
    for row in select_locked(connection, _CLAIMABLE, now=now):
        key = RunKey(row.name, row.planned_at)
        if key in without:
            continue
        schedule = known.get(row.name)
        if schedule is None or schedule.work_digest != row.work_digest:
            _supersede(connection, key, row.work_digest, now)
            continue
        lost = row.lost + (row.claimed_by is not None)  # who gives a run back is not named any more
        if lost >= MAX_LOST:
            _give_up(connection, key, f"{lost} schedulers ended while they did it.", now)
            continue
        if len(claimed) >= limit:
            break
        batch = schedule.run_name(row.planned_at, by_hand=row.asked_by is not None) if schedule.bulk else None
        terms = {"by": by, "now": now, "until": now + ttl_s, "batch": batch, "lost": lost}
        connection.execute(_CLAIM, {**key._asdict(), **terms})
        claimed.append(ClaimedRun(key, row.asked_by is not None, row.failures))
    return claimed


def renew(store: Store, connection: Connection, runs: Iterable[RunKey], *, by: str, ttl_s: float) -> list[RunKey]:
    """Claim the runs for longer. Returns those that this scheduler has lost to another."""
    until = store.now(connection) + ttl_s
    return [run for run in runs if not connection.execute(_RENEW, {**run._asdict(), "by": by, "until": until}).rowcount]


def release(
    store: Store, connection: Connection, run: RunKey, *, by: str, after_s: float = 0.0, error: str | None = None
) -> None:
    """Give a run back, to be claimed again by any scheduler.

    Args:
        after_s: seconds before which nobody claims it.
        error: the error of the try that has failed; None: it was broken off, and counts as none.
    """
    connection.execute(
        _RELEASE,
        {
            **run._asdict(),
            "by": by,
            "again_at": store.now(connection) + after_s,
            "failed": 0 if error is None else 1,
            "error": clean(error, LONGEST_ERROR),
        },
    )


def end(
    store: Store, connection: Connection, run: RunKey, *, by: str, result: str | None = None, error: str | None = None
) -> bool:
    """Record the end of a run. Returns False when another scheduler has it by now: nothing was changed.

    Args:
        result: in words.
        error: None: it succeeded. Otherwise an event is recorded, too.
    """
    now = store.now(connection)
    said = clean(error, LONGEST_ERROR)
    row = {**run._asdict(), "by": by, "now": now, "error": said, "result": clean(result, LONGEST_ERROR)}
    if not connection.execute(_END, row).rowcount:
        return False
    if said is not None:
        events.note(connection, "schedule failed", f"{run.name} of {utc(run.planned_at)}: {said}", now)
    return True


def last_of_each(connection: Connection) -> dict[str, Run]:
    """Return the last run of each schedule that has one, by name."""
    return {row.name: _run(row) for row in connection.execute(_LAST)}


def latest(connection: Connection, name: str, limit: int) -> list[Run]:
    """Return the latest runs of a schedule, the newest first."""
    return [_run(row) for row in connection.execute(_LATEST, {"name": name, "limit": limit})]


def utc(at: float) -> str:
    """Return a moment as events have it: `2026-12-01T06:30:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _run(row: Row[Any]) -> Run:
    return Run._make(row)._replace(superseded=bool(row.superseded))  # SQLite has 0 and 1


def _supersede(connection: Connection, run: RunKey, work_digest: str, now: float) -> None:
    """End a run for which no file has the work any more; leave one that another scheduler's file has."""
    in_force = connection.execute(_WORK_IN_FORCE, {"name": run.name}).scalar_one_or_none()
    if in_force == work_digest:
        return
    why = (
        "Its entry was removed before it was done."
        if in_force is None
        else f"Its entry was changed to other work before it was done. `trivet schedules run {run.name}` does that now."
    )
    if connection.execute(_SUPERSEDE, {**run._asdict(), "why": why, "now": now}).rowcount:
        events.note(connection, "schedule superseded", f"{run.name} of {utc(run.planned_at)}: {why}", now)


def _give_up(connection: Connection, run: RunKey, error: str, now: float) -> None:
    if connection.execute(_GIVE_UP, {**run._asdict(), "error": error, "now": now}).rowcount:
        events.note(connection, "schedule failed", f"{run.name} of {utc(run.planned_at)}: {error}", now)
