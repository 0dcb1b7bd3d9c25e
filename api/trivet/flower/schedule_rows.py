"""The table of schedules on the broker page."""

from dataclasses import dataclass

from trivet.admin import ScheduleList
from trivet.times import ago, zone_moment


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One schedule with its last run, in words."""

    name: str
    work: str
    next: str
    """The next time in its zone; or that it is paused or disabled."""
    waits: bool
    """True if it is due at no time: paused or disabled."""
    last: str
    state: str
    """`waiting`, `running`, `done` or `failed`; empty: it has not run yet."""
    said: str
    """Error or result of its last run."""
    batch: str


def schedule_rows(found: ScheduleList | None) -> list[ScheduleRow]:
    """Return the table; nothing where the schedules are not known yet.

    Args:
        found: None: not read yet.
    """
    rows = []
    for one in found.schedules if found is not None else ():
        last = one.last
        paused = one.paused_at is not None
        following = f"paused by {one.paused_by}" if paused else zone_moment(one.next_at, one.timezone) or "disabled"
        rows.append(
            ScheduleRow(
                name=one.name,
                work=one.work,
                next=following,
                waits=paused or one.next_at is None,
                last="—" if last is None or found is None else f"{ago(found.now - last.planned_at)} ago",
                state="" if last is None else last.state.value,
                said="" if last is None else last.error or last.result or "",
                batch="" if last is None else last.batch or "",
            )
        )
    return rows
