"""Health of a Trivet: what is wrong with its processes and servers, what waits, and what blocks jobs."""

from functools import cached_property

import redis

from trivet.admin.backlog import Backlog, read_backlog
from trivet.admin.blockage import Blockage, blockage_of_batch, blockage_of_job
from trivet.admin.impairments import Impairment, read_impairments
from trivet.client.connections import Connections
from trivet_routing.liveness.troubles import Announced, announced
from trivet_routing.most_costs import MostCosts
from trivet_store.jobs.batches import Progress

BATCHES = 15
"""Batches in a backlog, those with most waiting jobs first."""


class Health:
    """Impairments of processes and servers, the backlog, and reasons for which jobs do not move."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def impairments(self) -> tuple[Impairment, ...]:
        """Return everything that is wrong with processes and servers now, the most general first.

            for one in admin.health.impairments():
                print(one.kind, one.text)

        A shared state that does not answer is one of them.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return read_impairments(self._connections.store, self._connections.settings, self._connections.redis)

    def announced(self) -> tuple[Announced, ...]:
        """Return the processes that announce in the shared state that they do no work, by name.

        It needs no database: it tells which processes noticed that the database is away.

            for one in admin.health.announced():
                print(one.process, one.trouble)

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        try:
            return tuple(announced(self._connections.redis))
        except redis.RedisError as error:
            raise self._connections.unavailable(error) from None

    def backlog(self, *, batches: int = BATCHES) -> Backlog:
        """Return how many jobs wait and are under way, by class, batch and route, and which processes are alive.

            print(admin.health.backlog().waiting)

        Args:
            batches: number of batches at most, those with most waiting jobs first.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return read_backlog(self._connections, self._costs, batches)

    def blockage_of_job(self, job_id: str, state: str) -> Blockage:
        """Return what blocks a job; nothing where it moves or has ended.

            job = client.job(job_id)
            print(*admin.health.blockage_of_job(job.id, job.state).notes)

        Args:
            state: the job's, as it was just read: a job that is on its way is blocked by processes alone.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return blockage_of_job(self._connections, job_id, state)

    def blockage_of_batch(self, progress: Progress) -> Blockage:
        """Return what blocks the jobs of a batch; nothing where they move or have ended.

            print(*admin.health.blockage_of_batch(client.batch("contracts").progress()).notes)

        Args:
            progress: of the batch, as it was just read.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return blockage_of_batch(self._connections, progress)

    @cached_property
    def _costs(self) -> MostCosts:
        return MostCosts()
