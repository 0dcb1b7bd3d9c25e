"""Schedules as schedulers registered them, and their runs: each time that is due becomes one row, claimed under a lease.

Every scheduler looks. The one that moves a schedule's next time on, by a guarded UPDATE, also inserts the run of the time
that was due, so that there is one row for each. A run is claimed until a time that its scheduler renews; when the
scheduler dies, another one claims the run and goes on. All times are the database's.

A scheduler acts on a schedule only if its own file has the definition in force, by digest: rows say when, never what to do.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_store.database.locking import select_locked
from trivet_tasks.config.schedules import Missed, ScheduleSettings
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.foreign_text import clean
from trivet_tasks.states import RunState

LATE_S: Final = 300.0
"""Seconds after its time for which a run still begins; later the time counts as missed."""
MAX_LOST: Final = 10
"""Number of claims after which a run whose schedulers die is given up."""
LONGEST_ERROR: Final = 600


class Schedule(NamedTuple):
    """A schedule and its last run. Times are seconds since the epoch."""

    name: str
    crontab: str
    timezone: str
    work: str
    """`bulk data/mails.jsonl`, `prune` or `report costs`."""
    missed: str
    next_at: float | None
    """The next time; None: it is disabled."""
    paused_at: float | None
    paused_by: str | None
    last: "Run | None"


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

    @property
    def state(self) -> RunState:
        """Return its state."""
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
    claims: int
    """Number of times that it was claimed, this one included."""


_RUN = "r.name, r.planned_at, r.asked_by, r.batch, r.claimed_by, r.started_at, r.done_at, r.error, r.result"
_SCHEDULES = text("SELECT * FROM schedules ORDER BY name")
_LAST_RUNS = text(
    f"""
    SELECT {_RUN} FROM schedules s JOIN schedule_runs r ON r.name = s.name
     WHERE r.planned_at = (SELECT max(l.planned_at) FROM schedule_runs l WHERE l.name = s.name)
    """
)
_RUNS = text(f"SELECT {_RUN} FROM schedule_runs r WHERE r.name = :name ORDER BY r.planned_at DESC LIMIT :limit")
_DEFINE = text(
    """
    INSERT INTO schedules (name, digest, crontab, timezone, work, missed, next_at, registered_at)
    VALUES (:name, :digest, :crontab, :timezone, :work, :missed, :next_at, :now)
    ON CONFLICT (name) DO UPDATE SET digest = :digest, crontab = :crontab, timezone = :timezone, work = :work,
           missed = :missed, next_at = :next_at, registered_at = :now
    """
)
_REMOVE = text("DELETE FROM schedules WHERE name = :name")
_DUE = text("SELECT name, digest, next_at, paused_at FROM schedules WHERE next_at <= :now ORDER BY name")
_ADVANCE = text(
    "UPDATE schedules SET next_at = :next_time WHERE name = :name AND digest = :digest AND next_at = :next_at"
)
_INSERT = text(
    """
    INSERT INTO schedule_runs (name, planned_at, digest, asked_by, claimed_until)
    VALUES (:name, :planned_at, :digest, :asked_by, :now) ON CONFLICT DO NOTHING
    """
)
_WAITING = text("SELECT EXISTS (SELECT 1 FROM schedule_runs WHERE done_at IS NULL AND claimed_until <= :now)")
_CLAIMABLE = """
    SELECT name, planned_at, digest, asked_by, claims, error FROM schedule_runs
     WHERE done_at IS NULL AND claimed_until <= :now ORDER BY planned_at, name {FOR UPDATE SKIP LOCKED}
"""
_CLAIM = text(
    """
    UPDATE schedule_runs SET claimed_by = :by, claimed_until = :until, claims = claims + 1,
           started_at = coalesce(started_at, :now), batch = :batch
     WHERE name = :name AND planned_at = :planned_at
    """
)
_OURS = "name = :name AND planned_at = :planned_at AND claimed_by = :by AND done_at IS NULL"
_RENEW = text(f"UPDATE schedule_runs SET claimed_until = :until WHERE {_OURS}")
_RELEASE = text(
    f"""
    UPDATE schedule_runs SET claimed_by = NULL, claimed_until = :again_at, claims = claims - :uncounted,
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
_IN_FORCE = text("SELECT digest FROM schedules WHERE name = :name")
_PAUSE = text("UPDATE schedules SET paused_at = :now, paused_by = :by WHERE name = :name AND paused_at IS NULL")
_RESUME = text("UPDATE schedules SET paused_at = NULL, paused_by = NULL WHERE name = :name AND paused_at IS NOT NULL")


