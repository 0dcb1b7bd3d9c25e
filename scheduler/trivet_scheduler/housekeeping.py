"""Periodic work on jobs: due again, not claimed in time, held by a dead process, past the deadline."""

import logging
import time
from collections.abc import Callable, Sequence

import redis
from sqlalchemy import Connection

from trivet_routing.limits import Limits
from trivet_store.database.batched_scan import turn
from trivet_store.database.engine import BULK_ROWS, SLOW_S, Store
from trivet_store.jobs import cancelling, coalescing, rescuing, separating, upkeep
from trivet_tasks.config.settings import LeaseSettings

log = logging.getLogger("trivet.scheduler")

FLOWS_AT_ONCE = 100
BATCHES_AT_ONCE = 20
SEPARATE_S = 0.5
"""Seconds for which one run moves jobs to the flows of their tenants."""
JUMP_S = 2.0
"""Seconds by which the database's clock may gain on ours between two looks; more is a jump."""
HEARTBEATS = 3
"""Heartbeats for which leases may be renewed once a database that hung answers again."""
RENEWED_WITHIN_S = 1.0
"""Seconds after it answers again by which every worker has tried to renew its lease."""


class Housekeeping:
    """Housekeeping in short transactions. Every scheduler does it; several at once do not disturb each other."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        tell_finished: Callable[[Sequence[str], Sequence[int]], None],
        leases: LeaseSettings,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Create it; nothing is done yet.

        Args:
            beat: called after each of many transactions.
        """
        self._beat = beat
        self._store = store
        self._limits = limits
        self._tell_finished = tell_finished
        self._leases = leases
        self._rescue_from = 0.0
        self._ahead: float | None = None

    def spare_leases(self) -> None:
        """Give leases one whole term to be renewed: they may have run out only because renewing was impossible."""
        self._rescue_from = time.monotonic() + self._leases.ttl_s + RENEWED_WITHIN_S

    def run(self) -> None:
        """Do the work that is due; a single read when there is none.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._store.read() as connection:
            due = upkeep.due(self._store, connection)
        self._look_at_clock()
        if due.delayed:
            self._in_groups(upkeep.wake_delayed)
        if due.unclaimed:
            self._in_groups(upkeep.recall_unclaimed)
        if due.drained:
            self._in_groups(upkeep.empty_drained)
        if due.strays:
            self._separate()
        if due.paused:
            self._in_groups(upkeep.recall_paused)
        if due.coalesced:
            self._in_groups(coalescing.look_after)
        if due.dead and time.monotonic() >= max(self._rescue_from, self._answered_for_long()):
            self._rescue()
        if due.late:
            self._expire()
        if due.cancelled:
            self._end_cancelled()
        if due.empty:
            self._retire_flows()

    def _answered_for_long(self) -> float:
        """Return the time by which leases could be renewed after the database hung, on the monotonic clock."""
        return self._store.slow_at + HEARTBEATS * self._leases.heartbeat_s

    def _look_at_clock(self) -> None:
        """Notice that the database's clock jumped ahead, which makes every lease look dead."""
        before, self._ahead = self._ahead, self._store.clock.ahead
        if before is None or self._ahead is None or abs(self._ahead - before) <= JUMP_S:
            return
        log.warning("the database's clock jumped by %+.1f s; leases get one term to be renewed", self._ahead - before)
        self.spare_leases()

    def _in_groups(self, work: Callable[[Store, Connection], int]) -> None:
        while True:
            with self._store.write() as connection:
                done = work(self._store, connection)
            self._beat()
            if done < BULK_ROWS:
                return

    def _separate(self) -> None:
        """Move jobs to the flows of their tenants, for a while: there may be a million, and dispatching goes on."""
        with self._store.read() as connection:
            found = separating.strays(connection)
        for stray in found:
            moved = separating.MOVED_AT_ONCE
            until = time.monotonic() + SEPARATE_S / len(found)
            while moved == separating.MOVED_AT_ONCE and time.monotonic() < until:
                with turn(self._store) as connection:
                    moved = separating.separate(connection, stray)
                self._beat()

    def _rescue(self) -> None:
        seen: set[str] = set()
        while True:
            with self._store.write() as connection:
                lease = rescuing.hold_dead(self._store, connection, seen)
                if lease is None or self._store.waited_s > SLOW_S:
                    return  # after a long wait: the living waited, too, and renew their leases now
                rescued = rescuing.rescue(self._store, connection, lease)
            self._beat()
            seen.add(lease)
            if rescued.jobs or rescued.dropped:
                log.warning("worker lease %s ran out: %d jobs rescued", lease, rescued.jobs)
            if rescued.dropped:
                self._release(lease)

    def _release(self, lease: str) -> None:
        try:
            self._limits.release_all(lease)
        except redis.RedisError as error:
            log.warning("permits of the lease %s expire by themselves: %s", lease, error)

    def _expire(self) -> None:
        while True:
            with self._store.write() as connection:
                ids, of_batches = upkeep.expire_late(self._store, connection)
            self._beat()
            if ids:
                self._tell_finished(ids, of_batches)
            if len(ids) < BULK_ROWS:
                return

    def _end_cancelled(self) -> None:
        with self._store.read() as connection:
            cancelled = cancelling.cancelled_unended(connection, BATCHES_AT_ONCE)
        for batch_id in cancelled:
            while True:
                with self._store.write() as connection:
                    ids = cancelling.cancel_waiting(self._store, connection, batch_id)
                self._beat()
                if ids:
                    self._tell_finished(ids, [batch_id])
                if len(ids) < BULK_ROWS:
                    break

    def _retire_flows(self) -> None:
        with self._store.write() as connection:
            for flow_id in upkeep.empty_flows(connection, FLOWS_AT_ONCE):
                upkeep.retire_if_empty(connection, flow_id)
