"""Schedules: recurring work of the schedulers, its next times and its runs."""

from typing import NamedTuple

from trivet.admin.group import Group
from trivet.client.connections import current_operator
from trivet_store import schedules
from trivet_store.schedule_runs import Run
from trivet_store.schedules import Schedule


class ScheduleList(NamedTuple):
    """All schedules at one moment."""

    schedules: tuple[Schedule, ...]
    """By name, each with its last run."""
    now: float
    """Seconds since the epoch, by the database's clock."""


class Schedules(Group):
    """The schedules that schedulers made known."""

    def list(self) -> ScheduleList:
        """Return all schedules with their last runs.

        next_times = {one.name: one.next_at for one in admin.schedules.list().schedules}
        """
        store = self._connections.store
        with store.read() as connection:
            return ScheduleList(tuple(schedules.every(connection)), store.now(connection))

    def runs(self, name: str, limit: int = 20) -> tuple[Run, ...]:
        """Return the latest runs of a schedule, the newest first.

            failed = [run.error for run in admin.schedules.runs("nightly") if run.error]

        Raises:
            NotFound: there is no such schedule.
        """
        with self._connections.store.read() as connection:
            return tuple(schedules.runs(connection, name, limit))

    def run(self, name: str, *, by: str | None = None) -> Run:
        """Let a schedule run now, once, whatever its times are; also where it is paused or disabled.

        A scheduler begins within a second or so. The author is recorded.

            asked = admin.schedules.run("nightly")
            admin.schedules.runs("nightly", 1)[0].batch  # named once a scheduler has begun

        Args:
            by: None: the user and machine of this process.

        Raises:
            NotFound: there is no such schedule.
            InvalidRequest: one was asked for in this second.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            asked = schedules.ask(store, connection, name, by=who)
            (run,) = schedules.runs(connection, asked.name, 1)
        return run

    def pause(self, name: str, *, by: str | None = None) -> bool:
        """Let a schedule be due at no time until it is resumed. Runs that have begun go on.

            admin.schedules.pause("nightly")

        Returns:
            False: it was paused before.

        Raises:
            NotFound: there is no such schedule.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            return schedules.pause(store, connection, name, by=who)

    def resume(self, name: str, *, by: str | None = None) -> bool:
        """Let a paused schedule be due again, from its next time on; times that passed meanwhile are not made up for.

            admin.schedules.resume("nightly")

        Returns:
            False: it was not paused.

        Raises:
            NotFound: there is no such schedule.
        """
        store, who = self._connections.store, by or current_operator()
        with store.write() as connection:
            return schedules.resume(store, connection, name, by=who)
