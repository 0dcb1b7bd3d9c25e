"""Health of a Trivet: impairments of its processes and servers, and its backlog."""

import threading

import redis

from trivet.admin.backlog import Backlog, read_backlog
from trivet.admin.impairments import Impairment, read_impairments
from trivet.client.connections import Connections
from trivet_routing.liveness.process_impairments import Announced, announced
from trivet_store.cluster import health

BATCHES = 15
"""Batches in a backlog, those with most waiting jobs first."""


class Health:
    """Impairments of processes and servers, and the backlog."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._reading = threading.Lock()

    def impairments(self) -> tuple[Impairment, ...]:
        """Return all present impairments of processes and servers, the most general first.

            for one in admin.health.impairments():
                print(one.kind, one.text)

        A shared state that does not answer is one of them.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return read_impairments(self._connections.store, self._connections.settings, self._connections.redis)

    def announced(self) -> tuple[Announced, ...]:
        """Return the processes that announce in Redis that they do no work, by name.

        It needs no database: it tells which processes noticed that the database is away.

            for one in admin.health.announced():
                print(one.process, one.impairment)

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        try:
            return tuple(announced(self._connections.redis))
        except redis.RedisError as error:
            raise self._connections.unavailable(error) from None

    def forget(self, *routes: str) -> None:
        """Reset the health of routes: failures, pauses and learned limits. Notes no event.

        For tests that put a system back; an operator uses `admin.routes.restore`.

            admin.health.forget("bedrock-us-east-1")

        Raises:
            BrokerUnavailable: the shared state does not answer.
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        connections = self._connections
        try:
            for route in routes:
                connections.limits.forget(route)
        except redis.RedisError as error:
            raise connections.unavailable(error) from None
        with connections.store.write() as connection:
            for route in routes:
                health.forget(connection, route, connections.store.now(connection))

    def backlog(self, *, batches: int = BATCHES) -> Backlog:
        """Return the numbers of jobs waiting and under way, by class, batch and route, and the living processes.

            print(admin.health.backlog().waiting)

        Args:
            batches: number of batches at most, those with most waiting jobs first.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        with self._reading:
            return read_backlog(self._connections, batches)
