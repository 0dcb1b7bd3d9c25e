"""Attempts: provider calls counted by route with the failovers between them, and all of them one by one."""

import threading
from collections.abc import Mapping
from typing import NamedTuple

from trivet.client.connections import Connections
from trivet_store.reports.attempts import (
    AttemptCounter,
    AttemptFate,
    JobCount,
    RouteAttempts,
    attempt_fates,
    job_count,
)


class AttemptBook(NamedTuple):
    """All attempts and jobs on record, read in one transaction."""

    jobs: JobCount
    attempts: tuple[AttemptFate, ...]
    by_route: Mapping[str, RouteAttempts]


class Attempts:
    """Reports on provider calls. Those of one job are in `admin.jobs.life`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._counter = AttemptCounter()
        self._lock = threading.Lock()

    def by_route(self) -> Mapping[str, RouteAttempts]:
        """Return all attempts so far, counted by route. Cheap to repeat: settled ones are not read again.

            sum(route.left for route in admin.attempts.by_route().values())  # failovers

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        store = self._connections.store
        with self._lock, store.read() as connection:
            return self._counter.read(connection, store.now(connection))

    def all(self) -> AttemptBook:
        """Return every attempt, to compare with another record. Reads whole tables: for small databases.

            unsettled = [one.id for one in admin.attempts.all().attempts if one.outcome is None]

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        store = self._connections.store
        with store.read() as connection:
            return AttemptBook(
                job_count(connection),
                tuple(attempt_fates(connection)),
                AttemptCounter().read(connection, store.now(connection)),
            )
