"""Processes that fell silent: their lease ran out without an orderly end.

A stopped process (SIGSTOP), a killed one and one that is cut off from the database look alike from here. Each is
remembered until it renews its lease, another takes its place, or `REMEMBERED_S` have passed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, text

from trivet_store.cluster.leases import ISOLATED, Lease
from trivet_store.database.engine import Store

REMEMBERED_S = 600.0
"""Seconds for which a process that never came back is reported."""


class Silent(NamedTuple):
    """A process whose lease ran out."""

    process: str
    part: str
    """`worker` or `scheduler`."""
    lane: str
    routes: tuple[str, ...]
    expired_at: float
    """Seconds since the epoch, by the database's clock."""
    covered: bool = False
    """Its jobs have been rescued, and other processes do its work: it blocks nothing."""


_REMEMBER = text(
    f"""
    INSERT INTO lost_processes (lease_id, process, part, lane, routes, expired_at)
    SELECT id, worker, part, lane, routes, expires_at FROM leases WHERE id = :lease_id AND lane <> '{ISOLATED}'
    """
)
_FORGET_OLD = text("DELETE FROM lost_processes WHERE expired_at < :before")
_FORGET = text("DELETE FROM lost_processes WHERE process = :process")
# a lease that ran out is kept until a scheduler has rescued its jobs
_SILENT = text(
    f"""
    SELECT worker AS process, part, lane, routes, expires_at AS expired_at, 0 AS rescued FROM leases
     WHERE expires_at < :now AND lane <> '{ISOLATED}'
    UNION ALL
    SELECT process, part, lane, routes, expired_at, 1 AS rescued FROM lost_processes WHERE expired_at >= :since
    """
)


def remember(store: Store, connection: Connection, lease_id: str) -> None:
    """Remember the process of a lease that ran out and is about to be dropped; forget those of long ago."""
    connection.execute(_FORGET_OLD, {"before": store.now(connection) - REMEMBERED_S})
    connection.execute(_REMEMBER, {"lease_id": lease_id})


def is_back(connection: Connection, process: str) -> None:
    """Forget a process that lives again."""
    connection.execute(_FORGET, {"process": process})


def silent(store: Store, connection: Connection, living: Iterable[Lease], ttl_s: float) -> list[Silent]:
    """Return the processes that fell silent and were not replaced, by name.

    Args:
        living: workers and schedulers that are alive.
        ttl_s: seconds that a lease lasts: its holder gave its last sign of life that long before the lease ran out.
    """
    now = store.now(connection)
    alive = list(living)
    found = []
    for row in connection.execute(_SILENT, {"now": now, "since": now - REMEMBERED_S}):
        one = Silent(row.process, row.part, row.lane, tuple(orjson.loads(row.routes)), row.expired_at)
        found.append(one._replace(covered=bool(row.rescued) and _is_covered(one, alive)))
    return _not_replaced(found, alive, ttl_s) if found else []


def _is_covered(one: Silent, living: Iterable[Lease]) -> bool:
    """Return whether others take the work of all its routes in its lane; of a scheduler, whether another one works."""
    peers = [lease for lease in living if (lease.part, lease.lane) == (one.part, one.lane) and not lease.impairment]
    return bool(peers) and all(any(lease.takes(route) for lease in peers) for route in one.routes)


def _not_replaced(found: Sequence[Silent], living: list[Lease], ttl_s: float) -> list[Silent]:
    """Leave out each that was replaced: another of its kind has been started since its last sign of life."""
    left = []
    for one in sorted(found, key=lambda one: one.expired_at):
        kind = (one.part, one.lane, set(one.routes))
        heard_at = one.expired_at - ttl_s
        for lease in living:
            if lease.worker == one.process or (
                (lease.part, lease.lane, set(lease.routes)) == kind and lease.started_at > heard_at
            ):
                living.remove(lease)
                break
        else:
            left.append(one)
    return sorted(left)