def register(store: Store, connection: Connection, schedules: Sequence[ScheduleSettings]) -> list[str]:
    """Make the schedules of a scheduler known; they are the only ones from then on. Returns what changed, for a log.

    A new or changed one is due from its next time on. A pause stays. Runs that have begun go on.
    """
    now = store.now(connection)
    before = {row.name: row.digest for row in connection.execute(_SCHEDULES)}
    said = []
    for schedule in schedules:
        if before.get(schedule.name) == schedule.digest:
            continue
        row = {
            "name": schedule.name,
            "digest": schedule.digest,
            "crontab": schedule.crontab,
            "timezone": schedule.timezone,
            "work": schedule.work,
            "missed": schedule.missed.value,
            "next_at": schedule.recurrence.next_after(now) if schedule.enabled else None,
            "now": now,
        }
        connection.execute(_DEFINE, row)
        when = f"{schedule.crontab} {schedule.timezone}" if schedule.enabled else "disabled"
        said.append(f"{schedule.name}: {schedule.work}, {when}")
    for name in sorted(before.keys() - {schedule.name for schedule in schedules}):
        connection.execute(_REMOVE, {"name": name})
        said.append(f"{name}: removed")
    for line in said:
        events.note(connection, "schedule set", f"{line} (by the file of a scheduler)", now)
    return said


def work_is_due(store: Store, connection: Connection, known: Mapping[str, ScheduleSettings]) -> bool:
    """Return whether a schedule is due or a run may be claimed, by two small reads.

    Args:
        known: the schedules of this scheduler's file, by name.
    """
    now = store.now(connection)
    if any(_is_ours(known, row) for row in connection.execute(_DUE, {"now": now})):
        return True
    return bool(connection.execute(_WAITING, {"now": now}).scalar_one())


