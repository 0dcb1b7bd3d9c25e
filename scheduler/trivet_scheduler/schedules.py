"""Recurring work: a thread beside dispatching that looks for schedules that are due, and does their runs.

It never shares the dispatching loop: a run is a process (`scheduled_command`), and this thread only starts, watches and
records it. Its lease on a run is renewed as long as it lives; another scheduler goes on with the runs of a dead one.
"""

import contextlib
import logging
import os
import threading
import time

from trivet_scheduler.scheduled_command import Ending, ScheduledCommand
from trivet_store import schedule_runs, schedules
from trivet_store.database.engine import Store
from trivet_store.schedule_runs import ClaimedRun, RunKey
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, place_of

log = logging.getLogger("trivet.schedules")

LOOK_S = 1.0
"""Seconds between two looks of a scheduler that has schedules."""
IDLE_LOOK_S = 60.0
"""Seconds between two looks of one that has none: runs of removed schedules are ended."""
MAX_AT_ONCE = 4
"""Maximum number of runs that one scheduler does at a time; more wait."""
TRIES = 3
"""Number of tries of a run that fails."""
AGAIN_AFTER_S = (60.0, 300.0)
"""Seconds before the second and the third try of a run that failed."""
STOP_S = 0.6
"""Seconds that the processes of runs have to end when the scheduler stops, which itself has two seconds."""


class ScheduleRunner:
    """Fires the schedules of this scheduler's file, and does their runs. One per scheduler.

    Args:
        name: of this scheduler, as its lease has it.
    """

    def __init__(self, store: Store, settings: Settings, name: str) -> None:
        self._store = store
        self._settings = settings
        self._name = name
        self._ttl_s = settings.leases.ttl_s
        self._renew_at = 0.0
        self._running: dict[RunKey, ScheduledCommand] = {}
        self._ended: dict[RunKey, tuple[ClaimedRun, Ending]] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._pipe: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._loop, name="trivet-schedules", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def reload(self, settings: Settings) -> None:
        """Use the schedules of these settings from the next look on."""
        self._settings = settings
        self._wake.set()

    def close(self) -> None:
        """Stop the runs and give them back, so that another scheduler, or this one started again, goes on with them."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        commands = list(self._running.values())
        for command in commands:
            command.ask_to_stop()
        until = time.monotonic() + STOP_S
        for command in commands:
            command.stop(until)
        if not self._thread.is_alive():  # else the database hangs, and leases run out by themselves
            self._give_back()
        self._running.clear()
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _give_back(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            self._record()
            if self._running:
                with self._store.write() as connection:
                    for run in self._running:
                        schedule_runs.release(self._store, connection, run, by=self._name)

    def look(self) -> None:
        """Record what has ended, keep what runs, and begin what is due.

        Raises:
            StoreUnavailable: the database does not answer. Everything is tried again at the next look.
        """
        self._collect()
        self._record()
        self._renew()
        if self._stopping.is_set():
            return
        settings = self._settings
        known = {schedule.name: schedule for schedule in settings.schedules}
        with self._store.read() as connection:
            if not schedules.work_is_due(self._store, connection, known):
                return
        with self._store.write() as connection:
            said = schedules.fire(self._store, connection, known)
            claimed = schedule_runs.claim(
                self._store, connection, known,
                by=self._name, ttl_s=self._ttl_s, limit=MAX_AT_ONCE - len(self._running),
                without={*self._running, *self._ended},
            )  # fmt: skip
        for line in said:
            log.warning("schedule %s", line)
        for run in claimed:
            self._begin(settings, known[run.key.name], run)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except StoreUnavailable:
                pass  # the dispatching thread reports it
            except Exception as error:  # recurring work must not end for good with one fault
                log.error("a fault of Trivet's own: %s", place_of(error))
            busy = self._settings.schedules or self._running or self._ended
            self._wake.wait(LOOK_S if busy else IDLE_LOOK_S)
            self._wake.clear()

    def _begin(self, settings: Settings, schedule: ScheduleSettings, run: ClaimedRun) -> None:
        if self._pipe is None:
            self._pipe = os.pipe()
        try:
            command = ScheduledCommand(settings, schedule, run, self._pipe[0])
        except (OSError, ValueError) as error:  # ValueError: an argument that no process can have
            where = getattr(error, "filename", None) or "its process"
            said = getattr(error, "strerror", None) or "its arguments are not ones that a process can have"
            self._ended[run.key] = run, Ending(None, f"The run cannot begin: {where}: {said}.", again=True)
            return
        self._running[run.key] = command
        log.info("schedule %s begins (process %d)", schedule.run_name(run.key.planned_at), command.pid)

    def _collect(self) -> None:
        for key, command in list(self._running.items()):
            ending = command.ending()
            if ending is not None:
                self._ended[key] = command.run, ending
                del self._running[key]

    def _record(self) -> None:
        """Record the ends of runs; those that fail may be tried again."""
        for key, (run, ending) in list(self._ended.items()):
            again = ending.again and run.failures + 1 < TRIES
            with self._store.write() as connection:
                if again:
                    after_s = AGAIN_AFTER_S[min(run.failures, len(AGAIN_AFTER_S) - 1)]
                    schedule_runs.release(
                        self._store, connection, key, by=self._name, after_s=after_s, error=ending.error
                    )
                else:
                    schedule_runs.end(
                        self._store, connection, key, by=self._name, result=ending.result, error=ending.error
                    )
            del self._ended[key]
            if ending.error is None:
                log.info("schedule %s is done: %s", key.name, ending.result)
            else:
                log.warning("schedule %s: %s%s", key.name, ending.error, " It is tried again." if again else "")

    def _renew(self) -> None:
        """Renew the leases on runs three times in their term. A run that another scheduler has by now is stopped here."""
        if not self._running or time.monotonic() < self._renew_at:
            return
        with self._store.write() as connection:
            lost = schedule_runs.renew(self._store, connection, self._running, by=self._name, ttl_s=self._ttl_s)
        self._renew_at = time.monotonic() + self._ttl_s / 3
        for key in lost:
            command = self._running.pop(key)
            command.ask_to_stop()
            command.stop(time.monotonic() + STOP_S)
            log.warning("schedule %s: another scheduler goes on with its run", key.name)
