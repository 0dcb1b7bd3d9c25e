"""Schedules as schedulers registered them, and the times at which they are due.

Every scheduler looks. The one that moves a schedule's next time on, by a guarded UPDATE, also inserts the run of the time
that was due (`schedule_runs`), so that there is one row for each. All times are the database's.

A scheduler acts on a schedule only if its own file has the definition in force, by digest: rows say when, never what to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, text

from trivet_store import events, schedule_runs
from trivet_store.database.engine import Store
from trivet_store.schedule_runs import Run, RunKey, utc
from trivet_tasks.config.schedules import Missed, ScheduleSettings
from trivet_tasks.errors import InvalidRequest, NotFound

LATE_S: Final = 300.0
"""Seconds after its time for which a run still begins; later the time counts as missed."""


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
    last: Run | None


_SCHEDULES = text("SELECT * FROM schedules ORDER BY name")
_DEFINE = text(
    """
    INSERT INTO schedules (name, digest, work_digest, crontab, timezone, work, missed, next_at, registered_at)
    VALUES (:name, :digest, :work_digest, :crontab, :timezone, :work, :missed, :next_at, :now)
    ON CONFLICT (name) DO UPDATE SET digest = :digest, work_digest = :work_digest, crontab = :crontab,
           timezone = :timezone, work = :work, missed = :missed, next_at = :next_at, registered_at = :now
    """
)
_REMOVE = text("DELETE FROM schedules WHERE name = :name")
_DUE = text("SELECT name, digest, next_at, paused_at FROM schedules WHERE next_at <= :now ORDER BY name")
_ADVANCE = text(
    "UPDATE schedules SET next_at = :next_time WHERE name = :name AND digest = :digest AND next_at = :next_at"
)
_PAUSE = text("UPDATE schedules SET paused_at = :now, paused_by = :by WHERE name = :name AND paused_at IS NULL")
_RESUME = text("UPDATE schedules SET paused_at = NULL, paused_by = NULL WHERE name = :name AND paused_at IS NOT NULL")


def register(store: Store, connection: Connection, schedules: Sequence[ScheduleSettings]) -> list[str]:
    """Make the schedules of a scheduler known; they are the only ones from then on. Returns what changed, for a log.

    A new or changed one is due from its next time on. A pause stays. Runs that have begun go on; those that wait, as
    `schedule_runs.claim` says.
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
            "work_digest": schedule.work_digest,
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
    return schedule_runs.any_waits(connection, now)


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
            schedule_runs.insert(connection, schedule.name, planned_at, schedule.work_digest, now)
        if planned_at > row.next_at or not begins:
            text_of_it = _missed_words(schedule, row.next_at, planned_at, begins=begins)
            events.note(connection, "schedule missed", text_of_it, now)
            said.append(text_of_it)
    return said


def ask(store: Store, connection: Connection, name: str, *, by: str) -> RunKey:
    """Insert a run that a person asks for, as of now.

    Raises:
        NotFound: there is no such schedule.
        InvalidRequest: one was asked for in this second.
    """
    row = _known(connection, name)
    now = store.now(connection)
    planned_at = int(now) + 0.5  # between two seconds: it never takes the place of a time that is due
    if not schedule_runs.insert(connection, name, planned_at, row.work_digest, now, asked_by=by):
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
    last = schedule_runs.last_of_each(connection)
    return [_schedule(row, last.get(row.name)) for row in connection.execute(_SCHEDULES)]


def runs(connection: Connection, name: str, limit: int) -> list[Run]:
    """Return the latest runs of a schedule, the newest first.

    Raises:
        NotFound: there is no such schedule and no run of one.
    """
    found = schedule_runs.latest(connection, name, limit)
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


def _missed_words(schedule: ScheduleSettings, first: float, latest: float, *, begins: bool) -> str:
    """Return the times that passed without a run, as a sentence."""
    if not begins:
        since = "" if first == latest else f"{utc(first)} to "
        return f"{schedule.name}: missed {since}{utc(latest)}, when no scheduler ran; skipped"
    return f"{schedule.name}: missed times from {utc(first)} on, when no scheduler ran; runs once, for {utc(latest)}"
