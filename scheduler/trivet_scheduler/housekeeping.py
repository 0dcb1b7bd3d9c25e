"""The periodic work on jobs: what is due again, what nobody took, what died, what is too late."""

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from trivet_tasks.store import dispatching, rescuing
from trivet_tasks.store.engine import BULK_ROWS, Store

log = logging.getLogger("trivet.scheduler")

FLOWS_AT_ONCE = 100


class Housekeeping:
    """Done by every scheduler, in short transactions; two of them at once do not get in each other's way."""

    def __init__(self, store: Store, tell_finished: Callable[[Sequence[str], Sequence[int]], None]) -> None:
        self._store = store
        self._tell_finished = tell_finished

    def run(self) -> None:
        """Do what is due; a single read when nothing is. StoreUnavailable when the database does not answer."""
        with self._store.read() as connection:
            due = rescuing.due(self._store, connection)
        if due.delayed:
            self._in_groups(rescuing.wake_delayed)
        if due.untaken:
            self._in_groups(rescuing.recall_untaken)
        if due.dead:
            self._rescue()
        if due.late:
            self._expire()
        if due.empty:
            self._retire_flows()

    def _in_groups(self, work: Callable[[Store, Connection], int]) -> None:
        while True:
            with self._store.write() as connection:
                done = work(self._store, connection)
            if done < BULK_ROWS:
                return

    def _rescue(self) -> None:
        with self._store.write() as connection:
            rescued = rescuing.rescue_dead(self._store, connection)
        for lease, jobs in rescued.items():
            log.warning("worker lease %s ran out: %d jobs rescued", lease, jobs)

    def _expire(self) -> None:
        while True:
            with self._store.write() as connection:
                ids, batches = rescuing.expire_late(self._store, connection)
            if ids:
                self._tell_finished(ids, batches)
            if len(ids) < BULK_ROWS:
                return

    def _retire_flows(self) -> None:
        with self._store.write() as connection:
            for flow_id in dispatching.empty_flows(connection, FLOWS_AT_ONCE):
                dispatching.retire_if_empty(self._store, connection, flow_id)