def fire(store: Store, connection: Connection, known: Mapping[str, ScheduleSettings]) -> list[str]:
    """Insert a run for each schedule that is due, and move its next time on. Returns lines for a log.

    Of several times that have passed only the latest has a run; where it passed more than `LATE_S` seconds ago, none
    has, unless the schedule makes up for missed times. A paused schedule has none.

    Args:
        known: the schedules of this scheduler's file, by name.
    """
    now = store.now(connection)
    said = []
    for row in connection.execute(_DUE, {"now": now}).all():
        if not _is_ours(known, row):
            continue
        schedule = known[row.name]
        next_time = schedule.recurrence.next_after(now)
        guard = {"name": row.name, "digest": row.digest, "next_at": row.next_at, "next_time": next_time}
        if not connection.execute(_ADVANCE, guard).rowcount or row.paused_at is not None:
            continue  # another scheduler was quicker, or it is paused
        planned_at = schedule.recurrence.last_until(now, not_before=row.next_at) or row.next_at
        begins = now - planned_at <= LATE_S or schedule.missed is Missed.ONCE
        if begins:
            _insert(connection, schedule, planned_at, now)
        if planned_at > row.next_at or not begins:
            text_of_it = _missed_words(schedule, row.next_at, planned_at, begins=begins)
            events.note(connection, "schedule missed", text_of_it, now)
            said.append(text_of_it)
    return said


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

    A run whose schedule was removed or changed since it began is ended: its definition is gone.

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
        if not _is_ours(known, row):
            if connection.execute(_IN_FORCE, {"name": row.name}).scalar_one_or_none() != row.digest:
                _give_up(connection, key, "Its schedule was removed or changed before it was done.", now)
            continue
        if row.claims >= MAX_LOST:
            _give_up(connection, key, f"{row.claims} schedulers ended while they did it.", now)
            continue
        if len(claimed) >= limit:
            break
        schedule = known[row.name]
        batch = schedule.run_name(row.planned_at, by_hand=row.asked_by is not None) if schedule.bulk else None
        connection.execute(_CLAIM, {**key._asdict(), "by": by, "now": now, "until": now + ttl_s, "batch": batch})
        claimed.append(ClaimedRun(key, row.asked_by is not None, row.claims + 1))
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
        error: the error of the try that has ended; None: it was broken off, and does not count.
    """
    connection.execute(
        _RELEASE,
        {
            **run._asdict(),
            "by": by,
            "again_at": store.now(connection) + after_s,
            "uncounted": 1 if error is None else 0,
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
        events.note(connection, "schedule failed", f"{run.name} of {_utc(run.planned_at)}: {said}", now)
    return True


def ask(store: Store, connection: Connection, name: str, *, by: str) -> RunKey:
    """Insert a run that a person asks for, as of now.

    Raises:
        NotFound: there is no such schedule.
        InvalidRequest: one was asked for in this second.
    """
    row = _known(connection, name)
    now = store.now(connection)
    planned_at = int(now) + 0.5  # between two seconds: it never takes the place of a time that is due
    values = {"name": name, "planned_at": planned_at, "digest": row.digest, "asked_by": by, "now": now}
    if not connection.execute(_INSERT, values).rowcount:
        raise InvalidRequest(f"The schedule {name!r} has a run of this second.", hint="Try again.")
    events.note(connection, "schedule asked", f"{name} by {by}", now)
    return RunKey(name, planned_at)


def pause(store: Store, connection: Connection, name: str, *, by: str) -> bool:
    """Let a schedule be due at no time until it is resumed. Returns False when it was paused before.

    Raises:
        NotFound: there is no such schedule.
    """
    _known(connection, name)
    now = store.now(connection)
    if not connection.execute(_PAUSE, {"name": name, "now": now, "by": by}).rowcount:
        return False
    events.note(connection, "schedule paused", f"{name} by {by}", now)
    return True


def resume(store: Store, connection: Connection, name: str, *, by: str) -> bool:
    """Let a paused schedule be due again, from its next time on. Returns False when it was not paused.

    Raises:
        NotFound: there is no such schedule.
    """
    _known(connection, name)
    if not connection.execute(_RESUME, {"name": name}).rowcount:
        return False
    events.note(connection, "schedule resumed", f"{name} by {by}", store.now(connection))
    return True


def every(connection: Connection) -> list[Schedule]:
    """Return all schedules with their last runs, by name."""
    last = {row.name: Run(*row) for row in connection.execute(_LAST_RUNS)}
    return [_schedule(row, last.get(row.name)) for row in connection.execute(_SCHEDULES)]


def runs(connection: Connection, name: str, limit: int) -> list[Run]:
    """Return the latest runs of a schedule, the newest first.

    Raises:
        NotFound: there is no such schedule and no run of one.
    """
    found = [Run(*row) for row in connection.execute(_RUNS, {"name": name, "limit": limit})]
    if not found:
        _known(connection, name)
    return found


def _schedule(row: Row[Any], last: Run | None) -> Schedule:
    return Schedule(
        row.name, row.crontab, row.timezone, row.work, row.missed, row.next_at, row.paused_at, row.paused_by, last
    )


def _known(connection: Connection, name: str) -> Row[Any]:
    found = {row.name: row for row in connection.execute(_SCHEDULES)}
    if name not in found:
        named = f"There are: {', '.join(found)}." if found else "[[schedules]] in the schedulers' file makes one."
        raise NotFound(f"No schedule is called {name!r}.", hint=named)
    return found[name]


def _is_ours(known: Mapping[str, ScheduleSettings], row: Row[Any]) -> bool:
    return row.name in known and known[row.name].digest == row.digest


def _insert(connection: Connection, schedule: ScheduleSettings, planned_at: float, now: float) -> None:
    run = {"name": schedule.name, "planned_at": planned_at, "digest": schedule.digest, "asked_by": None, "now": now}
    connection.execute(_INSERT, run)


def _give_up(connection: Connection, run: RunKey, error: str, now: float) -> None:
    if connection.execute(_GIVE_UP, {**run._asdict(), "error": error, "now": now}).rowcount:
        events.note(connection, "schedule failed", f"{run.name} of {_utc(run.planned_at)}: {error}", now)


def _missed_words(schedule: ScheduleSettings, first: float, latest: float, *, begins: bool) -> str:
    """Return the times that passed without a run, as a sentence."""
    if not begins:
        since = "" if first == latest else f"{_utc(first)} to "
        return f"{schedule.name}: missed {since}{_utc(latest)}, when no scheduler ran; skipped"
    return f"{schedule.name}: missed times from {_utc(first)} on, when no scheduler ran; runs once, for {_utc(latest)}"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
